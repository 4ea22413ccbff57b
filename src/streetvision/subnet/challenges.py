"""The pictures validators send: which one is drawn, and what happens to it on its way to the wire.

Source: natixnetwork/streetvision-subnet natix/utils/image_transforms.py, natix/validator/forward.py @ 28a1755
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import DataError, SettingsError
from streetvision.imaging import DECODE_LIMIT_MAX_PX, decode, encode_jpeg
from streetvision.subnet import distortions, geometry
from streetvision.subnet.regimes import (
    CROP_AREA,
    CROP_TRIES,
    LEVELS,
    MAX_ANGLE_DEG,
    STRONGEST,
    WIRE_SIZE_PX,
    active,
    by_name,
)

FOREIGN_SOURCE = "api"  # regime R3's pool of the application server: its pictures bring their labels with them
RAW_LEVEL = -1  # what a validator notes where its transform failed and the picture went out as it was
_LABELS = (0, 1)
_JPEG_MAGIC = b"\xff\xd8\xff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Which kind of challenge: the label (None where the pool decides), the pool, and the level of its transform."""

    label: int | None
    source: str
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What happens to one picture; None where its level and regime have no such step.

    Attributes:
        level: 0 to 3; -1 where validators fail at the picture and send it as it is.
        angle_deg: counter-clockwise.
        crop_top: first row of the square cut out of the rotated picture; its column and size alike.
        cs: strength of the loss of chroma, as all strengths 0 to 2.
        cc: strength of the darkening.
        jpeg: strength of the loss of resolution.
        gnc: strength of the colour noise.
        gb: strength of the blur.
        noise_seed: uint32 seed of the colour noise.
    """

    level: int
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
    noise_seed: int = 0


def is_consistent(description: str, label: int) -> bool:
    """Whether a validator would draw the picture: it is described if and only if it shows roadwork."""
    return (description != "") == (label == 1)


def cell_shares(regime: str = "R1", *, pools: Collection[tuple[str, int]] | None = None) -> dict[Cell, float]:
    """Probability of each kind of challenge: labels even, sources as the regime has them, levels even.

    What training weighs its views by and what challenges are drawn by.

    Args:
        regime: R0 to R4; R4 sends none, and gives none.
        pools: (source, label) of the pools there are; the share of a missing one goes to the others of its label, in
            proportion. None for all.

    Raises:
        DataError: a label has none of the regime's pools.
        SettingsError: no such regime.
    """
    rules = by_name(regime)
    levels = LEVELS if rules.augmented else LEVELS[:1]
    shares: dict[Cell, float] = {}
    for label in () if rules.halted else _LABELS:
        present = {source: share for source, share in rules.source_shares.items() if _exists(pools, source, label)}
        if not present:
            raise DataError(
                f"pools are {sorted(pools or ())}, expected for label {label} at least one of "
                f"{sorted(rules.source_shares)} in regime `{regime}`"
            )
        for source, share in present.items():
            for level in levels:
                cell = Cell(label=None if source == FOREIGN_SOURCE else label, source=source, level=level)
                probability = share / sum(present.values()) / len(_LABELS) / len(levels)
                shares[cell] = shares.get(cell, 0.0) + probability
    return shares


def _exists(pools: Collection[tuple[str, int]] | None, source: str, label: int) -> bool:
    if pools is None or source != FOREIGN_SOURCE:
        return pools is None or (source, label) in pools
    return any(name == source for name, _ in pools)


def draw_cells(
    rng: np.random.Generator,
    count: int,
    regime: str = "R1",
    *,
    pools: Collection[tuple[str, int]] | None = None,
) -> list[Cell]:
    """Kinds of `count` challenges, drawn by `cell_shares`; an empty list in regime R4.

    Args:
        rng: where the draws come from.
        count: how many.
        regime: R0 to R4.
        pools: as in `cell_shares`.

    Raises:
        DataError: as `cell_shares`.
        SettingsError: no such regime.
    """
    shares = cell_shares(regime, pools=pools)
    if not shares:
        return []
    cells = list(shares)
    return [cells[index] for index in rng.choice(len(cells), count, p=np.array(list(shares.values())))]


def draw_transform(
    rng: np.random.Generator, *, height: int, width: int, regime: str = "R1", level: int | None = None
) -> Transform:
    """A transform as a validator draws it for a picture of that size.

    Args:
        rng: where the draws come from.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        regime: R0 to R3.
        level: 0 to 3; drawn evenly when None. A regime without augmentation has level 0 only.

    Raises:
        SettingsError: no such level or regime, or it sends no challenges.
    """
    rules = active(regime)
    if rules.geometry == "letterbox" and not geometry.fits_letterbox(height, width):
        return Transform(level=RAW_LEVEL)
    if level is None:
        level = int(rng.choice(LEVELS))
    if level not in LEVELS:
        raise SettingsError(f"level is {level}, expected one of {LEVELS}")
    if level == 0 or not rules.augmented:
        return Transform(level=0)
    angle_deg = float(rng.uniform(-MAX_ANGLE_DEG, MAX_ANGLE_DEG))
    top, left, side = _draw_crop(rng, height, width) if rules.geometry == "crop" else (None, None, None)
    strengths = {code.lower(): int(rng.integers(0, most, endpoint=True)) for code, most in STRONGEST[level].items()}
    return Transform(
        level=level,
        angle_deg=angle_deg,
        crop_top=top,
        crop_left=left,
        crop_height=side,
        crop_width=side,
        **strengths,
        noise_seed=int(rng.integers(0, 2**32)),
    )


def _draw_crop(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int]:
    for _ in range(CROP_TRIES):
        side = round(math.sqrt(rng.uniform(*CROP_AREA) * height * width))
        if 1 <= side <= min(height, width):
            top, left = rng.integers(0, (height - side, width - side), endpoint=True)
            return int(top), int(left), side
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def apply(image: NDArray[np.uint8], transform: Transform, *, regime: str = "R1") -> NDArray[np.uint8]:
    """The picture as its JPEG will show it, uint8[224,224,3] RGB (R3 and level -1: uint8[H,W,3], as it came).

    Args:
        image: uint8[H,W,3] RGB.
        transform: drawn by `draw_transform` for this size and regime.
        regime: R0 to R3.

    Raises:
        SettingsError: no such regime, or it sends no challenges.
    """
    rules = active(regime)
    if not rules.augmented or transform.level == RAW_LEVEL:
        return image
    if rules.geometry == "letterbox":
        view = geometry.letterbox(image)
        if transform.angle_deg is not None:
            view = geometry.rotate(view, transform.angle_deg, 0, 0, WIRE_SIZE_PX)
    elif transform.angle_deg is None:
        view = geometry.centre(image)
    else:
        top, left, side = transform.crop_top, transform.crop_left, transform.crop_height
        if top is None or left is None or side is None:
            raise DataError(f"transform of level {transform.level} has no crop, expected one in regime `{regime}`")
        view = geometry.shrink(geometry.rotate(image, transform.angle_deg, top, left, side))
    return distort(view, transform)


def distort(image: NDArray[np.uint8], transform: Transform) -> NDArray[np.uint8]:
    """The picture uint8[H,W,3] RGB after the transform's distortions, in the validator's order."""
    if transform.cs:
        image = distortions.fade(image, distortions.CHROMA_SCALE[transform.cs])
    if transform.cc:
        image = distortions.darken(image, distortions.BRIGHTNESS_SCALE[transform.cc])
    if transform.jpeg:
        image = distortions.coarsen(image, distortions.COARSENESS[transform.jpeg])
    if transform.gnc:
        noise = np.random.Generator(np.random.PCG64(transform.noise_seed)).standard_normal(image.shape)
        image = distortions.add_noise(image, distortions.NOISE_VARIANCE[transform.gnc], noise)
    if transform.gb:
        image = distortions.blur(image, distortions.BLUR_KERNEL_PX[transform.gb])
    return image


def wire_jpeg(image: NDArray[np.uint8]) -> bytes:
    """JPEG bytes as they go over the wire: quality 75, 4:2:0 chroma."""
    return encode_jpeg(image)


def cached_picture(data: bytes, format: str) -> NDArray[np.uint8]:  # noqa: A002 (as the manifest calls it)
    """The picture uint8[H,W,3] RGB as it comes from a validator's cache, where a JPEG was saved anew at quality 75.

    It stands upright by its EXIF orientation, which validators' pictures do not have (their cache would lose it).

    Args:
        data: one encoded picture.
        format: Pillow's name of its format, such as `JPEG` or `PNG`.

    Raises:
        ImageError: the picture cannot be decoded.
    """
    image = decode(data, limit_px=DECODE_LIMIT_MAX_PX)
    return decode(encode_jpeg(image), limit_px=DECODE_LIMIT_MAX_PX) if format == "JPEG" else image


def draw_challenge(
    rng: np.random.Generator, image: NDArray[np.uint8], *, regime: str = "R1", level: int | None = None
) -> tuple[Transform, bytes]:
    """A transform drawn for one cached picture, and the JPEG that a validator would send of it.

    Args:
        rng: where the draws come from.
        image: uint8[H,W,3] RGB, as `cached_picture` gives it.
        regime: R0 to R3.
        level: 0 to 3, drawn when None.

    Raises:
        ImageError: a side is too long.
        SettingsError: no such level or regime, or it sends no challenges.
    """
    height, width = image.shape[:2]
    transform = draw_transform(rng, height=height, width=width, regime=regime, level=level)
    return transform, wire_jpeg(apply(image, transform, regime=regime))


def view(data: bytes, *, seed: int, regime: str = "R1", level: int | None = None) -> bytes:
    """A JPEG of one encoded picture as a validator would send it: cached, transformed and encoded by the seed alone.

    Several views of one picture cost less by one `cached_picture` and a `draw_challenge` each.

    Args:
        data: one encoded JPEG, PNG or WebP picture.
        seed: decides everything that is drawn.
        regime: R0 to R3.
        level: 0 to 3, drawn when None.

    Raises:
        ImageError: the picture cannot be decoded.
        SettingsError: no such regime, or it sends no challenges.
    """
    image = cached_picture(data, "JPEG" if data.startswith(_JPEG_MAGIC) else "PNG")
    return draw_challenge(np.random.Generator(np.random.PCG64(seed)), image, regime=regime, level=level)[1]
