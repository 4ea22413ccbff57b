import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from streetvision.data.build import build
from streetvision.data.folder import FolderSource
from streetvision.data.in_place import open_pictures
from streetvision.errors import DataError

Scene = Callable[..., NDArray[np.uint8]]


def encoded(image: NDArray[np.uint8], *, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def test_photos_stay_where_they_are_and_are_read_from_there(photos: Path) -> None:
    before = sorted(photos.rglob("*"))
    pictures, rejected = open_pictures(photos)
    assert sorted(photos.rglob("*")) == before
    assert rejected == ()
    assert {picture.path for picture in pictures.pictures} == {item.origin for item in FolderSource(photos)}
    for picture in pictures.pictures:
        assert pictures.read_bytes(picture) == (photos / picture.path).read_bytes()
        assert (picture.source, picture.split, picture.format) == ("real", "", "JPEG")
        assert bool(picture.description) == bool(picture.label)


def test_photos_are_the_rows_that_a_build_would_give(photos: Path, tmp_path: Path) -> None:
    build(FolderSource(photos), tmp_path / "data", seed=0)
    built, _ = open_pictures(tmp_path / "data")
    in_place, _ = open_pictures(photos)
    assert [(row.sha256, row.label, row.group, row.phash) for row in in_place.pictures] == [
        (row.sha256, row.label, row.group, row.phash) for row in built.pictures
    ]
    assert open_pictures(tmp_path / "data" / "manifest.parquet")[0] == built


def test_near_duplicates_share_a_group_and_exact_ones_count_once(
    photos: Path, tmp_path: Path, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for name, quality in (("a.jpg", 95), ("b.jpg", 60), ("c.jpg", 95)):
        (tmp_path / "roadwork").mkdir(exist_ok=True)
        (tmp_path / "roadwork" / name).write_bytes(encoded(scene(1000), quality=quality))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "d.jpg").write_bytes(encoded(scene(1001)))
    (tmp_path / "none" / "e.bmp").write_bytes(b"BM")
    with caplog.at_level(logging.WARNING):
        pictures, _ = open_pictures(tmp_path)
    groups = {picture.path: picture.group for picture in pictures.pictures}
    assert set(groups) == {"roadwork/a.jpg", "roadwork/b.jpg", "none/d.jpg"}
    assert groups["roadwork/a.jpg"] == groups["roadwork/b.jpg"] != groups["none/d.jpg"]
    assert "left out exact duplicates: 1" in caplog.text
    assert "left out files that are no pictures we read: 1 of kind `.bmp`" in caplog.text


def test_a_photo_with_both_labels_is_left_out_and_said(tmp_path: Path, scene: Scene) -> None:
    for name, seed in (("roadwork/a.jpg", 1), ("roadwork/b.jpg", 2), ("none/c.jpg", 1), ("none/d.jpg", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(scene(seed)))
    pictures, rejected = open_pictures(tmp_path)
    assert {picture.path for picture in pictures.pictures} == {"roadwork/b.jpg", "none/d.jpg"}
    assert {item.origin for item in rejected} == {"roadwork/a.jpg", "none/c.jpg"}


@pytest.mark.parametrize("name", ["missing", "manifest.parquet"])
def test_what_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"does not exist|no `manifest\.parquet` in"):
        open_pictures(tmp_path / name)
