import hashlib
from pathlib import Path

import numpy as np
import pytest

from streetvision.training.store import FeatureStore

KEYS = [hashlib.sha256(bytes([i])).digest() for i in range(10)]
VALUES = np.random.default_rng(0).random((10, 6), dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features", width=6)
    store.add(KEYS[:4], VALUES[:4])
    store.add(KEYS[4:8], VALUES[4:8])
    return store


def test_features_come_back_in_the_order_asked_for(store: FeatureStore) -> None:
    values, found = store.read(KEYS[7::-1])
    assert found.all()
    np.testing.assert_array_equal(values, VALUES[7::-1])


def test_what_was_never_added_is_not_found(store: FeatureStore) -> None:
    assert store.read(KEYS)[1].tolist() == [True] * 8 + [False] * 2


def test_an_empty_cache_finds_nothing(tmp_path: Path) -> None:
    assert not FeatureStore(tmp_path / "nowhere", width=6).read(KEYS)[1].any()


@pytest.mark.parametrize("damage", ["flipped bit", "truncated"])
def test_a_damaged_shard_is_dropped_and_only_its_features_are_lost(store: FeatureStore, damage: str) -> None:
    shard = sorted(store.folder.iterdir())[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content if damage == "flipped bit" else content[:-9])
    values, found = store.read(KEYS[:8])
    assert found.sum() == 4
    np.testing.assert_array_equal(values[found], VALUES[:8][found])
    assert not shard.exists()


def test_a_shard_in_the_making_is_not_read(store: FeatureStore) -> None:
    (store.folder / ".abc.safetensors.1.tmp").write_bytes(b"half")
    assert store.read(KEYS[:8])[1].all()


def test_features_of_another_width_are_not_taken(store: FeatureStore) -> None:
    assert not FeatureStore(store.folder, width=5).read(KEYS)[1].any()
