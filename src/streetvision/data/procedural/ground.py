"""The ground: a map of the street painted once per scene, then seen through the camera."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streetvision.data.procedural.canvas import Canvas
from streetvision.data.procedural.look import Look, Rgb
from streetvision.data.procedural.scene import Scene, Street, Thing
from streetvision.data.procedural.texture import fractal

HALF_WIDTH_M = 16.0
START_M, END_M = -2.0, 70.0
ACROSS_PX, ALONG_PX = 16.0, 7.0  # pixels per metre
_SHAPE = (int((END_M - START_M) * ALONG_PX), int(2 * HALF_WIDTH_M * ACROSS_PX))

# kind: half width, length, height in metres; what throws a shadow
_FOOTPRINTS: dict[str, tuple[float, float, float]] = {
    "car": (0.9, 4.2, 1.3),
    "van": (1.0, 5.2, 2.2),
    "lorry": (1.2, 7.5, 3.0),
    "works lorry": (1.2, 6.6, 2.6),
    "crossing car": (2.0, 1.7, 1.3),
    "excavator": (1.9, 2.0, 2.6),
    "roller": (2.0, 1.6, 2.2),
    "pedestrian": (0.22, 0.25, 1.7),
    "worker": (0.25, 0.3, 1.75),
    "cyclist": (0.3, 0.8, 1.6),
    "cone": (0.24, 0.4, 0.7),
    "drum": (0.3, 0.5, 1.0),
    "beacon": (0.25, 0.2, 1.1),
    "spoil": (1.1, 1.2, 0.6),
    "pipes": (0.9, 3.0, 0.9),
    "skip": (0.9, 3.4, 1.2),
    "tree": (1.5, 3.0, 5.0),
    "bush": (1.0, 1.6, 1.0),
    "bin": (0.28, 0.6, 1.0),
    "parasol": (1.2, 2.4, 2.4),
    "striped post": (0.08, 0.1, 1.0),
    "lamp": (0.07, 0.1, 6.0),
    "works triangle": (0.35, 0.2, 1.7),
    "works diamond": (0.4, 0.2, 2.0),
    "detour sign": (0.7, 0.1, 1.7),
    "ordinary triangle": (0.2, 0.1, 2.5),
    "billboard": (1.6, 0.1, 2.8),
}


@dataclass(frozen=True, eq=False)
class GroundMap:
    """The lit ground of a scene, uint8[R,C,3], rows along the street from `START_M`; `far` is what distance blurs."""

    near: NDArray[np.uint8]
    far: NDArray[np.uint8]


def paint(scene: Scene) -> GroundMap:
    """The map of the scene's ground."""
    street, look = scene.street, scene.look
    rng = np.random.default_rng(street.seed)
    ground = np.empty((*_SHAPE, 3), np.uint8)
    _surfaces(ground, street, look)
    _wear(ground, street, rng)
    _markings(ground, street)
    _digs(ground, street, rng)
    albedo = ground.astype(np.float32)
    texture = fractal(int(rng.integers(16)), 256, 0.75)
    stains = cv2.resize(fractal(int(rng.integers(16)), 64, 1.6), (_SHAPE[1], _SHAPE[0]), interpolation=cv2.INTER_CUBIC)
    noise = np.tile(texture, (3, 3))[: _SHAPE[0], : _SHAPE[1]]
    albedo *= (np.float32(1.0) + np.float32(0.055) * noise + np.float32(0.07) * stains)[..., None]
    if look.snow:
        cover = _snow(street, look, stains + 0.4 * noise)[..., None]
        albedo += cover * (np.array((236, 239, 244), np.float32) - albedo)
    if look.wet:
        albedo *= 1.0 - 0.3 * look.wet
    if look.season == "autumn":
        spots = (noise > 2.1) & (rng.random(_SHAPE, dtype=np.float32) < 0.7)
        albedo[spots] = (168, 104, 40)
    albedo *= _light(scene)
    near = np.clip(albedo, 0, 255).astype(np.uint8)
    return GroundMap(near, cv2.blur(near, (5, 29)).astype(np.uint8, copy=False))


