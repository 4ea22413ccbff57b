"""The challenge set: challenges drawn once as the subnet's validators draw them, then frozen for every model.

A folder with one JPEG a challenge, as on the wire, and `challenges.parquet`. Its version is a hash of its rows and
pictures, so two sets with the same version ask the same questions.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streetvision import atomic
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import DataError, ImageError, SettingsError
from streetvision.progress import Progress
from streetvision.subnet import challenges
from streetvision.subnet.challenges import FOREIGN_SOURCE
from streetvision.subnet.regimes import REGIMES, active

FILE_NAME = "challenges.parquet"

_HINT = "freeze the challenge set again with `streetvision subnet challenges`"
_METADATA = b"streetvision"
_STRING = pa.string()
SCHEMA = pa.schema(
    [
        pa.field("challenge_id", _STRING, nullable=False),
        pa.field("file", _STRING, nullable=False),
        pa.field("image", _STRING, nullable=False),
        pa.field("label", pa.uint8(), nullable=False),
        pa.field("source", _STRING, nullable=False),
        pa.field("level", pa.int8(), nullable=False),
        pa.field("group", _STRING, nullable=False),
        pa.field("image_sha256", _STRING, nullable=False),
        pa.field("angle_deg", pa.float64()),
        *(pa.field(f"crop_{name}", pa.int32()) for name in ("top", "left", "height", "width")),
        *(pa.field(name, pa.int8()) for name in ("cs", "cc", "jpeg", "gnc", "gb")),
    ]
)
_STEPS = SCHEMA.names[8:]  # what a transform says of a challenge beside its level

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One row: the question, its answer, and how the picture came about (null where the level has no such step).

    Attributes:
        challenge_id: `<first 12 digits of the set's version>/<row>`.
        file: the challenge's JPEG, relative to the set's folder.
        image: the source picture, relative to its manifest's folder.
        label: 1 is roadwork.
        source: `real`, `t2i`, `i2i` or, in regime R3, `api`.
        level: the validator's augmentation level; -1 where its transform fails and the picture goes out as it is.
        group: pictures of one scene share it.
        image_sha256: of the source picture.
        angle_deg: of the rotation.
        crop_top: of the crop in the rotated picture, in its pixels, as the other three.
        crop_left: see `crop_top`.
        crop_height: see `crop_top`.
        crop_width: see `crop_top`.
        cs: strength of the colour distortion, as the other four 0 to 2.
        cc: of the darkening.
        jpeg: of the pixelation.
        gnc: of the noise.
        gb: of the blur.
    """

    challenge_id: str
    file: str
    image: str
    label: int
    source: str
    level: int
    group: str
    image_sha256: str
    angle_deg: float | None = None
    crop_top: int | None = None
    crop_left: int | None = None
    crop_height: int | None = None
    crop_width: int | None = None
    cs: int | None = None
    cc: int | None = None
    jpeg: int | None = None
    gnc: int | None = None
    gb: int | None = None


@dataclass(frozen=True)
class ChallengeSet:
    """A frozen set of challenges, row by row as they were drawn."""

    root: Path
    version: str
    regime: str
    seed: int
    data_version: str
    rows: tuple[Challenge, ...]

    @classmethod
    def read(cls, root: Path) -> "ChallengeSet":
        """The challenge set in folder `root`, every row and picture checked against the set's version.

        Raises:
            DataError: no set there, an unexpected column, or a row or picture that is missing or was altered.
        """
        file = root / FILE_NAME
        try:
            table = pq.read_table(io.BytesIO(file.read_bytes()))  # from memory: no partitions read out of folder names
            rows = tuple(Challenge(**row) for row in table.cast(SCHEMA).to_pylist())
            about = json.loads(table.schema.metadata[_METADATA])
            challenge_set = cls(root=root, rows=rows, **about)
        except FileNotFoundError as err:
            raise DataError(f"no `{FILE_NAME}` in `{root}`, expected a challenge set's folder", hint=_HINT) from err
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as err:
            raise DataError(f"`{file}` is no table of challenges: {err}", hint=_HINT) from err
        digests = [hashlib.sha256(challenge_set.read_bytes(row)).hexdigest() for row in rows]
        if _version(rows, digests) != challenge_set.version:
            raise DataError(f"challenge set `{root}` was altered: its content is not version `{about['version'][:12]}`")
        return challenge_set

    def __len__(self) -> int:
        return len(self.rows)

    def read_bytes(self, row: Challenge) -> bytes:
        """The challenge's JPEG as on the wire.

        Raises:
            DataError: the file is missing or unreadable.
        """
        try:
            if Path(row.file).name != row.file:
                raise DataError(f"challenge set `{self.root}` names `{row.file}`, expected a file of its own folder")
            return (self.root / row.file).read_bytes()
        except OSError as err:
            raise DataError(f"cannot read `{row.file}` of challenge set `{self.root}`: {err.strerror}") from err

    def by_id(self, challenge_id: str) -> Challenge:
        """The challenge of that id.

        Raises:
            DataError: the set has none.
        """
        try:
            return self._rows_by_id[challenge_id]
        except KeyError as err:
            raise DataError(f"challenge set `{self.version[:12]}` has no challenge `{challenge_id}`") from err

    def write_table(self, folder: Path) -> None:
        """Writes the rows to `folder`, beside the pictures."""
        about = {name: getattr(self, name) for name in ("version", "regime", "seed", "data_version")}
        table = pa.Table.from_pylist([dataclasses.asdict(row) for row in self.rows], schema=SCHEMA)
        pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(about)}), folder / FILE_NAME)

    @cached_property
    def _rows_by_id(self) -> dict[str, Challenge]:
        return {row.challenge_id: row for row in self.rows}


