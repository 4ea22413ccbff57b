"""Cars, vans, lorries and building machines."""

from collections.abc import Callable

from streetvision.data.procedural.canvas import Canvas, Face, Point, prism
from streetvision.data.procedural.gear import stripes
from streetvision.data.procedural.look import Rgb
from streetvision.data.procedural.scene import Thing

_GLASS: Rgb = (48, 56, 64)
_TYRE: Rgb = (24, 24, 26)
_TRIM: Rgb = (38, 39, 42)
_DETAIL_M = 30.0  # smaller parts of what is further off are less than a pixel


def _block(
    canvas: Canvas, face: Face, box: tuple[float, float, float, float], colour: Rgb, normal: Point, shine: float = 0
) -> None:
    left, bottom, right, top = box
    canvas.decal(face, ((left, bottom), (right, bottom), (right, top), (left, top)), colour, normal=normal, shine=shine)


def _wheels(canvas: Canvas, u: float, half_width: float, places: tuple[float, ...], radius: float) -> None:
    if min(places) - canvas.camera.advance_m > _DETAIL_M:
        return
    side = -1 if u > canvas.camera.lateral_m else 1
    for s in places:
        ring = [
            (u + side * half_width, radius * (1 + y), s + radius * x)
            for x, y in ((-1, 0), (-0.7, -0.7), (0, -1), (0.7, -0.7), (1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7))
        ]
        canvas.polygon(ring, _TYRE)
        hub = [(u + side * half_width, radius + (y - radius) * 0.5, s + (z - s) * 0.5) for _, y, z in ring]
        canvas.polygon(hub, (110, 112, 116))


def _tail(canvas: Canvas, face: Face, thing: Thing, rows: tuple[float, float]) -> None:
    """Lamps and number plate of the end that faces the camera."""
    low, high = rows
    away = thing.turn > 0  # the camera sees the rear
    lamp: Rgb = (196, 24, 22) if away else (236, 236, 226)
    lit = canvas.look.lamps
    for left, right in ((0.02, 0.17), (0.83, 0.98)):
        _block(canvas, face, (left, low, right, high), lamp, (0, 0, -1), 0.9 if lit else 0.15)
    if thing.s - canvas.camera.advance_m < _DETAIL_M:
        _block(canvas, face, (0.36, 0.12, 0.64, 0.3), (214, 212, 196), (0, 0, -1), 0.1)
        _block(canvas, face, (0.0, 0.0, 1.0, 0.09), _TRIM, (0, 0, -1))
    if lit:
        for corner in (0.1, 0.9):
            a, b = face[0], face[1]
            at = a[0] + (b[0] - a[0]) * corner
            y = a[1] + (face[3][1] - a[1]) * (low + high) / 2
            canvas.bloom(at, y, a[2], 0.16 if away else 0.3, (150, 12, 10) if away else (215, 205, 180))


def car(canvas: Canvas, thing: Thing) -> None:
    """A saloon, estate or off-roader along the street."""
    u, s, k = thing.u, thing.s, thing.size
    length, half, tall = 4.3 * k, 0.88 * k, (0.62 + 0.2 * thing.variant) * k
    body = thing.colour
    _wheels(canvas, u, half, (s + 0.8 * k, s + length - 0.85 * k), 0.32 * k)
    front, side, normal = prism(canvas, (u, 0.28, s), s + length, half, 0.6 * k, body, taper=(0.05, 0.03, 0.05))
    near = thing.s - canvas.camera.advance_m < _DETAIL_M
    if near:
        _block(canvas, side, (0.0, 0.0, 1.0, 0.12), _TRIM, normal)
        _block(canvas, side, (0.0, 0.62, 1.0, 0.68), (body[0] * 0.8, body[1] * 0.8, body[2] * 0.8), normal)
    _tail(canvas, front, thing, (0.5, 0.8))
    rear = 0.25 * k if thing.variant > 0.5 else 0.75 * k  # an estate's back is steep
    slopes = (rear, 1.5 * k) if thing.turn > 0 else (1.5 * k, rear)
    cabin = (u, 0.28 + 0.6 * k, s + 0.12)
    front, side, normal = prism(
        canvas, cabin, s + length - 0.2, half * 0.95, tall * 0.92, _GLASS, taper=(0.16, *slopes), top=body
    )
    if not near:
        return
    for at in (0.0, 0.47, 0.97):  # pillars
        canvas.decal(side, ((at, 0), (at + 0.035, 0), (at + 0.035, 1), (at, 1)), body, normal=normal)
    _block(canvas, side, (0.0, 0.9, 1.0, 1.0), body, normal)
    _block(canvas, front, (0.0, 0.88, 1.0, 1.0), body, (0, 0, -1))
    canvas.decal(front, ((0, 0), (0.06, 0), (0.06, 1), (0, 1)), body, normal=(0, 0, -1))
    canvas.decal(front, ((0.94, 0), (1, 0), (1, 1), (0.94, 1)), body, normal=(0, 0, -1))
    canvas.decal(front, ((0.12, 0.15), (0.5, 0.15), (0.75, 0.8), (0.4, 0.8)), (92, 104, 116), normal=(0, 0, -1))