def draw(canvas: Canvas, ground: GroundMap) -> None:
    """Fills the picture below the horizon with the ground map as the camera sees it."""
    camera, look = canvas.camera, canvas.look
    u, s = camera.ground()
    column, row = (u + HALF_WIDTH_M) * ACROSS_PX, (s - START_M) * ALONG_PX
    depth = np.maximum(s - camera.advance_m, 0.0)
    seen = cv2.remap(ground.near, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    last = int(np.count_nonzero(depth.max(axis=1) > 10.0))  # rows above it see further than 10 m
    far = cv2.remap(ground.far, column[:last], row[:last], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    share = np.clip((depth[:last] - 10.0) / 22.0, 0, 1)
    seen[:last] = cv2.blendLinear(seen[:last], far, 1 - share, share)
    gain = np.ones_like(depth)
    close = int(np.count_nonzero(depth.min(axis=1) > 12.0))
    grit = cv2.remap(fractal(3, 256, 0.5), u[close:] * 55, s[close:] * 55, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    gain[close:] += 0.3 * grit / (4.0 + depth[close:])
    if look.headlight:
        aside = (u - camera.lateral_m) / (1.2 + 0.22 * depth)
        gain += 2.0 * look.headlight * np.exp(-depth / 16.0 - aside * aside / 2)
    clear = np.exp(depth * np.float32(-look.haze_per_m))
    gain *= clear
    image, first = canvas.image, camera.horizon_row
    lit = cv2.multiply(seen, cv2.merge((gain, gain, gain)), dtype=cv2.CV_32F)
    murk = 1 - clear
    lit += cv2.merge([murk * np.float32(level) for level in look.haze])
    ahead = (depth > 0.0).astype(np.uint8)  # with a rolled camera the first rows also see sky
    cv2.copyTo(cv2.convertScaleAbs(lit), ahead, image[first:])
    if look.wet:
        _reflect(canvas)


def _reflect(canvas: Canvas) -> None:
    """Mirrors what stands behind, smeared, in wet ground."""
    image, first = canvas.image, canvas.camera.horizon_row
    rows = min(first, image.shape[0] - first)
    if rows < 8:
        return
    mirrored = cv2.blur(image[first - rows : first][::-1], (5, 41)).astype(np.float32)
    below = image[first : first + rows]
    share = canvas.look.wet * np.linspace(0.5, 0.12, rows, dtype=np.float32)[:, None, None]
    image[first : first + rows] = (below + share * (mirrored - below)).astype(np.uint8)


def _column(u: float) -> int:
    return int(np.clip((u + HALF_WIDTH_M) * ACROSS_PX, 0, _SHAPE[1]))


def _row(s: float) -> int:
    return int(np.clip((s - START_M) * ALONG_PX, 0, _SHAPE[0]))


def _map_pixels(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """int32[N,2] (column, row) of float64[N,2] ground points (u, s)."""
    return ((points - np.array((-HALF_WIDTH_M, START_M))) * np.array((ACROSS_PX, ALONG_PX))).astype(np.int32)


def _fill(ground: NDArray[np.uint8], box: tuple[float, float, float, float], colour: Rgb) -> None:
    left, s, right, end = box
    first, last = (_column(left), _row(s)), (_column(right) - 1, _row(end) - 1)
    if first[0] <= last[0] and first[1] <= last[1]:
        cv2.rectangle(ground, first, last, colour, -1)


def _surfaces(ground: NDArray[np.uint8], street: Street, look: Look) -> None:
    grass: Rgb = {"summer": (92, 112, 60), "autumn": (116, 108, 62), "winter": (112, 108, 80)}[look.season]
    beyond: Rgb = (148, 145, 139) if street.kind == "city" else grass
    ground[:] = beyond
    paving: Rgb = (156, 152, 146)
    _fill(ground, (street.left - street.pavement, START_M, street.left, END_M), paving)
    _fill(ground, (street.right, START_M, street.right + street.pavement, END_M), paving)
    if street.pavement > 0.5:
        joint: Rgb = (136, 132, 126)
        for s in np.arange(START_M, END_M, 1.2):
            _fill(ground, (street.left - street.pavement, s, street.left, s + 0.13), joint)
            _fill(ground, (street.right, s, street.right + street.pavement, s + 0.13), joint)
    a = street.asphalt
    _fill(ground, (street.left, START_M, street.right, END_M), (a, a * 0.99, a * 0.98))
    kerb: Rgb = (178, 175, 168)
    if street.pavement > 0.5:
        for u in (street.left - 0.2, street.right):
            _fill(ground, (u, START_M, u + 0.2, END_M), kerb)


def _wear(ground: NDArray[np.uint8], street: Street, rng: np.random.Generator) -> None:
    """Patches, cracks, covers and the darker tracks of tyres."""
    width = street.right - street.left
    for _ in range(int(rng.integers(0, 7))):
        u, s = street.left + rng.random() * width, rng.uniform(START_M, 60)
        shade = street.asphalt * float(rng.uniform(0.72, 1.12))
        right = min(u + rng.uniform(0.5, 2.5), street.right)
        _fill(ground, (u, s, right, s + rng.uniform(0.8, 9)), (shade, shade, shade))
    for _ in range(int(rng.integers(0, 6))):
        steps = rng.normal((0.0, 0.5), (0.22, 0.35), (14, 2)).cumsum(axis=0)
        points = steps + np.array((rng.uniform(street.left, street.right), rng.uniform(START_M, 50)))
        pixels = _map_pixels(points)
        cv2.polylines(ground, [pixels], False, (street.asphalt * 0.55,) * 3, 1, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 4))):
        at = (_column(street.left + rng.random() * width), _row(rng.uniform(4, 40)))
        cv2.ellipse(
            ground, at, (int(0.35 * ACROSS_PX), int(0.35 * ALONG_PX) + 1), 0, 0, 360, (street.asphalt * 0.6,) * 3, -1
        )


def _markings(ground: NDArray[np.uint8], street: Street) -> None:
    white: Rgb = (222, 222, 216)
    middle: Rgb = (214, 168, 44) if street.yellow else white
    for u in street.lines:
        for s in np.arange(START_M, END_M, 6.0):
            _fill(ground, (u - 0.07, s, u + 0.07, s + 2.6), white)
    offsets = {"dashed": (0.0,), "solid": (0.0,), "double": (-0.14, 0.14), "none": ()}[street.centre]
    for offset in offsets:
        if street.centre == "dashed":
            for s in np.arange(START_M + 1, END_M, 6.0):
                _fill(ground, (offset - 0.07, s, offset + 0.07, s + 2.6), middle)
        else:
            _fill(ground, (offset - 0.07, START_M, offset + 0.07, END_M), middle)
    if street.kind in ("rural", "highway"):
        _fill(
            ground,
            (street.left + 0.25, START_M, street.left + 0.4, END_M),
            middle if street.kind == "highway" else white,
        )
        _fill(ground, (street.right - 0.4, START_M, street.right - 0.25, END_M), white)
    if street.crossing_s is not None:
        for u in np.arange(street.left + 0.3, street.right - 0.4, 1.0):
            _fill(ground, (u, street.crossing_s, u + 0.5, street.crossing_s + 3.0), white)


def _digs(ground: NDArray[np.uint8], street: Street, rng: np.random.Generator) -> None:
    for dig in street.digs:
        box = (dig.left, dig.s, dig.right, dig.end_s)
        if dig.kind == "trench":
            rim = (dig.left - 0.35, dig.s - 0.5, dig.right + 0.35, dig.end_s + 0.5)
            _fill(ground, rim, (140, 116, 88))
            _fill(ground, box, (58, 44, 34))
            _fill(ground, (dig.left, dig.s, dig.left + 0.2, dig.end_s), (96, 76, 56))
        elif dig.kind == "plates":
            for s in np.arange(dig.s, dig.end_s - 1.5, 2.6):
                _fill(ground, (dig.left, s, dig.right, s + 2.4), (104, 96, 90))
                _fill(ground, (dig.left, s, dig.right, s + 0.15), (60, 56, 54))
        else:
            tone: Rgb = (152, 138, 116) if dig.kind == "gravel" else (104, 101, 97)
            _fill(ground, box, tone)
            if dig.kind == "milled":
                for u in np.arange(dig.left, dig.right, 0.22):
                    _fill(ground, (u, dig.s, u + 0.08, dig.end_s), (84, 81, 78))
        part = ground[_row(dig.s) : _row(dig.end_s), _column(dig.left) : _column(dig.right)]
        rough = rng.normal(1.0, 0.1, part.shape[:2]).astype(np.float32)[..., None]
        part[:] = np.clip(part * rough, 0, 255).astype(np.uint8)


def _snow(street: Street, look: Look, texture: NDArray[np.float32]) -> NDArray[np.float32]:
    u = np.linspace(-HALF_WIDTH_M, HALF_WIDTH_M, _SHAPE[1], dtype=np.float32)
    road = (u > street.left) & (u < street.right)
    lane = np.abs((u - street.left) % 1.7 - 0.85)  # tyres keep tracks clear
    depth = np.where(road, look.snow * 1.3 - 0.75 + 0.35 * (lane - 0.4), look.snow + 0.25)
    return np.clip(depth[None, :] + 0.22 * texture, 0, 0.94)


def _light(scene: Scene) -> NDArray[np.float32]:
    """float32[R,C,3] gain of the ground: ambient, sun outside shadows, pools under lamps."""
    look = scene.look
    cast, contact = np.zeros(_SHAPE, np.uint8), np.zeros(_SHAPE, np.uint8)
    sun = look.sun_direction
    sunny = look.sun[0] > 0.1
    shift = (-sun[0] / max(sun[1], 0.15), -sun[2] / max(sun[1], 0.15))
    for thing in scene.things:
        size = _FOOTPRINTS.get(thing.kind)
        if size is not None:
            _shadow(contact, _footprint(thing, size), (0.0, 0.0))
            if sunny:
                reach = size[2] * thing.size
                _shadow(cast, _footprint(thing, size), (shift[0] * reach, shift[1] * reach))
    for house in scene.buildings if sunny else ():
        back = house.u + np.sign(house.u) * 8.0
        box = (min(house.u, back), house.s, max(house.u, back), house.end_s)
        reach = 3.0 * house.storeys
        _shadow(cast, box, (shift[0] * reach, shift[1] * reach))
    half = (_SHAPE[1] // 2, _SHAPE[0] // 2)
    occluded = cv2.resize(cv2.blur(contact, (13, 7)), half).astype(np.float32)[..., None] / 255.0
    shaded = cv2.resize(cv2.blur(cast, (5, 3)), half).astype(np.float32)[..., None] / 255.0
    direct = np.array(look.sun, np.float32) * np.float32(max(sun[1], 0.0))
    gain = np.array(look.ambient, np.float32) + direct * (1 - shaded)
    gain *= 1 - 0.55 * occluded
    if look.lamps:
        gain += cv2.resize(_pools(scene), half)[..., None] * np.array((0.95, 0.76, 0.5), np.float32)
    return cv2.resize(gain, (_SHAPE[1], _SHAPE[0]), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)


def _pools(scene: Scene) -> NDArray[np.float32]:
    u = np.linspace(-HALF_WIDTH_M, HALF_WIDTH_M, 40, dtype=np.float32)[None, :]
    s = np.linspace(START_M, END_M, 80, dtype=np.float32)[:, None]
    pools = np.zeros((80, 40), np.float32)
    strength = 0.6 if scene.look.time == "night" else 0.18
    for thing in scene.things:
        if thing.kind == "lamp":
            distance = (u - thing.u - 1.6 * thing.turn) ** 2 + (s - thing.s) ** 2
            pools += strength * np.exp(-distance / 40.0)
    return pools


def _footprint(thing: Thing, size: tuple[float, float, float]) -> tuple[float, float, float, float]:
    half, length = size[0] * thing.size, size[1] * thing.size
    return (thing.u - half, thing.s, thing.u + half, thing.s + length)


def _shadow(mask: NDArray[np.uint8], box: tuple[float, float, float, float], shift: tuple[float, float]) -> None:
    left, s, right, end = box
    corners = np.array(((left, s), (right, s), (right, end), (left, end)))
    points = np.concatenate((corners, corners + np.array(shift)))
    pixels = _map_pixels(points)
    cv2.fillConvexPoly(mask, cv2.convexHull(pixels), 255)
