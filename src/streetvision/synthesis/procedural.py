"""Synthetic pictures without a diffusion model: the renderer in another hand, and edits of given pictures.

Text-to-image draws a scene of its own seed space with other fronts, palette and shading, as far as the prompt says
what; image-to-image repaints texture, colour and light of its source, and leaves what the source shows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from streetvision.data.procedural import RENDERER_VERSION, ground, lens, render
from streetvision.data.procedural.texture import fractal
from streetvision.errors import ImageError, SettingsError
from streetvision.synthesis import Request

SIZE_PX = 512  # side of a drawn picture; an edited one with a larger side is squeezed into that square
_HAND = 0.55  # how far a drawn picture departs from the camera's look
_ARCHED = 5  # added to a house's style

# words of a prompt -> what they ask for; the first that is found counts
_WEATHER = {
    "snow": "snow",
    "fog": "fog",
    "rain": "rain",
    "overcast": "overcast",
    "cloud": "overcast",
    "clear": "clear",
    "low sun": "clear",
}
_TIMES = {"night": "night", "dusk": "dusk", "low sun": "dusk", "morning": "day", "noon": "day", "afternoon": "day"}
_STREETS = {
    "motorway": "highway",
    "four-lane": "highway",
    "bridge": "highway",
    "country": "rural",
    "hillside": "rural",
    "suburban": "suburb",
    "village": "suburb",
    "industrial": "suburb",
    "city": "city",
    "boulevard": "city",
    "one-way": "city",
    "junction": "city",
    "roundabout": "city",
}
_ROADWORK = {
    "cone": "cones",
    "barrier": "barriers",
    "fence": "fence",
    "trench": "trench",
    "dug-up": "trench",
    "manhole": "trench",
    "excavator": "excavator",
    "paver": "roller",
    "roller": "roller",
    "arrow board": "lorry",
    "utility van": "lorry",
    "workers": "workers",
    "roadwork sign": "signs",
}
_LOOKALIKES = {
    "orange hatchback": "orange cars",
    "lorry parked": "parked lorry",
    "triangular": "triangles",
    "red and white posts": "striped posts",
    "cyclist": "cyclists",
    "skip": "skip",
    "leaves": "leaf piles",
    "refuse lorry": "lorry ahead",
    "bins": "bins",
}


class ProceduralBackend:
    """Draws and edits street scenes on the CPU; the same request gives the same picture."""

    name = "procedural"
    revision = f"{RENDERER_VERSION}.1"

    def generate(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
        """One uint8[H,W,3] RGB picture per request, in order.

        Raises:
            SettingsError: a strength outside (0, 1] or a label other than 0 and 1.
            ImageError: a source that is not uint8[H,W,3].
        """
        return [_generate(request) for request in requests]


def _generate(request: Request) -> NDArray[np.uint8]:
    if request.label not in (0, 1):
        raise SettingsError(f"label is `{request.label}`, expected 0 or 1")
    if request.source is None:
        return _drawn(request)
    if not 0.0 < request.strength <= 1.0:
        raise SettingsError(f"strength is `{request.strength}`, expected more than 0 and at most 1")
    source = request.source
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
        raise ImageError(f"source picture is {source.dtype}{list(source.shape)}, expected uint8[H,W,3]")
    if max(source.shape[:2]) > SIZE_PX:
        source = cv2.resize(source, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return _repainted(source, request.strength, _rng("edit", request))


def _rng(purpose: str, request: Request) -> np.random.Generator:
    """Random numbers that no picture of another request, purpose or source shares."""
    digest = hashlib.sha256(f"{purpose}/{request.label}/{request.seed}/{request.prompt}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _drawn(request: Request) -> NDArray[np.uint8]:
    rng = _rng("draw", request)
    prompt = request.prompt.lower()
    scene = render.compose(
        request.label,
        int(rng.integers(2**62)),
        render.Wishes(
            weather=_first(_WEATHER, prompt),
            time=_first(_TIMES, prompt),
            street=_first(_STREETS, prompt),
            items=frozenset(
                item for word, item in (_ROADWORK if request.label else _LOOKALIKES).items() if word in prompt
            ),
        ),
    )
    houses = tuple(replace(house, style=house.style + _ARCHED) for house in scene.buildings)
    scene = replace(scene, buildings=houses)
    view = scene.viewpoint
    view = replace(view, focal=view.focal * float(rng.uniform(1.0, 1.25)), height_m=view.height_m + 0.15, bonnet=False)
    scene = replace(scene, viewpoint=view)
    canvas = render.draw(scene, render.camera_of(scene, SIZE_PX, SIZE_PX), ground.paint(scene))
    lens.precipitate(canvas.image, scene.look, rng)
    lens.bloom(canvas)
    return _repainted(canvas.image, _HAND, rng)


def _first(words: dict[str, str], prompt: str) -> str | None:
    return next((meaning for word, meaning in words.items() if word in prompt), None)


def _repainted(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture with its edges where they were; texture, palette and light change as far as `strength` allows."""
    height, width = image.shape[:2]
    bent = _bend(image, 2.2 * strength * min(height, width) / SIZE_PX, rng)
    flat = cv2.bilateralFilter(bent, 7, 18 + 40 * strength, 4)
    rough = cv2.blur(cv2.cvtColor(cv2.absdiff(bent, flat), cv2.COLOR_RGB2GRAY).astype(np.float32), (9, 9))
    brush = np.float32(0.9 * strength) * rough * _field(rng, height, width, 0.7)
    light = 1 + np.float32(0.16 * strength) * _field(rng, height, width, 2.4)
    slope = rng.normal(0, 0.16 * strength, 2)
    across, down = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    light *= (1 + np.clip(slope[0] * across[None, :] + slope[1] * down[:, None], -0.4, 0.4)).astype(np.float32)
    kept = 1 - 0.6 * strength  # of the detail
    picture = cv2.addWeighted(bent, kept, flat, 1 - kept, 0, dtype=cv2.CV_32F)
    picture = (picture + brush[..., None]) * light[..., None]
    return _recoloured(np.clip(picture, 0, 255).astype(np.uint8), strength, rng)


