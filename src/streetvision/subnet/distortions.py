"""The five distortions that validators lay over a picture, true to the last bit, flaws included.

Source: natixnetwork/streetvision-subnet natix/utils/image_transforms.py @ 28a1755
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streetvision.subnet.regimes import DISTORTIONS

# Parameter by strength; strength 0 leaves the picture alone.
CHROMA_SCALE = (1.0, *DISTORTIONS["CS"])
BRIGHTNESS_SCALE = (1.0, *DISTORTIONS["CC"])
COARSENESS = (1, *map(int, DISTORTIONS["JPEG"]))  # upstream calls it JPEG, which it is not
NOISE_VARIANCE = (0.0, *DISTORTIONS["GNC"])
BLUR_KERNEL_PX = (1, *map(int, DISTORTIONS["GB"]))


def fade(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Chroma scaled about its middle; values outside 0 to 255 wrap around, as they do on the network (CS)."""
    planes = _to_ycbcr(image)
    for chroma in planes[1:]:
        chroma -= np.float32(0.5)
        chroma *= np.float32(scale)
        chroma += np.float32(0.5)
    return _to_rgb(planes).astype(np.int32).astype(np.uint8)


def darken(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Every value times `scale`, truncated (CC)."""
    table = (np.arange(256, dtype=np.float32) * np.float32(scale)).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table), dtype=np.uint8)


def coarsen(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Shrunk by `factor` and enlarged again, both without antialiasing (JPEG)."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // factor, height // factor))
    return np.asarray(cv2.resize(small, (width, height)), dtype=np.uint8)


def add_noise(image: NDArray[np.uint8], variance: float, noise: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Noise of that variance on brightness and both chromas (GNC).

    Args:
        image: uint8[H,W,3] RGB.
        variance: of the noise, where 1 is the whole range of a channel.
        noise: float64[H,W,3], drawn from the standard normal distribution; Y, Cb, Cr.
    """
    noisy: list[NDArray[np.float32]] = []
    for channel, plane in enumerate(_to_ycbcr(image)):
        values = noise[..., channel] * math.sqrt(variance)
        values += plane / np.float32(255)
        values *= 255
        noisy.append(values.astype(np.float32))
    return np.clip(_to_rgb(noisy), 0, 255).astype(np.uint8)


def blur(image: NDArray[np.uint8], kernel_px: int) -> NDArray[np.uint8]:
    """Gaussian blur whose standard deviation is a sixth of its kernel (GB)."""
    return np.asarray(cv2.GaussianBlur(image, (kernel_px, kernel_px), kernel_px / 6), dtype=np.uint8)


def _to_ycbcr(image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Y, Cb, Cr as float32[H,W], scaled as if pixels ran from 0 to 1, which they do not."""
    y, cr, cb = cv2.split(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb))
    planes = [np.asarray(plane, dtype=np.float32) for plane in (y, cb, cr)]
    for plane, span in zip(planes, (219, 224, 224), strict=True):
        plane *= np.float32(span)
        plane += np.float32(16)
        plane /= np.float32(255)
    return planes


def _to_rgb(planes: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    for plane, span in zip(planes, (219, 224, 224), strict=True):
        plane *= np.float32(255)
        plane -= np.float32(16)
        plane /= np.float32(span)
    y, cb, cr = planes
    return np.asarray(cv2.cvtColor(cv2.merge([y, cr, cb]), cv2.COLOR_YCrCb2RGB), dtype=np.float32)
