"""Drawing in street coordinates: lit, hazed polygons in perspective, and upright boards that face the camera."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, degrees, exp, hypot

import cv2
import numpy as np
from numpy.typing import NDArray

from streetvision.data.procedural.camera import Camera, Triple
from streetvision.data.procedural.look import Look, Rgb

Point = tuple[float, float, float]  # (u, y, s)
Point2 = tuple[float, float]  # (right, up) on a board, or (across, up) in 0..1 on a face
Face = tuple[Point, Point, Point, Point]  # bottom left, bottom right, top right, top left as drawn on

NEAR_M = 0.45
_SHIFT = 4  # sub-pixel bits of OpenCV's polygons
_ONE = 1 << _SHIFT
_LIMIT = 20_000.0  # OpenCV's fixed-point polygons overflow beyond


class Canvas:
    """A picture that is being drawn, far things first; `glow` collects light that blooms in the lens."""

    def __init__(self, camera: Camera, look: Look) -> None:
        self.camera = camera
        self.look = look
        self.image: NDArray[np.uint8] = np.zeros((camera.height_px, camera.width_px, 3), np.uint8)
        self.glow: NDArray[np.uint8] = np.zeros((camera.height_px // 2, camera.width_px // 2, 3), np.uint8)

    def tone(self, colour: Rgb, depth_m: float, normal: Point | None = None, shine: float = 0.0) -> Rgb:
        """The colour as light and air leave it; `shine` is light of its own or thrown back to the camera's lamps."""
        look = self.look
        lit = 0.45  # boards have no one normal
        if normal is not None:
            towards = look.sun_direction
            lit = max(0.0, normal[0] * towards[0] + normal[1] * towards[1] + normal[2] * towards[2])
        own = shine * 0.12
        if look.headlight:
            own += look.headlight * exp(-depth_m / 22.0) * (1.0 + 2.0 * shine)
        clear = exp(-depth_m * look.haze_per_m)
        murk = 1.0 - clear
        ambient, sun, haze = look.ambient, look.sun, look.haze
        red = colour[0] * (ambient[0] + sun[0] * lit + own)
        green = colour[1] * (ambient[1] + sun[1] * lit + own)
        blue = colour[2] * (ambient[2] + sun[2] * lit + own)
        clear *= 255.0 / max(red, green, blue, 255.0)  # dazzling orange stays orange
        return (red * clear + haze[0] * murk, green * clear + haze[1] * murk, blue * clear + haze[2] * murk)

    def polygon(self, points: Sequence[Point], colour: Rgb, *, normal: Point | None = None, shine: float = 0.0) -> None:
        """Fills a polygon of the street, cut at the lens."""
        camera = self.camera
        spots = [camera.to_camera(*point) for point in points]
        if min(spot[2] for spot in spots) < NEAR_M:
            spots = _clipped(spots)
            if len(spots) < 3:
                return
        depth = sum(spot[2] for spot in spots) / len(spots)
        self.fill([camera.to_pixels(spot) for spot in spots], self.tone(colour, depth, normal, shine))

    def decal(
        self, face: Face, marks: Sequence[Point2], colour: Rgb, *, normal: Point | None = None, shine: float = 0.0
    ) -> None:
        """Fills a polygon given in face coordinates, (0, 0) bottom left and (1, 1) top right."""
        a, b, c, d = face
        points: list[Point] = []
        for x, y in marks:
            p, q, r, t = (1 - y) * (1 - x), (1 - y) * x, y * x, y * (1 - x)
            points.append(
                (
                    p * a[0] + q * b[0] + r * c[0] + t * d[0],
                    p * a[1] + q * b[1] + r * c[1] + t * d[1],
                    p * a[2] + q * b[2] + r * c[2] + t * d[2],
                )
            )
        self.polygon(points, colour, normal=normal, shine=shine)

    def board(self, u: float, s: float, y: float = 0.0) -> "Board | None":
        """An upright board that faces the camera, or None where it would stand beside, behind or in the lens."""
        camera = self.camera
        spot, above = camera.to_camera(u, y, s), camera.to_camera(u, y + 1.0, s)
        if spot[2] < 1.2 or above[2] < 0.6:
            return None
        base, tip = camera.to_pixels(spot), camera.to_pixels(above)
        up = (tip[0] - base[0], tip[1] - base[1])
        reach = 12.0 * abs(up[1])  # nothing on a board is wider to a side
        if not -reach < base[0] < camera.width_px + reach:
            return None
        return Board(self, base, (-up[1], up[0]), up, spot[2])  # right is up turned clockwise on the screen

    def bloom(self, u: float, y: float, s: float, radius_m: float, colour: Rgb) -> None:
        """A light that dazzles."""
        spot = self.camera.to_camera(u, y, s)
        if spot[2] < 1.0:
            return
        across, down = self.camera.to_pixels(spot)
        radius = max(1.0, radius_m * self.camera.focal_px / spot[2] / 2)
        if max(abs(across), abs(down)) < _LIMIT:
            at = (int(across / 2 * _ONE), int(down / 2 * _ONE))
            cv2.circle(self.glow, at, int(radius * _ONE), colour, -1, cv2.LINE_AA, _SHIFT)

    def fill(self, pixels: Sequence[Point2], colour: Rgb) -> None:
        """Fills a polygon of the picture."""
        fixed = [
            (int(min(max(x, -_LIMIT), _LIMIT) * _ONE), int(min(max(y, -_LIMIT), _LIMIT) * _ONE)) for x, y in pixels
        ]
        cv2.fillPoly(self.image, [np.array(fixed, np.int32)], colour, cv2.LINE_AA, _SHIFT)


