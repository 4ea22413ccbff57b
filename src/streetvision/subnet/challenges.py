"""The pictures validators send: which one is drawn, and what happens to it on its way to the wire.

Source: natixnetwork/streetvision-subnet natix/utils/image_transforms.py, natix/validator/forward.py @ 28a1755
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import DataError, SettingsError
from streetvision.imaging import DECODE_LIMIT_MAX_PX, decode, encode_jpeg, resize
from streetvision.subnet import distortions
from streetvision.subnet.geometry import letterbox, rotate, shrink
from streetvision.subnet.regimes import CROP_AREA, CROP_TRIES, LEVELS, MAX_ANGLE_DEG, WIRE_SIZE_PX, active, by_name

_JPEG_MAGIC = b"\xff\xd8\xff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Which kind of challenge: the label, the pool it is drawn from, and the level of its transform."""

    label: int
    source: str
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What happens to one picture; None where its level and regime have no such step.

    Attributes:
        level: 0 to 3.
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


def draw_cells(
    rng: np.random.Generator, count: int, regime: str = "R1", *, sources: Collection[str] | None = None
) -> list[Cell]:
    """Kinds of `count` challenges in the shares of the regime: labels even, sources as it has them, levels even.

    Args:
        rng: where the draws come from.
        count: how many.
        regime: R0 to R4; R4 sends none, and gives an empty list.
        sources: the pools there are; the share of a missing one goes to the others in proportion. None for all.

    Raises:
        DataError: none of the regime's pools is among `sources`.
        SettingsError: no such regime.
    """
    rules = by_name(regime)
    if rules.halted:
        return []
    shares = {name: share for name, share in rules.source_shares.items() if sources is None or name in sources}
    if not shares:
        raise DataError(
            f"pools are {sorted(sources or ())}, expected at least one of {sorted(rules.source_shares)} "
            f"for regime `{regime}`"
        )
    labels = rng.integers(0, 2, count)
    names = rng.choice(list(shares), count, p=np.array(list(shares.values())) / sum(shares.values()))
    levels = rng.choice(LEVELS if rules.augmented else (0,), count)
    return [
        Cell(label=int(label), source=str(name), level=int(level))
        for label, name, level in zip(labels, names, levels, strict=True)
    ]


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
    if level is None:
        level = int(rng.choice(LEVELS))
    if level not in LEVELS:
        raise SettingsError(f"level is {level}, expected one of {LEVELS}")
    if level == 0 or not rules.augmented:
        return Transform(level=0)
    angle_deg = float(rng.uniform(-MAX_ANGLE_DEG, MAX_ANGLE_DEG))
    top, left, side = _draw_crop(rng, height, width) if rules.geometry == "crop" else (None, None, None)
    strongest = {1: (), 2: (1, 1, 1), 3: (2, 2, 2, 2, 2)}[level]
    strengths = [int(rng.integers(0, most, endpoint=True)) for most in strongest]
    return Transform(
        level=level,
        angle_deg=angle_deg,
        crop_top=top,
        crop_left=left,
        crop_height=side,
        crop_width=side,
        **dict(zip(("cs", "cc", "jpeg", "gnc", "gb"), strengths, strict=False)),
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
    """The picture as its JPEG will show it, uint8[224,224,3] RGB (R3: uint8[H,W,3], as it came).

    Args:
        image: uint8[H,W,3] RGB.
        transform: drawn by `draw_transform` for this size and regime.
        regime: R0 to R3.

    Raises:
        SettingsError: no such regime, or it sends no challenges.
    """
    rules = active(regime)
    if not rules.augmented:
        return image
    if rules.geometry == "letterbox":
        view = letterbox(image)
        if transform.angle_deg is not None:
            view = rotate(view, transform.angle_deg, 0, 0, WIRE_SIZE_PX)
    elif transform.angle_deg is None:
        view = resize(image, WIRE_SIZE_PX)
    else:
        top, left, side = transform.crop_top, transform.crop_left, transform.crop_height
        if top is None or left is None or side is None:
            raise DataError(f"transform of level {transform.level} has no crop, expected one in regime `{regime}`")
        view = shrink(rotate(image, transform.angle_deg, top, left, side))
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
        rng = np.random.RandomState(transform.noise_seed)
        image = distortions.add_noise(image, distortions.NOISE_VARIANCE[transform.gnc], rng)
    if transform.gb:
        image = distortions.blur(image, distortions.BLUR_KERNEL_PX[transform.gb])
    return image


def wire_jpeg(image: NDArray[np.uint8]) -> bytes:
    """JPEG bytes as they go over the wire: quality 75, 4:2:0 chroma."""
    return encode_jpeg(image)


def cache_generation(data: bytes, format: str) -> bytes:  # noqa: A002 (as the manifest calls it)
    """The encoded picture as it lies in a validator's cache: a JPEG saved once more at quality 75, others as they are.

    Args:
        data: one encoded picture.
        format: Pillow's name of its format, such as `JPEG` or `PNG`.

    Raises:
        ImageError: the picture cannot be decoded.
    """
    return encode_jpeg(decode(data, limit_px=DECODE_LIMIT_MAX_PX)) if format == "JPEG" else data


def view(data: bytes, *, seed: int, regime: str = "R1", level: int | None = None) -> bytes:
    """A JPEG of one encoded picture as a validator would send it: cached, transformed and encoded by the seed alone.

    Args:
        data: one encoded JPEG, PNG or WebP picture.
        seed: decides everything that is drawn.
        regime: R0 to R3.
        level: 0 to 3, drawn when None.

    Raises:
        ImageError: the picture cannot be decoded.
        SettingsError: no such regime, or it sends no challenges.
    """
    cached = cache_generation(data, "JPEG" if data.startswith(_JPEG_MAGIC) else "PNG")
    image = decode(cached, limit_px=DECODE_LIMIT_MAX_PX)
    height, width = image.shape[:2]
    rng = np.random.Generator(np.random.PCG64(seed))
    transform = draw_transform(rng, height=height, width=width, regime=regime, level=level)
    return wire_jpeg(apply(image, transform, regime=regime))
