"""Surfaces that never look flat: tileable fractal noise, foliage and film grain, made once per process."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=128)
def fractal(seed: int, size: int = 256, steepness: float = 1.2) -> NDArray[np.float32]:
    """float32[size,size] tileable noise of mean 0 and deviation 1; a larger `steepness` is smoother."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((size, size)))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum / frequency**steepness, s=(size, size))
    return (noise / noise.std()).astype(np.float32)


@lru_cache(maxsize=8)
def grain(seed: int) -> NDArray[np.float32]:
    """float32[1024,1280,3] noise of deviation 1, a little correlated as a demosaiced sensor's is."""
    noise = np.random.default_rng(seed).standard_normal((1024, 1280, 3), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (3, 3), 0.6)
    luma = noise.mean(axis=2, keepdims=True)
    mixed = 0.5 * noise + luma
    return (mixed / mixed.std()).astype(np.float32)


@lru_cache(maxsize=64)
def foliage(seed: int, mirrored: bool = False, heap: bool = False) -> tuple[NDArray[np.float32], ...]:
    """Leafy crowns float32[H,S,2], ever smaller: opacity in [0,1] and shading about 1; `heap` has no lower half."""
    size = 160
    span = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(span, span)
    coarse, fine = fractal(seed, size, 1.7), fractal(seed + 1000, size, 0.8)
    edge = 0.78 - np.hypot(x, y) + 0.16 * coarse + 0.07 * fine
    cover = np.clip(edge * 9.0, 0, 1)
    # lit from above, dark underneath, with clumps
    light = np.clip(0.92 - 0.28 * y + 0.13 * coarse + 0.15 * fine, 0.25, 1.7)
    crown = np.stack((cover, light), axis=2)[: 93 if heap else size, :: -1 if mirrored else 1]
    levels = [np.ascontiguousarray(crown, dtype=np.float32)]
    while levels[-1].shape[1] > 12:
        high, wide = levels[-1].shape[:2]
        small = cv2.resize(levels[-1], (wide // 2, high // 2), interpolation=cv2.INTER_AREA)
        levels.append(small.astype(np.float32, copy=False))
    return tuple(levels)


def window(texture: NDArray[np.float32], rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """float32[height,width,...]: a random part of a texture at least that large."""
    top = int(rng.integers(0, texture.shape[0] - height + 1))
    left = int(rng.integers(0, texture.shape[1] - width + 1))
    return texture[top : top + height, left : left + width]
