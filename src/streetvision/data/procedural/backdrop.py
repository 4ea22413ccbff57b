"""Sky, skyline and house fronts."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from streetvision.data.procedural.canvas import Canvas
from streetvision.data.procedural.look import Look, Rgb
from streetvision.data.procedural.scene import Building, Scene
from streetvision.data.procedural.texture import foliage, fractal

STOREY_M = 3.1
_TEXTURE_PX = 10  # pixels per metre of a house front


def sky(canvas: Canvas, scene: Scene) -> None:
    """Fills the picture with sky: a gradient, clouds as the weather has them; drawn at half size, for it is soft."""
    look, camera = canvas.look, canvas.camera
    height, width = canvas.image.shape[:2]
    rows = min(max(camera.horizon_row + 60, 24), height)  # with a rolled camera one side's horizon is lower
    climb = np.clip(camera.horizon_row - np.arange(0, rows, 2, dtype=np.float32), 0, None) / (0.9 * camera.focal_px)
    share = np.clip(climb * 1.6, 0, 1)[:, None, None] ** 0.8
    low = np.array(look.sky_low, np.float32)
    picture = low * (1 - share) + np.array(look.sky_top, np.float32) * share
    if look.time != "night":
        rng = np.random.default_rng(scene.seed)
        cover = {"clear": -0.9, "overcast": 0.5, "rain": 0.6, "fog": -3.0, "snow": 0.2}[look.weather]
        cover += float(rng.uniform(-0.6, 0.6))
        patch = np.roll(fractal(int(rng.integers(8)), 256, 1.55), rng.integers(0, 256, 2).tolist(), (0, 1))
        patch = patch[: int(rng.integers(120, 250))]
        clouds = cv2.resize(patch, (width // 2, len(climb)), interpolation=cv2.INTER_CUBIC)[..., None]
        density = np.clip((clouds + np.float32(cover)) * 0.5, 0, 0.85)
        lit = low * np.float32(1.06 if look.weather == "clear" else 0.95)
        picture = picture + density * (lit * (1.0 - 0.12 * np.clip(clouds, -1, 2)) - picture)
    picture = np.broadcast_to(np.clip(picture, 0, 255).astype(np.uint8), (len(climb), width // 2, 3))
    canvas.image[:rows] = cv2.resize(picture, (width, rows), interpolation=cv2.INTER_LINEAR)
    cv2.rectangle(canvas.image, (0, rows), (width, height), look.sky_low, -1)


def skyline(canvas: Canvas, scene: Scene) -> None:
    """Far houses and trees where the street ends."""
    rng = np.random.default_rng(scene.seed + 1)
    city = scene.street.kind == "city"
    for _ in range(20 if city else 26):
        s, u = float(rng.uniform(110, 190)), float(rng.uniform(-110, 110))
        board = canvas.board(u, s)
        if board is None:
            continue
        if rng.random() < (0.75 if city else 0.12):
            half, height = float(rng.uniform(4, 11)), float(rng.uniform(7, 30 if city else 11))
            tone = float(rng.uniform(90, 190))
            board.rectangle(-half, -2.0, half, height, (tone, tone * 0.96, tone * 0.9))
            board.rectangle(-half, -2.0, -half * 0.3, height, (tone * 0.85, tone * 0.82, tone * 0.78))
        else:
            size = float(rng.uniform(7, 14))
            leaf = _leaf(scene.look, float(rng.random()))
            board.stamp(foliage(int(rng.integers(9))), (0.0, size * 0.35), (size * 1.6, size), leaf)


def _leaf(look: Look, variant: float) -> Rgb:
    if look.season == "autumn":
        return (150 + 40 * variant, 96 + 30 * variant, 44)
    if look.season == "winter":
        return (104, 96, 84)
    return (58 + 30 * variant, 84 + 26 * variant, 44)


def house(canvas: Canvas, building: Building) -> None:
    """Draws one house: the end that faces the camera, its roof, and its front along the street."""
    camera = canvas.camera
    u, out = building.u, float(np.sign(building.u))
    s = max(building.s, camera.advance_m + 0.8)
    if s > building.end_s - 0.5:
        return
    height = STOREY_M * building.storeys + 0.6
    side = ((u, 0.0, s), (u + out * 9, 0.0, s), (u + out * 9, height, s), (u, height, s))
    shade: Rgb = (building.wall[0] * 0.82, building.wall[1] * 0.82, building.wall[2] * 0.82)
    if s == building.s:
        canvas.polygon(side, shade, normal=(0, 0, -1))
    pitched = building.style % 2 == 1
    if pitched:
        ridge = height + 2.4
        canvas.polygon(((u, height, s), (u + out * 9, height, s), (u + out * 4.5, ridge, s)), shade, normal=(0, 0, -1))
        slope = (
            (u - out * 0.3, height, s),
            (u - out * 0.3, height, building.end_s),
            (u + out * 4.5, ridge, building.end_s),
        )
        canvas.polygon((*slope, (u + out * 4.5, ridge, s)), building.roof, normal=(-out * 0.5, 0.85, 0))
    _front(canvas, building, s, height)
    if building.awning is not None:
        low, high, reach = 2.5, 3.0, u - out * 1.3
        for i in range(8):
            a = s + (building.end_s - s) * i / 8
            b = s + (building.end_s - s) * (i + 1) / 8
            paint = building.awning if i % 2 else building.trim
            canvas.polygon(
                ((u, high, a), (u, high, b), (reach, low, b), (reach, low, a)), paint, normal=(-out * 0.4, 0.9, 0)
            )
            canvas.polygon(
                ((reach, low, a), (reach, low, b), (reach, low - 0.25, b), (reach, low - 0.25, a)),
                paint,
                normal=(-out, 0, 0),
            )


def _front(canvas: Canvas, building: Building, s: float, height: float) -> None:
    """Warps the painted front into the picture, lit and hazed column by column."""
    camera, look = canvas.camera, canvas.look
    u, end = building.u, building.end_s
    spots = [camera.to_camera(*corner) for corner in ((u, 0.0, s), (u, 0.0, end), (u, height, end), (u, height, s))]
    if min(spot[2] for spot in spots) < 0.4:
        return
    pixels = np.array([camera.to_pixels(spot) for spot in spots])
    box = np.concatenate((np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0)) + 1)).clip(-9999, 9999).astype(int)
    x0, y0 = max(int(box[0]), 0), max(int(box[1]), 0)
    x1, y1 = min(int(box[2]), camera.width_px), min(int(box[3]), camera.height_px)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return
    levels = front(building, look.lamps)
    tall_px = float(np.hypot(*(pixels[3] - pixels[0])))
    texture, own = next((level for level in reversed(levels) if level[1].shape[0] >= tall_px), levels[0])
    first = int((s - building.s) / (end - building.s) * texture.shape[1])
    texture, own = texture[:, first:], own[:, first:]
    if texture.shape[1] < 2:
        return
    out = float(np.sign(u))
    depth = np.linspace(spots[0][2], spots[1][2], texture.shape[1], dtype=np.float32)
    lit = max(0.0, -out * look.sun_direction[0])
    beam = look.headlight * np.exp(-depth / 22.0) * 0.5
    gain = np.array(look.ambient, np.float32) + np.array(look.sun, np.float32) * np.float32(lit) + beam[:, None]
    clear = np.exp(-depth * look.haze_per_m)[:, None]
    light = (gain * clear)[None]
    if look.lamps:
        light = np.maximum(light, own[..., None] * (clear[None] / 255.0))  # lit windows need no other light
    seen = texture * light + (np.array(look.haze, np.float32) * (1 - clear))[None]
    lit_front = np.minimum(seen, 255).astype(np.uint8)
    high, wide = texture.shape[:2]
    source = np.array(((0, high), (wide, high), (wide, 0), (0, 0)), np.float32)
    matrix = cv2.getPerspectiveTransform(source, (pixels - (x0, y0)).astype(np.float32))
    target = canvas.image[y0:y1, x0:x1]
    warped = cv2.warpPerspective(
        lit_front, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    mask = np.zeros(target.shape[:2], np.uint8)
    fixed = np.clip((pixels - (x0, y0)) * 16, -300_000, 300_000).astype(np.int32)
    cv2.fillConvexPoly(mask, fixed, 255, cv2.LINE_AA, 4)
    cv2.copyTo(warped, mask, target)


@lru_cache(maxsize=96)
def front(building: Building, lamps: bool) -> tuple[tuple[NDArray[np.uint8], NDArray[np.uint8]], ...]:
    """House fronts seen square on, of ever smaller size: colours uint8[h,w,3], and light of their own uint8[h,w]."""
    rng = np.random.default_rng(building.seed)
    height = int((STOREY_M * building.storeys + 0.6) * _TEXTURE_PX)
    width = max(8, int((building.end_s - building.s) * _TEXTURE_PX))
    picture = np.zeros((height, width, 4), np.uint8)
    noise = np.tile(fractal(building.seed % 8, 256, 0.6), (height // 256 + 1, width // 256 + 1))[:height, :width]
    streaks = cv2.resize(fractal(building.seed % 5 + 8, 64, 1.3)[:, :32], (width, height))
    wall = np.array(building.wall, np.float32) * (1 + 0.05 * noise + 0.05 * streaks)[..., None]
    wall *= np.linspace(1.04, 0.86, height, dtype=np.float32)[:, None, None]
    if building.style in (1, 4):  # courses of brick
        wall[::4] *= 0.9
    picture[..., :3] = np.clip(wall, 0, 255).astype(np.uint8)
    bay = (2.2, 2.8, 3.4, 1.9, 2.5)[building.style % 5] * _TEXTURE_PX
    bays = max(1, int(width / bay))
    step = width / bays
    wide = (0.42, 0.5, 0.72, 0.5, 0.36)[building.style % 5]
    tall = (0.62, 0.5, 0.56, 0.7, 0.66)[building.style % 5]
    storey = STOREY_M * _TEXTURE_PX
    trim, frame = building.trim, (building.trim[0] * 0.7, building.trim[1] * 0.7, building.trim[2] * 0.7)
    for level in range(building.storeys):
        bottom = height - storey * level
        if level == 0 and building.shop is not None:
            _shop(picture, building, (int(bottom - storey), int(bottom)), lamps, rng)
            continue
        for i in range(bays):
            left = int(step * i + step * (1 - wide) / 2)
            right = int(left + step * wide)
            top = int(bottom - storey * (0.22 + tall))
            low = int(bottom - storey * 0.22)
            if level == 0 and i == bays // 2:
                low = int(bottom)
            cv2.rectangle(picture, (left - 1, top - 1), (right + 1, low + 1), (*trim, 0), -1)
            if building.style >= 5:  # arched
                cv2.ellipse(
                    picture, ((left + right) // 2, top), ((right - left) // 2 + 1, 4), 0, 180, 360, (*trim, 0), -1
                )
                cv2.ellipse(
                    picture, ((left + right) // 2, top), ((right - left) // 2, 3), 0, 180, 360, (70, 76, 84, 0), -1
                )
            bright = lamps and rng.random() < 0.4
            _pane(picture, (left, top, right, low), bright, rng)
            cv2.line(picture, ((left + right) // 2, top), ((left + right) // 2, low), (*frame, 0), 1)
            if building.style in (0, 3):
                cv2.line(picture, (left, (top + low) // 2), (right, (top + low) // 2), (*frame, 0), 1)
        cv2.line(picture, (0, int(bottom - storey)), (width, int(bottom - storey)), (*frame, 0), 1)
    cv2.rectangle(picture, (0, 0), (width, 4), (*trim, 0), -1)
    cv2.rectangle(picture, (0, 5), (width, 6), (*frame, 0), -1)
    cv2.rectangle(picture, (0, height - 5), (width, height), (96, 92, 88, 0), -1)
    levels = [(np.ascontiguousarray(picture[..., :3]), np.ascontiguousarray(picture[..., 3]))]
    while min(picture.shape[:2]) > 16:
        half = (picture.shape[1] // 2, picture.shape[0] // 2)
        picture = cv2.resize(picture, half, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        levels.append((np.ascontiguousarray(picture[..., :3]), np.ascontiguousarray(picture[..., 3])))
    return tuple(levels)


def _pane(picture: NDArray[np.uint8], box: tuple[int, int, int, int], bright: bool, rng: np.random.Generator) -> None:
    left, top, right, low = box
    if bright:
        warmth = float(rng.uniform(0.6, 1.0))
        cv2.rectangle(
            picture, (left, top), (right, low), (250, 214 * warmth, 150 * warmth, int(rng.integers(130, 230))), -1
        )
        return
    tone = float(rng.uniform(40, 96))
    cv2.rectangle(picture, (left, top), (right, low), (tone * 0.9, tone, tone * 1.1, 0), -1)
    if rng.random() < 0.5:  # sky in the glass
        light = tone + 60
        cv2.rectangle(
            picture, (left, top), (right, (2 * top + low) // 3), (light * 0.9, light * 0.97, light * 1.05, 0), -1
        )
    if rng.random() < 0.4:  # a curtain
        cv2.rectangle(picture, (left, top), (left + (right - left) // 3, low), (176, 170, 158, 0), -1)


def _shop(
    picture: NDArray[np.uint8], building: Building, rows: tuple[int, int], lamps: bool, rng: np.random.Generator
) -> None:
    top, bottom = rows
    width = picture.shape[1]
    shop = building.shop or building.trim
    cv2.rectangle(picture, (0, top), (width, bottom), (70, 68, 66, 0), -1)
    cv2.rectangle(picture, (0, top + 1), (width, top + 8), (*shop, 60 if lamps else 0), -1)
    for i in range(int(rng.integers(4, 9))):  # lettering
        x = width // 4 + i * 5
        cv2.rectangle(picture, (x, top + 3), (x + 2, top + 6), (240, 238, 230, 90 if lamps else 0), -1)
    panes = max(1, width // 30)
    for i in range(panes):
        left, right = width * i // panes + 2, width * (i + 1) // panes - 2
        _pane(picture, (left, top + 10, right, bottom - 4), lamps and rng.random() < 0.7, rng)
        for x, y, *goods in rng.random((4, 5)).tolist():  # goods in the window
            at = (int(left + x * (right - left - 4)), int(top + 14 + y * (bottom - top - 22)))
            tone = [50 + 170 * level for level in goods]
            cv2.rectangle(picture, at, (at[0] + 4, at[1] + 4), (*tone, 40 if lamps else 0), -1)
