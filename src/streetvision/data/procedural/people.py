"""Pedestrians, workers in hi-vis and cyclists, on boards that face the camera."""

from collections.abc import Callable

from streetvision.data.procedural.canvas import Board, Canvas
from streetvision.data.procedural.look import Rgb
from streetvision.data.procedural.scene import Thing

_SKINS: tuple[Rgb, ...] = ((224, 182, 152), (188, 140, 106), (120, 82, 58), (90, 60, 44))
_TROUSERS: tuple[Rgb, ...] = ((40, 44, 58), (62, 58, 54), (34, 34, 36), (86, 92, 108), (120, 108, 88))
_SILVER: Rgb = (214, 218, 220)
_YELLOW: Rgb = (206, 236, 40)


def _pick(choices: tuple[Rgb, ...], variant: float, salt: float) -> Rgb:
    return choices[int((variant * 7.13 + salt) % 1.0 * len(choices))]


def _figure(board: Board, thing: Thing, lean: float = 0.0) -> tuple[float, float]:
    """Draws legs, arms, torso and head; gives the head's centre."""
    k, f, v = thing.size, thing.turn, thing.variant
    legs, skin = _pick(_TROUSERS, v, 0.1), _pick(_SKINS, v, 0.6)
    stride = 0.06 + 0.24 * ((v * 3.7) % 1.0)
    board.bar((-0.08 * k, 0.85 * k), (-stride * k, 0.04 * k), 0.16 * k, legs)
    board.bar((0.08 * k, 0.85 * k), (stride * k, 0.04 * k), 0.16 * k, (legs[0] * 0.85, legs[1] * 0.85, legs[2] * 0.85))
    for x in (-stride, stride):
        board.ellipse(((x + 0.05 * f) * k, 0.04 * k), (0.12 * k, 0.05 * k), (24, 22, 22))
    tip = lean * f
    sleeve: Rgb = (thing.colour[0] * 0.86, thing.colour[1] * 0.86, thing.colour[2] * 0.86)
    hand = (tip + 0.3 * f, 0.82 + 0.25 * ((v * 5.3) % 1.0))
    board.bar(((tip - 0.2 * f) * k, 1.36 * k), ((tip - 0.3 * f) * k, 0.86 * k), 0.12 * k, sleeve)
    torso = ((-0.19, 0.8), (0.19, 0.8), (tip + 0.24, 1.4), (tip + 0.1, 1.5), (tip - 0.1, 1.5), (tip - 0.24, 1.4))
    board.polygon([(x * k, y * k) for x, y in torso], thing.colour)
    board.bar(((tip + 0.2 * f) * k, 1.36 * k), (hand[0] * k, hand[1] * k), 0.12 * k, sleeve)
    board.ellipse((hand[0] * k, hand[1] * k), (0.06 * k, 0.06 * k), skin)
    head = ((tip * 1.2) * k, 1.64 * k)
    board.ellipse(head, (0.11 * k, 0.14 * k), skin)
    return head


def _bands(board: Board, k: float, tip: float) -> None:
    """Reflective bands of a hi-vis vest."""
    for low in (0.92, 1.08):
        board.rectangle(-0.2 * k + tip * 0.3, low * k, 0.2 * k + tip * 0.3, (low + 0.06) * k, _SILVER, 1.4)
    for x in (-0.13, 0.1):
        board.polygon(
            [((x + tip) * k, 1.48 * k), ((x + 0.05 + tip) * k, 1.48 * k), ((x + 0.04) * k, 1.1 * k), (x * k, 1.1 * k)],
            _SILVER,
            1.4,
        )


