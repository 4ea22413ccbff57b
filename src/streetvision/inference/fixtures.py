"""Pictures to try an engine on before it serves: always the same, drawn here, of street scenes and of extremes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_SCENES = 8
_ORANGE, _WHITE, _GREY = (255, 110, 20), (245, 245, 245), (95, 95, 100)


def fixture_images(size_px: int) -> NDArray[np.uint8]:
    """16 pictures, uint8[16,S,S,3]: scenes with and without roadwork, noise, gradients, stripes, black and white.

    Args:
        size_px: side S of each.
    """
    rng = np.random.default_rng(72)
    scenes = [_scene(rng, size_px, roadwork=number % 2 == 1) for number in range(_SCENES)]
    return np.stack([*scenes, *_extremes(rng, size_px)])


def _scene(rng: np.random.Generator, size_px: int, *, roadwork: bool) -> NDArray[np.uint8]:
    """A road under the sky between house fronts, with sensor noise; roadwork puts cones and a barrier on it."""
    image = Image.new("RGB", (size_px, size_px), tuple(int(v) for v in rng.integers(120, 230, 3)))
    draw = ImageDraw.Draw(image)

    def polygon(points: list[tuple[float, float]], colour: tuple[int, ...]) -> None:
        draw.polygon([(x * size_px, y * size_px) for x, y in points], fill=colour)

    horizon = rng.uniform(0.35, 0.5)
    for side in (0.0, 0.62):
        top, colour = rng.uniform(0.05, 0.25), tuple(int(v) for v in rng.integers(60, 200, 3))
        polygon([(side, top), (side + 0.38, top), (side + 0.38, horizon), (side, horizon)], colour)
    polygon([(0, horizon), (1, horizon), (1, 1), (0, 1)], tuple(int(v) for v in rng.integers(70, 140, 3)))
    polygon([(0.45, horizon), (0.55, horizon), (1, 1), (0, 1)], _GREY)
    polygon([(0.495, horizon), (0.505, horizon), (0.53, 1), (0.47, 1)], _WHITE)
    if roadwork:
        for _ in range(3):
            x, y, size = rng.uniform(0.2, 0.8), rng.uniform(0.7, 0.95), rng.uniform(0.08, 0.16)
            polygon([(x, y - size), (x + size / 3, y), (x - size / 3, y)], _ORANGE)
            polygon([(x - size / 8, y - size / 2), (x + size / 8, y - size / 2), (x, y - size / 3)], _WHITE)
        for stripe in range(6):
            left = 0.25 + stripe * 0.08
            polygon([(left, 0.6), (left + 0.08, 0.6), (left + 0.08, 0.68), (left, 0.68)], (_ORANGE, _WHITE)[stripe % 2])
    noisy = np.asarray(image).astype(np.float64) + rng.normal(0, 6, (size_px, size_px, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _extremes(rng: np.random.Generator, size_px: int) -> list[NDArray[np.uint8]]:
    ramp = np.linspace(0, 255, size_px).astype(np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    black = np.zeros((size_px, size_px, 3), dtype=np.uint8)
    stripes = np.where((np.add.outer(np.arange(size_px), np.arange(size_px)) // 8 % 2 == 0)[..., None], _ORANGE, _WHITE)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((size_px, size_px), Image.Resampling.BICUBIC))
    checks = np.where((np.add.outer(np.arange(size_px), np.arange(size_px)) % 2 == 0)[..., None], 255, black)
    return [
        black,
        np.full_like(black, 255),
        np.full_like(black, _ORANGE),
        np.stack([red, green, 255 - red], axis=-1),
        stripes.astype(np.uint8),
        checks.astype(np.uint8),
        rng.integers(0, 256, black.shape, dtype=np.uint8),
        smooth,
    ]
