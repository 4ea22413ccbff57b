import collections
import hashlib
from pathlib import Path

import numpy as np
import pytest

from streetvision import imaging
from streetvision.challenge_set import freeze
from streetvision.data.manifest import Manifest
from streetvision.errors import DataError
from streetvision.subnet import challenges
from streetvision.training.views import render, renderer, version_of_views, views_of

SHA256 = hashlib.sha256(b"picture").hexdigest()


@pytest.fixture(scope="module")
def photo() -> bytes:
    return imaging.encode_jpeg(np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8))


@pytest.mark.parametrize("regime", ["R1", "R2"])
def test_a_view_is_what_a_validator_would_send(photo: bytes, regime: str) -> None:
    views = views_of(SHA256, count=4, regime=regime)
    images = render(photo, "JPEG", views, regime, 224)
    assert images.shape == (4, 224, 224, 3)
    for view, image in zip(views, images, strict=True):
        wire = challenges.view(photo, seed=view.seed, regime=regime, level=view.level)
        np.testing.assert_array_equal(image, imaging.model_input(wire, 224))


def test_training_views_and_challenge_sets_are_drawn_by_one_function(
    photo: bytes, challenge_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = imaging.encode_jpeg(np.full((224, 224, 3), 40, dtype=np.uint8))
    monkeypatch.setattr(challenges, "draw_challenge", lambda *_, **__: (challenges.Transform(level=0), jpeg))
    assert np.all(render(photo, "JPEG", views_of(SHA256, count=4, regime="R1"), "R1", 224) == 40)
    frozen = freeze(challenge_manifest, tmp_path / "set", count=12, seed=0)
    assert {frozen.read_bytes(row) for row in frozen.rows} == {jpeg}


def test_a_picture_comes_from_the_cache_once_for_all_its_views(photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    cached = challenges.cached_picture
    monkeypatch.setattr(challenges, "cached_picture", lambda data, format: decoded.append(data) or cached(data, format))
    render(photo, "JPEG", views_of(SHA256, count=8, regime="R1"), "R1", 224)
    assert decoded == [photo]


def test_views_are_the_same_in_every_run_and_others_for_every_picture() -> None:
    assert views_of(SHA256, count=4, regime="R1") == views_of(SHA256, count=4, regime="R1")
    other = hashlib.sha256(b"other").hexdigest()
    seeds = [view.seed for sha256 in (SHA256, other) for view in views_of(sha256, count=8, regime="R1")]
    assert len(set(seeds)) == 16


def test_more_views_keep_the_earlier_ones() -> None:
    assert views_of(SHA256, count=8, regime="R1")[:4] == views_of(SHA256, count=4, regime="R1")


def test_a_multiple_of_four_views_has_every_level_alike() -> None:
    assert sorted(view.level for view in views_of(SHA256, count=8, regime="R1")) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_another_number_of_views_draws_its_levels() -> None:
    levels = collections.Counter(
        views_of(hashlib.sha256(bytes([i])).hexdigest(), count=1, regime="R1")[0].level for i in range(200)
    )
    assert sorted(levels) == [0, 1, 2, 3]
    assert min(levels.values()) > 25


def test_a_regime_without_augmentation_has_one_view(photo: bytes) -> None:
    [view] = views_of(SHA256, count=4, regime="R3")
    assert view.level == 0
    assert render(photo, "JPEG", [view], "R3", 64).shape == (1, 64, 64, 3)


def test_an_undecodable_picture_is_named() -> None:
    with pytest.raises(DataError, match=f"picture `{SHA256}` cannot be trained on"):
        render(b"no picture", "JPEG", views_of(SHA256, count=1, regime="R1"), "R1", 224)


def test_the_version_of_views_is_stable() -> None:
    assert version_of_views() == version_of_views()


@pytest.mark.slow  # starts processes, which import what pytest runs
def test_other_processes_draw_the_same_views(photo: bytes) -> None:
    views = views_of(SHA256, count=4, regime="R1")
    with renderer(2) as render_elsewhere:
        elsewhere = render_elsewhere(photo, "JPEG", views, "R1", 224)
        with pytest.raises(DataError, match=SHA256):
            render_elsewhere(b"no picture", "JPEG", views, "R1", 224)
    np.testing.assert_array_equal(elsewhere, render(photo, "JPEG", views, "R1", 224))
