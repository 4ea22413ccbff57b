"""The manifest: which pictures there are, what they show, and which split each belongs to.

A manifest is a folder: `manifest.parquet` with one row per picture and the pictures beside it, named by their
content (`images/<first two digits>/<sha256>.<extension>`). It is written once, as a whole, and never edited.
"""

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streetvision import atomic
from streetvision.errors import DataError

FILE_NAME = "manifest.parquet"
SPLITS = ("train", "validation", "challenge")
SOURCES = ("real", "t2i", "i2i")
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # format: extension
DEFAULT_DESCRIPTION = "Roadwork"  # validators skip a positive picture without a description

SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("generator", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=True),
        pa.field("phash", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("label_origin", pa.string(), nullable=False),
        pa.field("labelled_by", pa.string(), nullable=False),
        pa.field("labelled_at", pa.string(), nullable=False),
    ]
)

_HINT = "build the manifest again with `streetvision data build`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One row of the manifest.

    Attributes:
        sha256: hex digest of the encoded picture, unique in its manifest.
        path: the picture's file relative to the manifest's folder, with `/`.
        label: 1 shows active roadwork, 0 does not.
        source: the role it plays among the subnet's pictures: `real`, `t2i` or `i2i`.
        generator: who drew it: `camera`, `procedural`, `sdxl` ...
        group: pictures of one scene, drive or origin; a group lies in one split.
        split: `train`, `validation` or `challenge`.
        format: Pillow's name of the encoding: `JPEG`, `PNG` or `WEBP`.
        description: what is seen; non-empty if and only if the label is 1, as validators filter.
        prompt: the text a generator was given, else empty.
        seed: the seed a generator was given, else null.
        phash: perceptual hash of the picture as hex digits (`streetvision.data.dedupe`).
        weight: weight of the picture in training, above 0.
        label_origin: `source`, `human` or `pseudo`.
        labelled_by: person or model that set the label, where known.
        labelled_at: ISO time of the label, where known.
    """

    sha256: str
    path: str
    label: int
    source: str
    generator: str
    group: str
    split: str
    format: str
    description: str
    prompt: str
    seed: int | None
    phash: str
    weight: float = 1.0
    label_origin: str = "source"
    labelled_by: str = ""
    labelled_at: str = ""


def image_path(sha256: str, encoding: str) -> str:
    """Path of a picture relative to its manifest's folder."""
    return f"images/{sha256[:2]}/{sha256}.{EXTENSIONS[encoding]}"