def freeze(
    manifest: Manifest,
    out: Path,
    *,
    count: int,
    seed: int,
    regime: str = "R1",
    split: str | None = "challenge",
    workers: int | None = None,
) -> ChallengeSet:
    """The challenge set of `count` draws from one split, left at `out`; the same whatever the number of workers.

    Args:
        manifest: where the pictures come from.
        out: folder of the set; appears when it is complete.
        count: how many challenges are drawn.
        seed: of every draw, 0 or more. Row i is drawn by a generator of its own, with the seed (seed, i).
        regime: the subnet's rules, R0 to R3.
        split: the pictures that may be drawn, None for all; what training saw must not be.
        workers: threads that share the work; as many as there are cores by default.

    Raises:
        DataError: the split lacks a label, or a picture is missing or altered or cannot be drawn.
        SettingsError: no such regime, or one without challenges, a count below one or a seed below zero.
        StorageError: the disk is full, read-only or failing; nothing is half-written.
    """
    active(regime)
    if count < 1:
        raise SettingsError(f"count is {count}, expected at least one challenge")
    if seed < 0:
        raise SettingsError(f"seed is {seed}, expected 0 or more")
    drawn = _draw_pictures(manifest, count=count, seed=seed, regime=regime, split=split)
    work: dict[str, list[int]] = {}
    for index, (_, picture) in enumerate(drawn):
        work.setdefault(picture.sha256, []).append(index)
    rows: dict[int, Challenge] = {}
    digests: dict[int, str] = {}
    threads = workers or len(os.sched_getaffinity(0))

    with atomic.directory(out, replaces=FILE_NAME) as folder, ThreadPoolExecutor(threads) as pool:

        def render(indices: list[int]) -> list[tuple[int, Challenge, str]]:
            return list(_render(manifest, [(index, *drawn[index]) for index in indices], folder, seed, regime))

        with Progress("challenges", total=count, unit="challenge") as progress:
            for rendered in pool.map(render, work.values()):
                for index, row, digest in rendered:
                    rows[index], digests[index] = row, digest
                progress.advance(len(rendered))
        version = _version([rows[i] for i in range(count)], [digests[i] for i in range(count)])
        named = tuple(dataclasses.replace(rows[i], challenge_id=f"{version[:12]}/{i}") for i in range(count))
        challenge_set = ChallengeSet(out, version, regime, seed, manifest.version, named)
        challenge_set.write_table(folder)
    _log.info("challenge set %s: %d challenges from %d pictures", version[:12], count, len(work))
    return challenge_set


def _draw_pictures(
    manifest: Manifest, *, count: int, seed: int, regime: str, split: str | None
) -> list[tuple[challenges.Cell, Picture]]:
    """Cell and picture of every challenge; a picture may come again, as it does from the validators' caches."""
    pools: dict[tuple[str, int], list[Picture]] = {}
    for picture in manifest.select(split=split):
        if picture.source == FOREIGN_SOURCE or challenges.is_consistent(picture.description, picture.label):
            pools.setdefault((picture.source, picture.label), []).append(picture)
    where = f"split `{split}` of `{manifest.root}`" if split else f"`{manifest.root}`"
    rng = np.random.default_rng(seed)
    try:
        cells = challenges.draw_cells(rng, count, regime, pools=pools)
    except DataError as err:
        found = ", ".join(f"{len(pictures)} {source} of label {label}" for (source, label), pictures in pools.items())
        raise DataError(
            f"{where} has {found or 'no pictures'}, expected both labels",
            hint="build the data with more pictures of both classes",
        ) from err
    for source in REGIMES[regime].source_shares:
        if missing := [label for label in (0, 1) if (source, label) not in pools]:
            of_label = f" of label {missing[0]}" if len(missing) == 1 else ""
            _log.warning("no `%s` pictures%s in %s: the other pools take their share", source, of_label, where)
    candidates = [
        pools[cell.source, cell.label]
        if cell.label is not None
        else pools.get((cell.source, 0), []) + pools.get((cell.source, 1), [])
        for cell in cells
    ]
    return [(cell, pictures[rng.integers(len(pictures))]) for cell, pictures in zip(cells, candidates, strict=True)]


def _render(
    manifest: Manifest, drawn: list[tuple[int, challenges.Cell, Picture]], folder: Path, seed: int, regime: str
) -> Iterator[tuple[int, Challenge, str]]:
    """Writes the challenges of one picture, which is decoded once, and yields index, row and sha256 of each."""
    picture = drawn[0][2]
    data = manifest.read_bytes(picture)
    try:
        image = challenges.cached_picture(data, picture.format)
        for index, cell, _ in drawn:
            rng = np.random.default_rng((seed, index))
            transform, jpeg = challenges.draw_challenge(rng, image, regime=regime, level=cell.level)
            file = f"{index:05d}.jpg"
            (folder / file).write_bytes(jpeg)
            row = Challenge(
                challenge_id="",
                file=file,
                image=picture.path,
                label=picture.label,
                source=picture.source,
                level=transform.level,
                group=picture.group,
                image_sha256=picture.sha256,
                **{name: getattr(transform, name) for name in _STEPS},
            )
            yield index, row, hashlib.sha256(jpeg).hexdigest()
    except ImageError as err:
        raise DataError(
            f"no challenge can be drawn from picture `{picture.path}`: {err.message}", hint="leave it out"
        ) from err


def _version(rows: Iterable[Challenge], digests: Iterable[str]) -> str:
    """Content hash, 64 hex digits, of rows and pictures; ids are left out, since they carry it."""
    content = hashlib.sha256()
    for row, digest in zip(rows, digests, strict=True):
        values = dataclasses.asdict(row) | {"challenge_id": None}
        content.update(json.dumps([values, digest], sort_keys=True).encode() + b"\n")
    return content.hexdigest()