@dataclass(frozen=True, slots=True)
class Board:
    """An upright plane through one street point; positions on it are metres (right, up) from that point."""

    canvas: Canvas
    base: Point2
    right: Point2  # pixels per metre
    up: Point2
    depth_m: float

    @property
    def scale(self) -> float:
        """Pixels per metre."""
        return hypot(*self.right)

    def place(self, x: float, y: float) -> Point2:
        """Pixel position of a point on the board."""
        base, right, up = self.base, self.right, self.up
        return (base[0] + x * right[0] + y * up[0], base[1] + x * right[1] + y * up[1])

    def polygon(self, points: Sequence[Point2], colour: Rgb, shine: float = 0.0) -> None:
        """Fills a polygon."""
        tone = self.canvas.tone(colour, self.depth_m, shine=shine)
        self.canvas.fill([self.place(x, y) for x, y in points], tone)

    def rectangle(self, left: float, bottom: float, right: float, top: float, colour: Rgb, shine: float = 0.0) -> None:
        """Fills an upright rectangle."""
        self.polygon(((left, bottom), (right, bottom), (right, top), (left, top)), colour, shine)

    def ellipse(self, centre: Point2, radii: Point2, colour: Rgb, shine: float = 0.0) -> None:
        """Fills an ellipse."""
        at = self.place(*centre)
        if max(abs(at[0]), abs(at[1])) > _LIMIT:
            return
        axes = (max(1, int(radii[0] * self.scale * _ONE)), max(1, int(radii[1] * self.scale * _ONE)))
        tone = self.canvas.tone(colour, self.depth_m, shine=shine)
        angle = degrees(atan2(self.right[1], self.right[0]))
        spot = (int(at[0] * _ONE), int(at[1] * _ONE))
        cv2.ellipse(self.canvas.image, spot, axes, angle, 0, 360, tone, -1, cv2.LINE_AA, _SHIFT)

    def bar(self, start: Point2, end: Point2, width: float, colour: Rgb, shine: float = 0.0) -> None:
        """Fills a straight bar `width` metres thick."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
        nx, ny = -dy / length * width / 2, dx / length * width / 2
        corners = ((start[0] + nx, start[1] + ny), (end[0] + nx, end[1] + ny), (end[0] - nx, end[1] - ny))
        self.polygon((*corners, (start[0] - nx, start[1] - ny)), colour, shine)

    def stamp(self, leaves: Sequence[NDArray[np.float32]], centre: Point2, size: Point2, colour: Rgb) -> None:
        """Blends a soft picture of `texture.foliage`, `size` (width, height) metres large, about `centre`."""
        at = self.place(*centre)
        width, height = max(2, int(size[0] * self.scale)), max(2, int(size[1] * self.scale))
        if max(width, height) > 1500:
            return
        image = self.canvas.image
        left, top = int(at[0] - width / 2), int(at[1] - height / 2)
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + width, image.shape[1]), min(top + height, image.shape[0])
        if x0 >= x1 or y0 >= y1:
            return
        leaf = next((small for small in reversed(leaves) if small.shape[1] >= width), leaves[0])
        crown = cv2.resize(leaf, (width, height), interpolation=cv2.INTER_LINEAR)[
            y0 - top : y1 - top, x0 - left : x1 - left
        ]
        clear = exp(-self.depth_m * self.canvas.look.haze_per_m)
        tone = np.array(self.canvas.tone(colour, self.depth_m), np.float32)
        alpha, shade = crown[..., :1], (1 - clear) + clear * crown[..., 1:]
        under = image[y0:y1, x0:x1]
        painted = np.minimum(tone * shade, 255)
        painted -= under
        painted *= alpha
        painted += under
        under[:] = painted.astype(np.uint8)


def prism(
    canvas: Canvas,
    near: tuple[float, float, float],
    far_s: float,
    half_width_m: float,
    height_m: float,
    colour: Rgb,
    *,
    taper: tuple[float, float, float] = (0.0, 0.0, 0.0),
    top: Rgb | None = None,
) -> tuple[Face, Face, Point]:
    """Draws a box that stands along the street from `near` (u, y, s) to `far_s`.

    Args:
        canvas: where to draw.
        near: centre of the near bottom edge.
        far_s: street position of the far end.
        half_width_m: half its width at the bottom.
        height_m: its height.
        colour: colour of the sides.
        taper: how far the top is drawn in at the sides, the near end and the far end.
        top: colour of the top; the sides' where None.

    Returns:
        The near face, the visible side face, and the side's normal.
    """
    u, y, s = near
    in_side, in_near, in_far = taper
    w, v, y1 = half_width_m, half_width_m - in_side, y + height_m
    front: Face = ((u - w, y, s), (u + w, y, s), (u + v, y1, s + in_near), (u - v, y1, s + in_near))
    left: Face = ((u - w, y, far_s), (u - w, y, s), (u - v, y1, s + in_near), (u - v, y1, far_s - in_far))
    right: Face = ((u + w, y, s), (u + w, y, far_s), (u + v, y1, far_s - in_far), (u + v, y1, s + in_near))
    lid: Face = (
        (u - v, y1, s + in_near),
        (u + v, y1, s + in_near),
        (u + v, y1, far_s - in_far),
        (u - v, y1, far_s - in_far),
    )
    if canvas.camera.height_m > y1:
        canvas.polygon(lid, top or colour, normal=(0, 1, 0))
    middle = (s + far_s) / 2
    seen_left = canvas.camera.to_camera(u, y, middle)[0] > 0
    side, normal = (left, (-1.0, 0.0, 0.0)) if seen_left else (right, (1.0, 0.0, 0.0))
    canvas.polygon(side, colour, normal=normal)
    canvas.polygon(front, colour, normal=(0, 0, -1))
    return front, side, normal


def _clipped(spots: list[Triple]) -> list[Triple]:
    """The part of a polygon in camera axes that lies before the lens."""
    kept: list[Triple] = []
    for here, after in zip(spots, (*spots[1:], spots[0]), strict=True):
        if here[2] >= NEAR_M:
            kept.append(here)
        if (here[2] >= NEAR_M) != (after[2] >= NEAR_M):
            share = (NEAR_M - here[2]) / (after[2] - here[2])
            kept.append((here[0] + share * (after[0] - here[0]), here[1] + share * (after[1] - here[1]), NEAR_M))
    return kept