def van(canvas: Canvas, thing: Thing) -> None:
    """A delivery van."""
    u, s = thing.u, thing.s
    _wheels(canvas, u, 1.0, (s + 1.0, s + 4.1), 0.36)
    front, side, normal = prism(canvas, (u, 0.35, s), s + 5.2, 1.0, 1.95, thing.colour, taper=(0.1, 0.1, 0.5))
    _tail(canvas, front, thing, (0.25, 0.48))
    _block(canvas, front, (0.1, 0.55, 0.47, 0.88), _GLASS, (0, 0, -1))
    _block(canvas, front, (0.53, 0.55, 0.9, 0.88), _GLASS, (0, 0, -1))
    ahead = side[1][2] < side[0][2]  # the face runs from far to near
    cab = (0.06, 0.3) if ahead else (0.7, 0.94)
    _block(canvas, side, (cab[0], 0.55, cab[1], 0.88), _GLASS, normal)
    _block(canvas, side, (0.35, 0.42, 0.65, 0.62), tuple(255 - c * 0.7 for c in thing.colour), normal)  # type: ignore[arg-type]


def lorry(canvas: Canvas, thing: Thing) -> None:
    """A lorry with a box body; `variant` above 0.6 gives it striped reflective tape."""
    u, s, k = thing.u, thing.s, thing.size
    length = 7.5 * k
    cab_s = s + length - 2.0
    _wheels(canvas, u, 1.15, (s + 1.2, s + 2.3, cab_s + 0.8), 0.48)
    prism(canvas, (u, 0.5, cab_s), cab_s + 2.0, 1.15, 2.2, (206, 208, 210), taper=(0.1, 0.0, 0.3))
    prism(canvas, (u, 0.55, s), cab_s, 0.8, 0.4, _TRIM)
    front, side, normal = prism(canvas, (u, 0.95, s), cab_s - 0.2, 1.24, 2.3 * k, thing.colour)
    shade: Rgb = (thing.colour[0] * 0.72, thing.colour[1] * 0.72, thing.colour[2] * 0.72)
    _block(canvas, front, (0.49, 0.03, 0.51, 0.97), shade, (0, 0, -1))
    for left in (0.03, 0.55):
        _block(canvas, front, (left, 0.05, left + 0.42, 0.07), shade, (0, 0, -1))
        _block(canvas, front, (left, 0.93, left + 0.42, 0.95), shade, (0, 0, -1))
    for at in range(1, 7):
        _block(canvas, side, (at / 7, 0.0, at / 7 + 0.008, 1.0), shade, normal)
    _block(canvas, side, (0.25, 0.35, 0.75, 0.7), tuple(235 - c * 0.6 for c in thing.colour), normal)  # type: ignore[arg-type]
    if thing.variant > 0.6:
        for at in range(8):
            _block(canvas, front, (at / 8, 0.0, at / 8 + 0.0625, 0.05), (205, 30, 30), (0, 0, -1), 0.6)
            _block(canvas, front, (at / 8 + 0.0625, 0.0, at / 8 + 0.125, 0.05), (235, 235, 235), (0, 0, -1), 0.6)
    low: Face = ((u - 1.2, 0.5, s), (u + 1.2, 0.5, s), (u + 1.2, 0.95, s), (u - 1.2, 0.95, s))
    _block(canvas, low, (0, 0, 1, 0.5), _TRIM, (0, 0, -1))
    _tail(canvas, low, thing, (0.4, 0.9))