def _field(rng: np.random.Generator, height: int, width: int, steepness: float) -> NDArray[np.float32]:
    """float32[H,W] smooth noise of deviation about 1."""
    noise = np.roll(fractal(int(rng.integers(8)), 256, steepness), rng.integers(0, 256, 2).tolist(), (0, 1))
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _bend(image: NDArray[np.uint8], reach_px: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Straight lines a little less straight, as diffusion models draw them."""
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x += np.float32(reach_px) * np.clip(_field(rng, height, width, 1.9), -2, 2)
    y += np.float32(reach_px) * np.clip(_field(rng, height, width, 1.9), -2, 2)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101).astype(np.uint8)


def _recoloured(picture: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Hue, saturation and tone moved together, shadows towards one tint and lights towards its opposite."""
    turn = float(rng.normal(0, 0.14)) * strength
    chroma = float(np.exp(rng.normal(0.08, 0.22) * strength))
    spin = np.array(((np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn)))) * chroma
    tint = rng.normal(0, 9.0, 2) * strength
    gamma = float(np.exp(rng.normal(-0.03, 0.16) * strength))
    level = np.linspace(0, 1, 256)
    curve = level**gamma
    curve += 0.12 * strength * (curve - 0.5) * (1 - np.abs(2 * curve - 1))  # a little more contrast
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    # colour, centred on 128, is turned and stretched; the tint grows with the level, from -1/2 to 1/2
    moved = np.zeros((3, 4))
    moved[0, 0] = 1
    moved[1:, 1:3] = spin
    moved[1:, 0] = tint / 255
    moved[1:, 3] = 128 - spin @ (128, 128) - tint / 2
    lab = cv2.transform(lab, moved)
    lab[..., 0] = cv2.LUT(lab[..., 0], np.clip(curve * 255, 0, 255).astype(np.uint8))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.uint8)
