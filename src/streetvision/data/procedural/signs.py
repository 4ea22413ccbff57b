"""Traffic signs on posts: those of roadworks, and the ordinary ones that resemble them."""

from collections.abc import Callable

from streetvision.data.procedural.canvas import Board, Canvas
from streetvision.data.procedural.look import Rgb
from streetvision.data.procedural.scene import Thing

_RED: Rgb = (200, 24, 30)
_WHITE: Rgb = (238, 238, 234)
_BLACK: Rgb = (22, 22, 24)
_ORANGE: Rgb = (244, 124, 20)
_YELLOW: Rgb = (246, 196, 24)
_STEEL: Rgb = (132, 134, 136)
_SHINE = 0.9


def _post(canvas: Canvas, thing: Thing, height: float) -> Board | None:
    board = canvas.board(thing.u, thing.s)
    if board is not None:
        board.rectangle(-0.035, 0.0, 0.035, height, _STEEL)
    return board


def _triangle(board: Board, y: float, r: float, border: Rgb, ground: Rgb) -> None:
    board.polygon([(-r, y - 0.62 * r), (r, y - 0.62 * r), (0.0, y + 1.12 * r)], border, _SHINE)
    i = r * 0.66
    board.polygon([(-i, y - 0.44 * r), (i, y - 0.44 * r), (0.0, y + 0.7 * r)], ground, _SHINE)


def _diamond(board: Board, y: float, r: float, colour: Rgb) -> None:
    for size, paint in ((r, _BLACK), (r * 0.93, colour)):
        board.polygon([(-size, y), (0.0, y - size), (size, y), (0.0, y + size)], paint, _SHINE)


def _digger(board: Board, y: float, r: float) -> None:
    """The man with the shovel and his heap."""
    board.ellipse((0.02 * r, y + 0.24 * r), (0.1 * r, 0.1 * r), _BLACK)
    board.bar((-0.02 * r, y + 0.14 * r), (-0.16 * r, y - 0.12 * r), 0.18 * r, _BLACK)
    board.bar((-0.14 * r, y - 0.12 * r), (-0.26 * r, y - 0.42 * r), 0.11 * r, _BLACK)
    board.bar((-0.14 * r, y - 0.12 * r), (0.02 * r, y - 0.42 * r), 0.11 * r, _BLACK)
    board.bar((-0.04 * r, y + 0.08 * r), (0.3 * r, y - 0.3 * r), 0.07 * r, _BLACK)
    board.polygon([(0.16 * r, y - 0.42 * r), (0.3 * r, y - 0.22 * r), (0.46 * r, y - 0.42 * r)], _BLACK)


def works_triangle(canvas: Canvas, thing: Thing) -> None:
    """The triangular sign with the digging worker, on its trestle."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k = thing.size
    for x in (-0.35, 0.35):
        board.bar((x * 1.2, 0.0), (x * 0.4, 1.0 * k), 0.06, (110, 110, 110))
    ground = _YELLOW if thing.variant > 0.6 else _WHITE
    _triangle(board, 1.3 * k, 0.62 * k, _RED, ground)
    _digger(board, 1.3 * k, 0.62 * k)
    if thing.variant % 0.2 > 0.1:
        board.rectangle(-0.4 * k, 0.45 * k, 0.4 * k, 0.78 * k, ground, _SHINE)
        board.rectangle(-0.3 * k, 0.58 * k, 0.3 * k, 0.65 * k, _BLACK)


def works_diamond(canvas: Canvas, thing: Thing) -> None:
    """The orange diamond of North America, with the worker, lettering or a merging lane."""
    board = _post(canvas, thing, 1.4 * thing.size)
    if board is None:
        return
    r = 0.72 * thing.size
    y = 1.25 * thing.size + r * 0.6
    if thing.variant % 0.3 > 0.15:  # portable: two flags on top
        for f in (-1, 1):
            board.bar((0.0, y + r * 0.9), (0.5 * f * r, y + 1.6 * r), 0.03, _STEEL)
            board.polygon(
                [(0.5 * f * r, y + 1.6 * r), (0.95 * f * r, y + 1.45 * r), (0.4 * f * r, y + 1.2 * r)], _ORANGE
            )
    _diamond(board, y, r, _ORANGE)
    if thing.variant < 0.45:
        _digger(board, y, r * 0.95)
    elif thing.variant < 0.8:
        for row, half in ((0.26, 0.34), (0.0, 0.52), (-0.26, 0.34)):
            for i in range(5):
                x = -half * r + i * half * r * 0.42
                board.rectangle(x, y + row * r - 0.08 * r, x + half * r * 0.3, y + row * r + 0.08 * r, _BLACK)
    else:
        board.bar((0.15 * r, y - 0.5 * r), (0.15 * r, y + 0.5 * r), 0.1 * r, _BLACK)
        board.bar((-0.3 * r, y - 0.5 * r), (0.1 * r, y + 0.1 * r), 0.1 * r, _BLACK)


def detour(canvas: Canvas, thing: Thing) -> None:
    """An orange board with a black arrow and lettering."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, f = thing.size, thing.turn
    for x in (-0.5, 0.5):
        board.rectangle(x * k - 0.03, 0.0, x * k + 0.03, 1.3 * k, _STEEL)
    board.rectangle(-0.8 * k, 1.0 * k, 0.8 * k, 1.75 * k, _BLACK)
    board.rectangle(-0.76 * k, 1.04 * k, 0.76 * k, 1.71 * k, _ORANGE, _SHINE)
    board.bar((-0.5 * f * k, 1.25 * k), (0.3 * f * k, 1.25 * k), 0.13 * k, _BLACK)
    board.polygon([(0.62 * f * k, 1.25 * k), (0.26 * f * k, 1.42 * k), (0.26 * f * k, 1.08 * k)], _BLACK)
    for i in range(6):
        board.rectangle((-0.6 + i * 0.21) * k, 1.5 * k, (-0.46 + i * 0.21) * k, 1.64 * k, _BLACK)


