from pathlib import Path

import numpy as np
import pytest

from streetvision.data.manifest import Manifest
from streetvision.errors import DataError, StorageError
from streetvision.models.backbones import Backbone
from streetvision.training import features
from streetvision.training.encode import encoder_of
from streetvision.training.features import ViewFeatures, extract
from streetvision.training.store import FeatureStore
from streetvision.training.views import render, views_of


def run(manifest: Manifest, backbone: Backbone, cache_dir: Path, *, count: int = 6, regime: str = "R1") -> ViewFeatures:
    return extract(
        manifest,
        manifest.pictures[:count],
        backbone,
        views=4,
        regime=regime,
        cache_dir=cache_dir,
        workers=2,
        progress=False,
    )


def test_a_second_run_computes_nothing_and_gives_the_same(
    manifest: Manifest, backbone: Backbone, tmp_path: Path
) -> None:
    first, second = run(manifest, backbone, tmp_path), run(manifest, backbone, tmp_path)
    assert (first.computed, second.computed) == (24, 0)
    np.testing.assert_array_equal(first.values, second.values)
    assert first.values.shape == (24, backbone.width)
    assert np.isfinite(first.values).all()
    assert len(np.unique(first.values.round(5), axis=0)) == 24
    assert first.picture.tolist() == [index for index in range(6) for _ in range(4)]
    assert sorted(first.level.tolist()) == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6


def test_every_row_holds_the_features_of_its_own_view(manifest: Manifest, backbone: Backbone, tmp_path: Path) -> None:
    computed = run(manifest, backbone, tmp_path)
    encoder = encoder_of(backbone, cache_dir=tmp_path)
    for index, picture in enumerate(manifest.pictures[:6]):
        views = views_of(picture.sha256, count=4, regime="R1")
        images = render(manifest.read_bytes(picture), "JPEG", views, "R1", 224)
        rows = computed.picture == index
        np.testing.assert_allclose(computed.values[rows], encoder.encode(images), atol=1e-5)
        assert computed.level[rows].tolist() == [view.level for view in views]


def test_only_new_pictures_are_computed(manifest: Manifest, backbone: Backbone, tmp_path: Path) -> None:
    fewer = run(manifest, backbone, tmp_path)
    more = run(manifest, backbone, tmp_path, count=8)
    assert more.computed == 8
    np.testing.assert_array_equal(more.values[:24], fewer.values)


def test_another_regime_has_features_of_its_own(manifest: Manifest, backbone: Backbone, tmp_path: Path) -> None:
    run(manifest, backbone, tmp_path)
    assert run(manifest, backbone, tmp_path, regime="R2").computed == 24


def test_a_damaged_shard_is_computed_again(manifest: Manifest, backbone: Backbone, tmp_path: Path) -> None:
    first = run(manifest, backbone, tmp_path)
    [shard] = tmp_path.glob("features/*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    again = run(manifest, backbone, tmp_path)
    assert again.computed == 24
    np.testing.assert_array_equal(again.values, first.values)


def test_a_kill_loses_at_most_the_shard_in_the_making(
    manifest: Manifest, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_SHARD_VIEWS", 8)
    add = FeatureStore.add

    def fail_at_the_third(store: FeatureStore, keys: list[bytes], values: np.ndarray) -> None:
        if len(list(store.folder.glob("*.safetensors"))) == 2:
            raise StorageError("the disk is full")
        add(store, keys, values)

    with monkeypatch.context() as patched:
        patched.setattr(FeatureStore, "add", fail_at_the_third)
        with pytest.raises(StorageError):
            run(manifest, backbone, tmp_path)
    assert run(manifest, backbone, tmp_path).computed == 24 - 16


def test_a_missing_picture_is_named(make_manifest, backbone: Backbone, tmp_path: Path) -> None:
    manifest = make_manifest(train=2, validation=2)
    missing = manifest.pictures[0]
    (manifest.root / missing.path).unlink()
    with pytest.raises(DataError, match=missing.sha256):
        run(manifest, backbone, tmp_path)