def crossing_car(canvas: Canvas, thing: Thing) -> None:
    """A car seen from its side, as on a side road."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, f = thing.size, thing.turn
    body = ((-2.1, 0.3), (2.1, 0.3), (2.15, 0.75), (1.5, 0.95), (0.7, 1.42), (-1.0, 1.45), (-1.8, 0.98), (-2.1, 0.9))
    glass = ((1.25, 0.97), (0.62, 1.34), (-0.93, 1.36), (-1.5, 0.98))
    board.polygon([(x * k * f, y * k) for x, y in body], thing.colour)
    board.polygon([(x * k * f, y * k) for x, y in glass], _GLASS)
    board.rectangle(-0.12 * k, 0.9 * k, 0.0, 1.4 * k, thing.colour)
    for x in (-1.3, 1.32):
        board.ellipse((x * k * f, 0.32 * k), (0.33 * k, 0.33 * k), _TYRE)
        board.ellipse((x * k * f, 0.32 * k), (0.18 * k, 0.18 * k), (120, 122, 126))


def excavator(canvas: Canvas, thing: Thing) -> None:
    """A tracked digger across the street, its arm towards `turn`."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, f, paint = thing.size, thing.turn, thing.colour
    dark: Rgb = (paint[0] * 0.62, paint[1] * 0.62, paint[2] * 0.62)

    def p(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * k * f, y * k) for x, y in points]

    board.polygon(
        p((-1.9, 0.1), (-1.6, 0.0), (1.6, 0.0), (1.9, 0.3), (1.7, 0.75), (-1.7, 0.75), (-1.95, 0.45)), (34, 34, 36)
    )
    for x in (-1.4, -0.7, 0.0, 0.7, 1.4):
        board.ellipse((x * k * f, 0.36 * k), (0.24 * k, 0.24 * k), (66, 64, 62))
    board.rectangle(-1.0 * k, 0.7 * k, 1.0 * k, 0.95 * k, (46, 46, 48))
    bend = 0.5 + thing.variant
    elbow, wrist = (2.6, 3.1 + bend), (4.3, 1.7 + 0.4 * bend)
    board.polygon(p((0.6, 1.4), (1.1, 1.2), (elbow[0] + 0.15, elbow[1] - 0.35), (elbow[0], elbow[1] + 0.15)), paint)
    board.bar((1.0 * k * f, 1.2 * k), (elbow[0] * 0.72 * k * f, (elbow[1] - 0.9) * k), 0.12 * k, (150, 152, 156))
    board.polygon(
        p((elbow[0] - 0.3, elbow[1] + 0.2), (elbow[0] + 0.2, elbow[1] + 0.1), wrist, (wrist[0] - 0.25, wrist[1] - 0.1)),
        dark,
    )
    x, y = wrist
    board.polygon(
        p((x - 0.3, y + 0.1), (x + 0.2, y), (x + 0.15, y - 0.75), (x - 0.6, y - 0.95), (x - 0.85, y - 0.5)),
        (58, 54, 50),
    )
    board.polygon(p((-2.2, 0.95), (1.3, 0.95), (1.3, 1.55), (-0.2, 1.9), (-2.2, 1.85)), paint)
    board.polygon(p((-2.2, 0.95), (-1.5, 0.95), (-1.5, 1.88), (-2.2, 1.85)), dark)
    board.polygon(p((-0.2, 1.2), (1.25, 1.2), (1.1, 2.85), (-0.1, 2.9)), paint)
    board.polygon(p((0.0, 1.65), (1.12, 1.55), (1.0, 2.7), (0.05, 2.74)), _GLASS)
    board.bar((0.55 * k * f, 1.5 * k), (0.52 * k * f, 2.75 * k), 0.06 * k, dark)
    board.rectangle(-1.4 * k, 1.35 * k, -0.5 * k, 1.5 * k, (40, 40, 42))
    _beacon(canvas, thing, 3.0 * k)


