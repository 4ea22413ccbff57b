import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streetvision import imaging
from streetvision.data.build import SourcePicture, build
from streetvision.data.folder import FolderSource
from streetvision.data.manifest import Manifest
from streetvision.errors import DataError

Encode = Callable[..., bytes]
Source = Callable[..., Any]


def picture(data: bytes, label: int, origin: str, group: str | None = None) -> SourcePicture:
    return SourcePicture(data=data, label=label, group=group or origin, generator="camera", origin=origin)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_photos_become_a_manifest_with_both_classes_in_every_split(photos: Path, tmp_path: Path) -> None:
    report = build(FolderSource(photos), tmp_path / "out", seed=0)
    manifest = Manifest.read(tmp_path / "out")
    assert report.pictures == len(manifest.pictures) == 20
    assert report.version == manifest.version
    assert {(split, label) for split, _, label in report.counts} == {
        (split, label) for split in ("train", "validation", "challenge") for label in (0, 1)
    }
    assert sum(report.counts.values()) == 20
    assert sum(report.groups.values()) == 20
    stored = {manifest.read_bytes(row) for row in manifest.pictures}
    assert stored == {file.read_bytes() for file in photos.glob("*/*.jpg")}
    assert all(row.description == ("Roadwork" if row.label else "") for row in manifest.pictures)


def test_same_source_and_seed_give_the_same_version(list_source: Source, tmp_path: Path) -> None:
    first = build(list_source(), tmp_path / "a", seed=0)
    source = list_source()
    source.pictures.reverse()
    assert build(source, tmp_path / "b", seed=0).version == first.version
    assert build(list_source(), tmp_path / "c", seed=1).version != first.version


def test_unusable_pictures_are_left_out_with_their_sentence(
    list_source: Source, encoded: Encode, tmp_path: Path
) -> None:
    source = list_source()
    whole = encoded(900)
    tiny = io.BytesIO()
    Image.new("RGB", (1, 1)).save(tiny, "PNG")
    bad = {
        "text.jpg": b"no picture at all",
        "empty.jpg": b"",
        "truncated.jpg": whole[: len(whole) // 2],
        "corrupt.png": encoded(901, "PNG")[:60] + b"\0" * 40,
        "tiny.png": tiny.getvalue(),
        "huge.png": png_of_size(10_000, 5_000),
        "bitmap.bmp": encoded(902, "BMP"),
    }
    source.pictures += [picture(data, 0, origin) for origin, data in bad.items()]
    report = build(source, tmp_path / "out", seed=0)
    assert report.pictures == 48
    reasons = {item.origin: item.reason for item in report.rejected}
    assert list(reasons) == list(bad)
    assert reasons["text.jpg"] == "17 bytes are no JPEG, PNG or WebP picture"
    assert "damaged" in reasons["truncated.jpg"]
    assert reasons["tiny.png"] == "picture has 1 x 1 pixels, expected at least 32 on each side"
    assert "50.0 megapixels, expected at most 40" in reasons["huge.png"]


def test_every_mode_and_format_is_kept_untouched(list_source: Source, encoded: Encode, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    depth = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (48, 64), dtype=np.uint16)).save(depth, "PNG")
    odd = {
        "cmyk.jpg": encoded(900, mode="CMYK"),
        "grey.jpg": encoded(901, mode="L"),
        "rotated.jpg": encoded(902, exif=exif),
        "alpha.png": encoded(903, "PNG", mode="RGBA"),
        "palette.png": encoded(904, "PNG", mode="P"),
        "one-bit.png": encoded(905, "PNG", mode="1"),
        "deep.png": depth.getvalue(),
        "web.webp": encoded(906, "WEBP"),
    }
    source = list_source()
    source.pictures += [picture(data, 1, origin) for origin, data in odd.items()]
    report = build(source, tmp_path / "out", seed=0)
    manifest = Manifest.read(tmp_path / "out")
    assert report.rejected == ()
    by_origin = {row.group: row for row in manifest.pictures}
    for origin, data in odd.items():
        assert manifest.read_bytes(by_origin[origin]) == data
        assert imaging.decode(data).ndim == 3
    assert by_origin["web.webp"].path.endswith(".webp")
    assert by_origin["deep.png"].format == "PNG"


def test_exact_duplicates_are_kept_once(list_source: Source, tmp_path: Path) -> None:
    source = list_source()
    source.pictures += [dataclasses.replace(row, origin="copy", group="copy") for row in source.pictures[:5]]
    report = build(source, tmp_path / "out", seed=0)
    assert (report.pictures, report.duplicates, report.rejected) == (48, 5, ())


def test_one_picture_with_both_labels_is_dropped_altogether(list_source: Source, tmp_path: Path) -> None:
    source = list_source()
    twin = source.pictures[0]
    source.pictures.append(dataclasses.replace(twin, label=1 - twin.label, origin="contradiction"))
    source.pictures.append(dataclasses.replace(twin, origin="third"))
    report = build(source, tmp_path / "out", seed=0)
    assert report.pictures == 47
    assert [item.origin for item in report.rejected] == [twin.origin, "contradiction", "third"]
    assert report.rejected[0].reason == "the same picture has the other label as `contradiction`"
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 47


def test_near_duplicates_and_groups_never_straddle_splits(list_source: Source, encoded: Encode, tmp_path: Path) -> None:
    source = list_source(40)
    source.pictures += [picture(encoded(seed, quality=40), seed % 2, f"again {seed}") for seed in range(20)]
    chain = [picture(encoded(1000 + step), 1, f"frame {step}", group="drive") for step in range(5)]
    source.pictures += [*chain, picture(encoded(1004, quality=30), 1, "last frame, posted alone")]
    report = build(source, tmp_path / "out", seed=0)
    assert report.pictures == 106
    assert report.near_duplicates == 21
    manifest = Manifest.read(tmp_path / "out")  # reading refuses a group in two splits
    groups = {row.sha256: row.group for row in manifest.pictures}
    assert len(set(groups.values())) == 81
    assert sum(row.group == "drive" for row in manifest.pictures) == 6


def test_more_than_half_unusable_is_refused(list_source: Source, tmp_path: Path) -> None:
    source = list_source(5)
    source.pictures += [picture(b"x", 0, f"{number}.jpg") for number in range(11)]
    with pytest.raises(DataError, match=r"11 of 21 pictures from `list` cannot be used, first `0.jpg`: 1 bytes"):
        build(source, tmp_path / "out", seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("label", "name"), [(0, "roadwork"), (1, "none")])
def test_one_class_left_is_refused(list_source: Source, tmp_path: Path, label: int, name: str) -> None:
    source = list_source(5)
    source.pictures = [row for row in source.pictures if row.label == label] + [picture(b"x", 1 - label, "x")]
    with pytest.raises(DataError, match=f"no usable picture of class `{name}` among 6 .* expected both classes"):
        build(source, tmp_path / "out", seed=0)


def test_empty_source_is_refused(list_source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable picture"):
        build(list_source(0), tmp_path / "out", seed=0)


def test_too_few_places_are_refused_with_the_minimum(list_source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 3 groups of each class"):
        build(list_source(2), tmp_path / "out", seed=0)