def pedestrian(canvas: Canvas, thing: Thing) -> None:
    """Somebody who walks, some with a bag."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    head = _figure(board, thing)
    hair: Rgb = ((40, 30, 24), (96, 68, 44), (150, 144, 140))[int(thing.variant * 2.99)]
    board.ellipse((head[0], head[1] + 0.06 * thing.size), (0.12 * thing.size, 0.1 * thing.size), hair)
    if thing.variant > 0.6:
        board.rectangle(0.22, 0.55, 0.5, 0.88, (150, 60 + 90 * thing.variant, 50))


def worker(canvas: Canvas, thing: Thing) -> None:
    """A road worker: helmet, vest with silver bands, and a shovel, a paddle or a drill in hand."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, f = thing.size, thing.turn
    lean = 0.22 if thing.variant > 0.5 else 0.0
    head = _figure(board, thing, lean)
    _bands(board, k, lean * f)
    helmet: Rgb = ((238, 196, 30), (240, 240, 238), (236, 110, 24))[int(thing.variant * 10) % 3]
    board.polygon(
        [
            (head[0] - 0.17 * k, head[1] + 0.03 * k),
            (head[0] + 0.17 * k, head[1] + 0.03 * k),
            (head[0] + 0.1 * k, head[1] + 0.18 * k),
            (head[0] - 0.1 * k, head[1] + 0.18 * k),
        ],
        helmet,
    )
    if thing.variant > 0.5:
        board.bar((0.2 * f * k, 1.25 * k), (0.72 * f * k, 0.12 * k), 0.05 * k, (120, 92, 60))
        board.polygon(
            [(0.62 * f * k, 0.28 * k), (0.82 * f * k, 0.2 * k), (0.8 * f * k, 0.0), (0.62 * f * k, 0.06 * k)],
            (88, 90, 94),
        )
    elif thing.variant > 0.25:
        board.bar((0.36 * f * k, 0.05), (0.36 * f * k, 2.0 * k), 0.04 * k, (180, 180, 180))
        paddle: Rgb = (206, 26, 30) if thing.variant > 0.37 else (240, 130, 24)
        board.ellipse((0.36 * f * k, 2.1 * k), (0.3 * k, 0.3 * k), paddle, 0.8)
        board.rectangle((0.36 * f - 0.18) * k, 2.05 * k, (0.36 * f + 0.18) * k, 2.15 * k, (240, 240, 240), 0.8)
    else:
        board.bar((0.3 * f * k, 1.0 * k), (0.34 * f * k, 0.02), 0.1 * k, (70, 72, 76))
        board.rectangle((0.3 * f - 0.2) * k, 0.98 * k, (0.3 * f + 0.2) * k, 1.06 * k, (60, 60, 62))


def cyclist(canvas: Canvas, thing: Thing) -> None:
    """A cyclist; `variant` above 0.4 wears a hi-vis vest with silver bands."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, f = thing.size, thing.turn
    across = thing.variant % 0.2 > 0.1  # seen from the side
    frame: Rgb = (thing.colour[2] * 0.6, thing.colour[0] * 0.4, thing.colour[1] * 0.5)
    if across:
        for x in (-0.52, 0.52):
            board.ellipse((x * k, 0.34 * k), (0.34 * k, 0.34 * k), (26, 26, 28))
            board.ellipse((x * k, 0.34 * k), (0.29 * k, 0.29 * k), (128, 128, 126))
        for a, b in (
            ((-0.52, 0.34), (-0.1, 0.36)),
            ((-0.1, 0.36), (0.34, 0.85)),
            ((-0.22, 0.85), (0.36, 0.8)),
            ((0.34, 0.95), (0.52, 0.34)),
        ):
            board.bar((a[0] * f * k, a[1] * k), (b[0] * f * k, b[1] * k), 0.05 * k, frame)
        board.bar((-0.2 * f * k, 0.95 * k), (0.05 * f * k, 0.3 * k), 0.15 * k, _pick(_TROUSERS, thing.variant, 0.3))
        torso = ((-0.3, 0.9), (-0.06, 0.9), (0.3, 1.38), (0.12, 1.52))
        board.polygon([(x * f * k, y * k) for x, y in torso], thing.colour)
        board.bar((0.2 * f * k, 1.38 * k), (0.4 * f * k, 0.95 * k), 0.1 * k, thing.colour)
        head = (0.28 * f * k, 1.62 * k)
        if thing.variant > 0.4:
            board.bar((-0.22 * f * k, 1.12 * k), (0.1 * f * k, 1.02 * k), 0.06 * k, _SILVER, 1.4)
    else:
        board.ellipse((0.0, 0.34 * k), (0.05 * k, 0.34 * k), (24, 24, 26))
        board.bar((-0.3 * k, 1.0 * k), (0.3 * k, 1.0 * k), 0.04 * k, (50, 50, 52))
        for x in (-0.12, 0.12):
            board.bar((x * k, 0.9 * k), (x * k, 0.25 * k), 0.14 * k, _pick(_TROUSERS, thing.variant, 0.3))
        torso = ((-0.18, 0.85), (0.18, 0.85), (0.24, 1.35), (0.1, 1.48), (-0.1, 1.48), (-0.24, 1.35))
        board.polygon([(x * k, y * k) for x, y in torso], thing.colour)
        head = (0.0, 1.6 * k)
        if thing.variant > 0.4:
            _bands(board, k, 0.0)
    board.ellipse(head, (0.11 * k, 0.14 * k), _pick(_SKINS, thing.variant, 0.2))
    board.ellipse(
        (head[0], head[1] + 0.07 * k),
        (0.13 * k, 0.1 * k),
        _pick(((30, 32, 36), (200, 40, 40), _YELLOW, (230, 230, 230)), thing.variant, 0.8),
    )


DRAW: dict[str, Callable[[Canvas, Thing], None]] = {"pedestrian": pedestrian, "worker": worker, "cyclist": cyclist}