def roller(canvas: Canvas, thing: Thing) -> None:
    """A road roller, seen from its side."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, f, paint = thing.size, thing.turn, thing.colour

    def p(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * k * f, y * k) for x, y in points]

    board.ellipse((-1.4 * k * f, 0.65 * k), (0.66 * k, 0.66 * k), _TYRE)
    board.ellipse((1.4 * k * f, 0.65 * k), (0.66 * k, 0.66 * k), (140, 138, 134))
    board.ellipse((1.4 * k * f, 0.65 * k), (0.45 * k, 0.45 * k), (96, 94, 92))
    board.polygon(p((-2.2, 0.8), (0.9, 0.75), (2.1, 0.75), (2.1, 1.0), (0.6, 1.3), (-2.2, 1.45)), paint)
    board.polygon(p((-0.7, 1.3), (0.5, 1.3), (0.45, 2.5), (-0.6, 2.5)), _GLASS)
    board.polygon(p((-0.9, 2.5), (0.7, 2.5), (0.7, 2.65), (-0.9, 2.65)), paint)
    _beacon(canvas, thing, 2.7 * k)


def works_lorry(canvas: Canvas, thing: Thing) -> None:
    """A tipper with chevrons and a lit arrow board at its rear."""
    u, s = thing.u, thing.s
    _wheels(canvas, u, 1.15, (s + 1.2, s + 5.2), 0.48)
    prism(canvas, (u, 0.5, s + 4.6), s + 6.6, 1.15, 2.1, thing.colour, taper=(0.1, 0.0, 0.3))
    front, _, _ = prism(canvas, (u, 0.9, s), s + 4.4, 1.22, 1.1, thing.colour, taper=(-0.05, 0.0, 0.0))
    stripes(canvas, front, (0.0, 0.0, 1.0, 1.0), 6, (214, 40, 32), (236, 206, 40), chevron=True)
    low: Face = ((u - 1.2, 0.45, s), (u + 1.2, 0.45, s), (u + 1.2, 0.9, s), (u - 1.2, 0.9, s))
    _block(canvas, low, (0, 0, 1, 1), _TRIM, (0, 0, -1))
    _tail(canvas, low, thing, (0.4, 0.9))
    arrow_board(canvas, thing, 2.15)
    _beacon(canvas, thing, 3.7)


def arrow_board(canvas: Canvas, thing: Thing, bottom: float) -> None:
    """A dark panel with an arrow of amber lamps towards `turn`."""
    board = canvas.board(thing.u, thing.s - 0.05, bottom)
    if board is None:
        return
    f = thing.turn
    board.rectangle(-1.1, 0.0, 1.1, 1.35, (20, 20, 22))
    lamps = [(-0.8 + 0.26 * i, 0.67) for i in range(7)] + [(0.5, 0.95), (0.5, 0.4), (0.24, 1.2), (0.24, 0.14)]
    for x, y in lamps:
        board.ellipse((x * f, y), (0.1, 0.1), (255, 176, 30), 1.5)
    if canvas.look.lamps:
        canvas.bloom(thing.u, bottom + 0.7, thing.s, 0.5, (150, 90, 12))


def _beacon(canvas: Canvas, thing: Thing, height: float) -> None:
    board = canvas.board(thing.u, thing.s, height)
    if board is not None:
        board.ellipse((0.0, 0.1), (0.13, 0.15), (255, 150, 20), 1.0)
        canvas.bloom(thing.u, height + 0.1, thing.s, 0.35 if canvas.look.lamps else 0.12, (120, 66, 6))


DRAW: dict[str, Callable[[Canvas, Thing], None]] = {
    "car": car,
    "van": van,
    "lorry": lorry,
    "crossing car": crossing_car,
    "excavator": excavator,
    "roller": roller,
    "works lorry": works_lorry,
}
