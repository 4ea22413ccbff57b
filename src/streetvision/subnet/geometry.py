"""How a picture comes to the size of the wire: cut in its middle, letterboxed, or rotated, cut and shrunk.

Source: natixnetwork/streetvision-subnet natix/utils/image_transforms.py @ 28a1755; coordinates and resize weights as
pytorch/vision torchvision/transforms/_functional_tensor.py (v0.21) and pytorch/pytorch compute them.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streetvision.errors import ImageError
from streetvision.subnet.regimes import WIRE_SIZE_PX

_WEIGHT_BITS = 12  # of a resize weight: a sum of 12-bit weights times 12-bit pixels is exact in float32
_FRACTION_BITS = 4  # kept of a pixel between the two passes
_BAND_PX = 4  # output rows resized by one matrix product
_PRODUCT = 2**18  # multiplications above which OpenBLAS starts threads, which here wait longer than they work
_STRIPE_PX = 128  # rows rotated at once: their coordinates stay in the processor's cache
_LONGEST_PX = 32_766  # OpenCV counts pixels in int16


def centre(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The central square at uint8[224,224,3] by Pillow's bilinear resize; an odd margin is halved to the even pixel."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.array(square.resize((WIRE_SIZE_PX, WIRE_SIZE_PX), Image.Resampling.BILINEAR), dtype=np.uint8)


def fits_letterbox(height: int, width: int) -> bool:
    """Whether a picture that wide or tall keeps a pixel of its shorter side; validators fail at any other."""
    return min(_letterboxed(height, width)) > 0


def letterbox(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The whole picture within uint8[224,224,3], black bars beside or above and below it (regime R2).

    Raises:
        ImageError: nothing is left of its shorter side.
    """
    height, width = image.shape[:2]
    if not fits_letterbox(height, width):
        raise ImageError(f"picture is {width} x {height} pixels, of which no letterbox of {WIRE_SIZE_PX} is left")
    size = _letterboxed(height, width)
    left, top = ((WIRE_SIZE_PX - side) // 2 for side in size)
    boxed = np.zeros((WIRE_SIZE_PX, WIRE_SIZE_PX, 3), dtype=np.uint8)
    small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    boxed[top : top + size[1], left : left + size[0]] = np.asarray(small)
    return boxed


def _letterboxed(height: int, width: int) -> tuple[int, int]:
    """Width and height within the letterbox."""
    scale = min(WIRE_SIZE_PX / width, WIRE_SIZE_PX / height)
    return int(width * scale), int(height * scale)


def rotate(image: NDArray[np.uint8], angle_deg: float, top: int, left: int, side: int) -> NDArray[np.uint8]:
    """The square uint8[S,S,3] at (top, left) of the picture rotated about its centre, corners black.

    Only the square is computed. Coordinates pass through the same float32 steps as torchvision's tensor rotation, so
    the nearest pixel is the same one even where two are almost equally near.

    Raises:
        ImageError: a side is too long.
    """
    height, width = image.shape[:2]
    if max(height, width) > _LONGEST_PX:
        raise ImageError(f"picture is {width} x {height} pixels, expected sides of at most {_LONGEST_PX}")
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    x = np.arange(left, left + side, dtype=np.float32) - np.float32((width - 1) / 2)
    y = np.arange(top, top + side, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)
    square = np.empty((side, side, 3), dtype=np.uint8)
    for start in range(0, side, _STRIPE_PX):
        stripe = y[start : start + _STRIPE_PX]
        columns, rows = _source(x, stripe, cos, -sin, width), _source(x, stripe, sin, cos, height)
        cv2.remap(image, columns, rows, cv2.INTER_NEAREST, dst=square[start : start + _STRIPE_PX])
    return square


def _source(
    x: NDArray[np.float32], y: NDArray[np.float32], along_x: float, along_y: float, size: int
) -> NDArray[np.float32]:
    """Coordinate along one axis of the source for each pixel; OpenCV rounds it half to even, as torch does."""
    half = np.float32(size / 2)
    source = np.add(x * (np.float32(along_x) / half), y * (np.float32(along_y) / half), dtype=np.float32)
    source += np.float32(1)
    source *= half
    source -= np.float32(0.5)
    return source


def shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square picture uint8[S,S,3] at uint8[224,224,3]: bilinear with antialiasing, truncated, not rounded.

    Equal to torch's float resize but for its rounding errors, and the same on every machine: all sums are exact.
    """
    side = len(image)
    weights, starts = _bands(side)
    rows = _weigh(weights, starts, image.reshape(side, -1))
    rows *= np.float32(2 ** (_FRACTION_BITS - _WEIGHT_BITS))
    np.rint(rows, out=rows)
    upright = np.asarray(cv2.transpose(rows.reshape(WIRE_SIZE_PX, side, 3)), dtype=np.float32).reshape(side, -1)
    columns = _weigh(weights, starts, upright)
    columns *= np.float32(2 ** -(_FRACTION_BITS + _WEIGHT_BITS))
    return np.asarray(cv2.transpose(columns.astype(np.uint8).reshape(WIRE_SIZE_PX, WIRE_SIZE_PX, 3)), dtype=np.uint8)


def _bands(side: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Integer weights float32[B, 4, L] of L input rows for each band of 4 output rows, and its first input row."""
    scale = side / WIRE_SIZE_PX
    reach = max(scale, 1.0)
    centre = ((np.arange(WIRE_SIZE_PX) + 0.5) * scale).reshape(-1, _BAND_PX, 1)
    length = min(side, math.ceil(_BAND_PX * scale + 2 * reach) + 2)
    starts = np.clip(np.floor(centre[:, 0, 0] - reach), 0, side - length).astype(np.intp)
    row = starts[:, None, None] + np.arange(length) + 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(row - centre) / reach)
    total = np.cumsum(weights, axis=-1)
    total *= 2**_WEIGHT_BITS / total[..., -1:]
    return np.diff(np.rint(total), axis=-1, prepend=0).astype(np.float32), starts


def _weigh(
    weights: NDArray[np.float32], starts: NDArray[np.intp], pixels: NDArray[np.uint8] | NDArray[np.float32]
) -> NDArray[np.float32]:
    """float32[224,N]: each band's weighted sums of the rows of `pixels`, some columns at a time."""
    _, band, length = weights.shape
    count = pixels.shape[1]
    sums = np.empty((WIRE_SIZE_PX, count), dtype=np.float32)
    step = math.ceil(count / math.ceil(band * length * count / _PRODUCT))
    for left in range(0, count, step):
        columns = slice(left, left + step)
        block = pixels[:, columns].astype(np.float32, copy=False)
        for top, weight, start in zip(range(0, WIRE_SIZE_PX, band), weights, starts, strict=True):
            np.matmul(weight, block[start : start + length], out=sums[top : top + band, columns])
    return sums
