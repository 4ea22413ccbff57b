"""From a source of pictures to a manifest."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from streetvision import imaging
from streetvision.data import dedupe, manifest, split
from streetvision.data.manifest import Picture
from streetvision.errors import DataError, ImageError
from streetvision.progress import Progress

MIN_SIDE_PX = 32
_LOGGED = 20  # rejected pictures; the report holds all
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePicture:
    """One labelled picture as a source hands it over, still encoded.

    Attributes:
        data: the encoded picture, untouched.
        label: 1 shows active roadwork, 0 does not.
        group: pictures of one scene or drive share it; they never straddle splits.
        generator: who drew it: `camera`, `procedural` ...
        origin: where it came from, for messages: a file, or a scene's number.
        source: the role it plays among the subnet's pictures: `real`, `t2i` or `i2i`.
        description: what is seen; `Roadwork` is filled in where label is 1 and it is empty.
        prompt: the text a generator was given, else empty.
        seed: the seed a generator was given, else null.
    """

    data: bytes
    label: int
    group: str
    generator: str
    origin: str
    source: str = "real"
    description: str = ""
    prompt: str = ""
    seed: int | None = None


class PictureSource(Protocol):
    """Where pictures come from."""

    name: str

    def fingerprint(self) -> str:
        """Hex digits that change whenever what the source would yield changes."""
        ...

    def __iter__(self) -> Iterator[SourcePicture]:
        """Yields every picture, in a fixed order."""
        ...

    def __len__(self) -> int:
        """How many pictures it will yield."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A picture that was left out, and why."""

    origin: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What became of a source's pictures.

    Attributes:
        version: the manifest's content hash.
        pictures: how many the manifest holds.
        counts: pictures by (split, source, label).
        groups: groups by split, near-duplicates joined.
        duplicates: pictures left out because the same bytes were there already.
        near_duplicates: groups that joined another because a picture of theirs looks like one of the other's.
        rejected: pictures that could not be used, each with its sentence.
    """

    version: str
    pictures: int
    counts: dict[tuple[str, str, int], int]
    groups: dict[str, int]
    duplicates: int
    near_duplicates: int
    rejected: tuple[Rejected, ...]


def build(source: PictureSource, root: Path, *, seed: int, shares: Sequence[float] = split.SHARES) -> BuildReport:
    """Leaves the manifest of a source's pictures at `root` and reports what became of them.

    Pictures are kept as they are encoded. Those that cannot be decoded or are too small or large are left out and
    reported; so are exact duplicates. Near-duplicates share a group, and a group lies in one split.

    Args:
        source: where pictures come from; read once, one picture in memory at a time.
        root: the manifest's folder; it appears as a whole, and what stood there is kept if anything fails.
        seed: of the split.
        shares: of pictures, for train, validation and challenge.

    Raises:
        DataError: nothing or one class remains, more than half was rejected, or too few groups to split.
        StorageError: the disk is full, read-only or failing.
    """
    _log.info("building a manifest of %d pictures from `%s`", len(source), source.name)
    with manifest.write(root) as writer:
        pictures, rejected, shared = collect(source, writer)
        _check_enough(pictures, rejected, source)
        groups = groups_of(pictures, shared)
        splits = split.assign(groups, [picture.label for picture in pictures], seed=seed, shares=shares)
        near_duplicates = len({picture.group for picture in pictures}) - len(set(groups))
        writer.finish(
            replace(picture, group=group, split=splits[group]) for picture, group in zip(pictures, groups, strict=True)
        )
    built = manifest.Manifest.read(root)
    _log.info("kept %d pictures, left out %d duplicates and %d others", len(pictures), len(shared), len(rejected))
    return BuildReport(
        version=built.version,
        pictures=len(built.pictures),
        counts=dict(Counter((picture.split, picture.source, picture.label) for picture in built.pictures)),
        groups={name: sum(chosen == name for chosen in splits.values()) for name in manifest.SPLITS},
        duplicates=len(shared),
        near_duplicates=near_duplicates,
        rejected=tuple(rejected),
    )


def collect(
    source: PictureSource, writer: manifest.Writer
) -> tuple[list[Picture], list[Rejected], list[tuple[str, str]]]:
    """Stores every usable picture once and says which are left out.

    Returns:
        Rows whose path is the picture's origin, without a split; what was left out; and of each exact duplicate the
        two groups it is in.
    """
    kept: dict[str, tuple[Picture, str]] = {}  # by sha256: row and origin
    contradicted: set[str] = set()
    rejected: list[Rejected] = []
    shared: list[tuple[str, str]] = []
    with Progress("pictures", total=len(source), unit="picture") as progress:
        for item in source:
            progress.advance(1)
            try:
                encoding, phash = inspect(item.data)
            except ImageError as err:
                rejected.append(Rejected(origin=item.origin, reason=err.message))
                continue
            sha256 = writer.store(item.data, encoding=encoding)
            if sha256 in contradicted:
                writer.remove(sha256, encoding=encoding)
                rejected.append(Rejected(origin=item.origin, reason="the same picture has both labels"))
            elif sha256 not in kept:
                kept[sha256] = (_row(item, sha256, encoding, phash), item.origin)
            elif kept[sha256][0].label == item.label:
                shared.append((kept[sha256][0].group, item.group))
            else:
                _, origin = kept.pop(sha256)
                writer.remove(sha256, encoding=encoding)
                contradicted.add(sha256)
                rejected.append(
                    Rejected(origin=origin, reason=f"the same picture has the other label as `{item.origin}`")
                )
                rejected.append(
                    Rejected(origin=item.origin, reason=f"the same picture has the other label as `{origin}`")
                )
    for rejection in rejected[:_LOGGED]:
        _log.warning("left out `%s`: %s", rejection.origin, rejection.reason)
    if len(rejected) > _LOGGED:
        _log.warning("left out %d more", len(rejected) - _LOGGED)
    return [row for row, _ in kept.values()], rejected, shared


def groups_of(pictures: Sequence[Picture], shared: Sequence[tuple[str, str]]) -> list[str]:
    """The group of each picture after those that share a picture, or look alike, have become one."""
    row = {picture.group: number for number, picture in enumerate(pictures)}
    pairs = dedupe.near_pairs([picture.phash for picture in pictures]).tolist()
    pairs += [(row[one], row[other]) for one, other in shared if one in row and other in row]
    return dedupe.join([picture.group for picture in pictures], pairs)


def inspect(data: bytes) -> tuple[str, str]:
    """Format and perceptual hash of one encoded picture.

    Raises:
        ImageError: it cannot be decoded, or is too small or too large.
    """
    image = imaging.decode(data, limit_px=imaging.DECODE_LIMIT_MAX_PX)
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(f"picture has {width} x {height} pixels, expected at least {MIN_SIDE_PX} on each side")
    encoding = "JPEG" if data.startswith(b"\xff\xd8") else "PNG" if data.startswith(b"\x89PNG") else "WEBP"
    return encoding, dedupe.phash(image)


def _row(item: SourcePicture, sha256: str, encoding: str, phash: str) -> Picture:
    return Picture(
        sha256=sha256,
        path=item.origin,  # until the writer names it
        label=int(item.label),
        source=item.source,
        generator=item.generator,
        group=item.group,
        split="",
        format=encoding,
        description=(item.description or manifest.DEFAULT_DESCRIPTION) if item.label == 1 else "",
        prompt=item.prompt,
        seed=None if item.seed is None else int(item.seed),
        phash=phash,
    )


def _check_enough(pictures: Sequence[Picture], rejected: Sequence[Rejected], source: PictureSource) -> None:
    first = f", first `{rejected[0].origin}`: {rejected[0].reason}" if rejected else ""
    if len(rejected) > len(source) / 2:
        raise DataError(
            f"{len(rejected)} of {len(source)} pictures from `{source.name}` cannot be used{first}",
            hint="look whether these are the right files; more than half must be usable",
        )
    for label, name in ((1, "roadwork"), (0, "none")):
        if not any(picture.label == label for picture in pictures):
            raise DataError(
                f"no usable picture of class `{name}` among {len(source)} from `{source.name}`{first}, "
                "expected both classes",
                hint="add pictures of the missing class",
            )
