"""What the air and the camera add: bloom, rain and snow, blur, vignette, white balance and noise."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from streetvision.data.procedural.canvas import Canvas
from streetvision.data.procedural.look import Look
from streetvision.data.procedural.texture import grain, window


def develop(canvas: Canvas, rng: np.random.Generator, *, bonnet: int | None) -> NDArray[np.uint8]:
    """uint8[H,W,3]: the drawn canvas as a dashboard camera records it; `bonnet` is the seed of the car it sits in."""
    look, image = canvas.look, canvas.image
    height, width = image.shape[:2]
    precipitate(image, look, rng)
    if bonnet is not None:
        _bonnet(image, look, np.random.default_rng(bonnet))
    picture = image.astype(np.float32)
    bloom(canvas)
    sigma = float(rng.choice((0.45, 0.6, 0.8, 1.1), p=(0.4, 0.3, 0.2, 0.1)))
    picture = cv2.GaussianBlur(image, (5, 5), sigma)
    if rng.random() < 0.15:  # the car moves, the road shakes
        picture = cv2.blur(picture, (int(rng.choice((3, 1))), 3))
    picture = cv2.transform(picture, _colour_response(look, rng))
    noise = float(rng.uniform(1.2, 4.5)) + {"day": 0.0, "dusk": 1.5, "night": 4.0}[look.time]
    falloff = 1 - np.float32(rng.uniform(0.05, 0.3)) * _corners(height, width)
    exposed = cv2.multiply(picture, falloff, dtype=cv2.CV_32F)
    exposed = cv2.scaleAdd(window(grain(0), rng, height, width), noise, exposed)
    return np.clip(exposed, 0, 255).astype(np.uint8)


def bloom(canvas: Canvas) -> None:
    """Adds the glow of lights to the picture."""
    height, width = canvas.image.shape[:2]
    wide = cv2.convertScaleAbs(cv2.blur(canvas.glow, (41, 41)), alpha=0.6)
    glow = cv2.add(cv2.GaussianBlur(canvas.glow, (0, 0), 3.0), wide)
    glow = cv2.convertScaleAbs(glow, alpha=1.0 if canvas.look.lamps else 0.35)
    cv2.add(canvas.image, cv2.resize(glow, (width, height), interpolation=cv2.INTER_LINEAR), canvas.image)


def _colour_response(look: Look, rng: np.random.Generator) -> NDArray[np.float32]:
    """float32[3,4]: exposure, white balance, contrast and saturation as one affine map of colours."""
    exposure = float(np.clip(rng.normal(1.0, 0.1), 0.75, 1.3)) * (1.12 if look.time == "night" else 1.0)
    balance = np.clip(rng.normal(1.0, 0.025, 3), 0.94, 1.06) * exposure
    contrast = float(rng.uniform(0.9, 1.18))
    saturation = float(rng.uniform(0.65, 1.15)) if rng.random() < 0.5 else 1.0
    mix = saturation * np.eye(3) + (1 - saturation) / 3
    offset = np.full((3, 1), 118.0 * (1 - contrast))
    return np.concatenate((contrast * mix * balance[None, :], offset), axis=1).astype(np.float32)


@lru_cache(maxsize=4)
def _corners(height: int, width: int) -> NDArray[np.float32]:
    """float32[H,W,3]: 0 in the middle, 1 in the corners."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] ** 2
    shade = (x + y) / 2
    return np.repeat(shade[..., None], 3, axis=2).astype(np.float32)


def precipitate(image: NDArray[np.uint8], look: Look, rng: np.random.Generator) -> None:
    """Adds rain or snow in the air, and drops on the windscreen."""
    height, width = image.shape[:2]
    if look.weather == "rain":
        layer = np.zeros((height, width), np.uint8)
        count, slant = int(rng.integers(120, 420)), float(rng.uniform(-3, 3))
        start = rng.random((count, 2)) * (width, height)
        length = rng.uniform(5, 17, (count, 1))
        ends = start + length * (slant * 0.1, 1.0)
        lines = np.stack((start, ends), axis=1).astype(np.int32)
        cv2.polylines(layer, list(lines), False, 255, 1, cv2.LINE_AA)
        streaks = cv2.convertScaleAbs(layer, alpha=float(rng.uniform(0.1, 0.26)) * (0.5 if look.time == "day" else 0.3))
        cv2.add(image, cv2.merge((streaks, streaks, streaks)), image)
        for _ in range(int(rng.integers(0, 12))):  # drops on the windscreen bend what is behind them
            x, y, r = int(rng.integers(10, width - 10)), int(rng.integers(10, height - 10)), int(rng.integers(3, 9))
            part = image[max(y - r, 0) : y + r, max(x - r, 0) : x + r]
            part[:] = cv2.blur(part[::-1], (5, 5))
    elif look.weather == "snow":
        light = 246 if look.time == "day" else 170
        for x, y, r in rng.random((int(rng.integers(60, 260)), 3)) * (width, height, 1.0):
            radius = int((0.5 + 1.9 * r**3) * 16)
            cv2.circle(image, (int(x * 16), int(y * 16)), radius, (light, light, light), -1, cv2.LINE_AA, 4)


def _bonnet(image: NDArray[np.uint8], look: Look, rng: np.random.Generator) -> None:
    """The dashboard camera's own car at the bottom of the picture."""
    height, width = image.shape[:2]
    rise = float(rng.uniform(0.03, 0.09)) * height
    x = np.linspace(0, width, 24)
    y = height - rise * (1 - ((x - width * rng.uniform(0.4, 0.6)) / (0.75 * width)) ** 2)
    outline = np.concatenate((np.stack((x, y), axis=1), ((width, height + 2), (0, height + 2))))
    tone = float(rng.choice((28, 60, 150, 190))) * (look.ambient[1] + 0.3 * look.sun[1])
    cv2.fillPoly(image, [(outline * 16).astype(np.int32)], (tone * 0.97, tone, tone * 1.04), cv2.LINE_AA, 4)
    line = (np.stack((x, y + 1.5), axis=1) * 16).astype(np.int32)
    cv2.polylines(image, [line], False, (min(tone * 1.7 + 20, 255),) * 3, 1, cv2.LINE_AA, 4)