def ordinary_triangle(canvas: Canvas, thing: Thing) -> None:
    """A warning of a bend, children, a bump or a give-way: red border, no digging."""
    board = _post(canvas, thing, 2.0)
    if board is None:
        return
    r, y = 0.5 * thing.size, 2.35
    kind = int(thing.variant * 4)
    if kind == 3:
        board.polygon([(-r, y + 0.62 * r), (r, y + 0.62 * r), (0.0, y - 1.12 * r)], _RED, _SHINE)
        board.polygon([(-0.6 * r, y + 0.4 * r), (0.6 * r, y + 0.4 * r), (0.0, y - 0.66 * r)], _WHITE, _SHINE)
        return
    _triangle(board, y, r, _RED, _WHITE)
    if kind == 0:
        board.rectangle(-0.07 * r, y - 0.1 * r, 0.07 * r, y + 0.36 * r, _BLACK)
        board.ellipse((0.0, y - 0.27 * r), (0.08 * r, 0.08 * r), _BLACK)
    elif kind == 1:
        board.bar((-0.12 * r, y - 0.4 * r), (-0.12 * r, y), 0.1 * r, _BLACK)
        board.bar((-0.12 * r, y), (0.16 * r, y + 0.26 * r), 0.1 * r, _BLACK)
    else:
        board.ellipse((-0.2 * r, y - 0.4 * r), (0.14 * r, 0.16 * r), _BLACK)
        board.ellipse((0.2 * r, y - 0.4 * r), (0.14 * r, 0.16 * r), _BLACK)


def ordinary_diamond(canvas: Canvas, thing: Thing) -> None:
    """A yellow warning diamond with an arrow or a bump."""
    board = _post(canvas, thing, 1.9)
    if board is None:
        return
    r, y = 0.52 * thing.size, 2.4
    _diamond(board, y, r, _YELLOW)
    if thing.variant < 0.5:
        board.bar((-0.2 * r, y - 0.45 * r), (-0.2 * r, y), 0.12 * r, _BLACK)
        board.bar((-0.2 * r, y), (0.25 * r, y + 0.35 * r), 0.12 * r, _BLACK)
    else:
        for x in (-0.2, 0.2):
            board.bar((x * r, y - 0.4 * r), (x * r, y + 0.4 * r), 0.1 * r, _BLACK)


def round_sign(canvas: Canvas, thing: Thing) -> None:
    """A speed limit, a no-parking disc or a blue arrow."""
    board = _post(canvas, thing, 2.2)
    if board is None:
        return
    r, y = 0.34 * thing.size, 2.3
    if thing.variant < 0.5:
        board.ellipse((0.0, y), (r, r), _RED, _SHINE)
        board.ellipse((0.0, y), (r * 0.76, r * 0.76), _WHITE, _SHINE)
        for x in (-0.3, 0.08):
            board.rectangle(x * r, y - 0.3 * r, (x + 0.26) * r, y + 0.3 * r, _BLACK)
    else:
        board.ellipse((0.0, y), (r, r), (28, 80, 170), _SHINE)
        board.bar(
            (-0.4 * r, y + 0.4 * r), (0.4 * r, y - 0.4 * r), 0.22 * r, _RED if thing.variant < 0.75 else _WHITE, _SHINE
        )


def billboard(canvas: Canvas, thing: Thing) -> None:
    """An advertisement in any colour, oranges among them."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k = thing.size
    for x in (-1.0, 1.0):
        board.rectangle(x * k - 0.06, 0.0, x * k + 0.06, 1.6 * k, (90, 92, 94))
    board.rectangle(-1.6 * k, 1.0 * k, 1.6 * k, 2.9 * k, (60, 62, 66))
    board.rectangle(-1.52 * k, 1.08 * k, 1.52 * k, 2.82 * k, thing.colour)
    board.ellipse(((thing.variant - 0.5) * 2 * k, 2.0 * k), (0.55 * k, 0.55 * k), (240, 236, 226))
    for row in range(3):
        board.rectangle(
            -1.3 * k, (1.25 + 0.2 * row) * k, (-0.2 + thing.variant) * k, (1.33 + 0.2 * row) * k, (250, 248, 240)
        )


DRAW: dict[str, Callable[[Canvas, Thing], None]] = {
    "works triangle": works_triangle,
    "works diamond": works_diamond,
    "detour sign": detour,
    "ordinary triangle": ordinary_triangle,
    "ordinary diamond": ordinary_diamond,
    "round sign": round_sign,
    "billboard": billboard,
}