@dataclass(frozen=True)
class Manifest:
    """The pictures of one version of the data, in canonical order (by sha256)."""

    root: Path
    pictures: tuple[Picture, ...]

    @classmethod
    def read(cls, root: Path) -> "Manifest":
        """The manifest in folder `root`, every row checked and every picture present.

        Raises:
            DataError: no manifest there, an unexpected column or value, or a picture that is missing.
        """
        file = root / FILE_NAME
        if not file.is_file():
            raise DataError(f"no `{FILE_NAME}` in `{root}`, expected a manifest folder", hint=_HINT)
        try:
            table = pq.read_table(io.BytesIO(file.read_bytes()))  # from memory: no partitions read out of folder names
        except (OSError, pa.ArrowException) as err:
            raise DataError(f"cannot read `{file}` as Parquet: {err}", hint=_HINT) from err
        if table.column_names != SCHEMA.names:
            missing = [name for name in SCHEMA.names if name not in table.column_names]
            extra = [name for name in table.column_names if name not in SCHEMA.names]
            detail = "; ".join(
                f"{word} {', '.join(f'`{name}`' for name in names)}"
                for word, names in (("missing", missing), ("unknown", extra))
                if names
            )
            raise DataError(
                f"`{file}` has not the columns of a manifest ({detail or 'they stand in another order'})", hint=_HINT
            )
        try:
            rows: list[dict[str, Any]] = table.cast(SCHEMA).to_pylist()
        except (pa.ArrowException, ValueError) as err:
            raise DataError(f"`{file}` has a column of another type than a manifest: {err}", hint=_HINT) from err
        pictures = [Picture(**row) for row in rows]
        _check(pictures, str(file))
        for picture in pictures:
            if not (root / picture.path).is_file():
                raise DataError(f"picture `{picture.path}` of `{file}` is missing", hint=_HINT)
        return cls(root, tuple(pictures))

    @cached_property
    def version(self) -> str:
        """Content hash, 64 hex digits: the same rows give the same version whatever the folder or Parquet encoding."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            row = dataclasses.asdict(picture)
            del row["path"]
            digest.update(json.dumps(row, sort_keys=True, allow_nan=False).encode() + b"\n")
        return digest.hexdigest()

    def read_bytes(self, picture: Picture) -> bytes:
        """The encoded picture, checked against its sha256.

        Raises:
            DataError: the file is missing, unreadable or was altered.
        """
        try:
            data = (self.root / picture.path).read_bytes()
        except OSError as err:
            raise DataError(
                f"cannot read picture `{picture.path}` of `{self.root}`: {err.strerror}", hint=_HINT
            ) from err
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise DataError(f"picture `{picture.path}` of `{self.root}` was altered: its sha256 differs", hint=_HINT)
        return data

    def select(
        self, *, split: str | None = None, source: str | None = None, label: int | None = None
    ) -> tuple[Picture, ...]:
        """The pictures that have every given value, in canonical order."""
        return tuple(
            picture
            for picture in self.pictures
            if split in (None, picture.split) and source in (None, picture.source) and label in (None, picture.label)
        )


class Writer:
    """Fills a manifest folder: pictures first, one by one, then `finish` with all the rows."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def store(self, data: bytes, *, encoding: str) -> str:
        """Keeps one encoded picture and returns its sha256; the same bytes are kept once."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.root / image_path(sha256, encoding)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)  # the folder appears as a whole, so no file needs to be atomic
        return sha256

    def link(self, file: Path, *, sha256: str, encoding: str) -> None:
        """Takes over an immutable file that holds a picture, without a second copy where the disk allows it."""
        atomic.link_or_copy(file, self.root / image_path(sha256, encoding))

    def remove(self, sha256: str, *, encoding: str) -> None:
        """Forgets a picture that was stored."""
        (self.root / image_path(sha256, encoding)).unlink(missing_ok=True)

    def finish(self, pictures: Iterable[Picture]) -> None:
        """Writes the rows, in canonical order.

        Raises:
            DataError: a row that `Manifest.read` would refuse.
        """
        rows = sorted(
            (dataclasses.replace(picture, path=image_path(picture.sha256, picture.format)) for picture in pictures),
            key=lambda picture: picture.sha256,
        )
        _check(rows, FILE_NAME)
        table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        atomic.write_bytes(self.root / FILE_NAME, buffer.getvalue())


@contextmanager
def write(root: Path) -> Generator[Writer]:
    """Yields the writer of a manifest folder that appears at `root` when the block ends well.

    Raises:
        StorageError: the disk is full, read-only or failing; what stood at `root` before is kept.
    """
    with atomic.directory(root, replaces=FILE_NAME) as folder:
        yield Writer(folder)


def _check(pictures: Iterable[Picture], file: str) -> None:
    """Refuses rows that break a promise of the manifest."""
    seen: set[str] = set()
    split_of: dict[str, str] = {}
    for number, picture in enumerate(pictures, 1):
        problem = _problem(picture)
        if problem is None and picture.sha256 in seen:
            problem = f"sha256 `{picture.sha256}` for the second time, expected one row per picture"
        split = split_of.setdefault(picture.group, picture.split)
        if problem is None and split != picture.split:
            problem = f"group `{picture.group}` in split `{picture.split}` and in `{split}`, expected one split"
        if problem is not None:
            raise DataError(f"row {number} of `{file}` has {problem}", hint=_HINT)
        seen.add(picture.sha256)


def _problem(picture: Picture) -> str | None:
    path = PurePosixPath(picture.path)
    if len(picture.sha256) != 64 or not set(picture.sha256) <= set("0123456789abcdef"):
        return f"sha256 `{picture.sha256}`, expected 64 hex digits"
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return f"path `{picture.path}`, expected one inside the manifest's folder"
    if picture.label not in (0, 1):
        return f"label {picture.label}, expected 0 or 1"
    for name, value, expected in (
        ("source", picture.source, SOURCES),
        ("split", picture.split, SPLITS),
        ("format", picture.format, tuple(EXTENSIONS)),
    ):
        if value not in expected:
            return f"{name} `{value}`, expected {', '.join(f'`{choice}`' for choice in expected)}"
    if not picture.group:
        return "no group, expected a name"
    if bool(picture.description) != bool(picture.label):
        return f"label {picture.label} and description `{picture.description}`, expected one if and only if label is 1"
    if not (math.isfinite(picture.weight) and picture.weight > 0):
        return f"weight {picture.weight}, expected a number above 0"
    return None
