"""What marks off roadwork and lies about in it: cones, drums, striped boards, blocks, netting, spoil and pipes."""

from collections.abc import Callable

import numpy as np

from streetvision.data.procedural.canvas import Canvas, Face, prism
from streetvision.data.procedural.look import Rgb
from streetvision.data.procedural.scene import Thing
from streetvision.data.procedural.texture import foliage

_WHITE: Rgb = (238, 238, 234)
_SLEEVE = 1.2  # how strongly reflective tape throws light back


def cone(canvas: Canvas, thing: Thing) -> None:
    """A traffic cone with white sleeves."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, paint = thing.size, thing.colour
    base: Rgb = (paint[0] * 0.7, paint[1] * 0.7, paint[2] * 0.7) if thing.variant > 0.4 else (38, 38, 40)
    tip = (thing.variant - 0.5) * 0.06

    def half(y: float) -> float:
        return 0.185 - 0.19 * y

    board.polygon([(-0.27 * k, 0.0), (0.27 * k, 0.0), (0.24 * k, 0.06 * k), (-0.24 * k, 0.06 * k)], base)
    for low, high, colour, shine in (
        (0.05, 0.8, paint, 0.35),
        (0.27, 0.4, _WHITE, _SLEEVE),
        (0.5, 0.6, _WHITE, _SLEEVE),
    ):
        marks = (
            (-half(low) + tip * low, low),
            (half(low) + tip * low, low),
            (half(high) + tip * high, high),
            (-half(high) + tip * high, high),
        )
        board.polygon([(x * k, y * k) for x, y in marks], colour, shine)
    # the side away from the light
    shade: Rgb = (paint[0] * 0.66, paint[1] * 0.62, paint[2] * 0.62)
    board.polygon(
        [
            (half(0.05) * 0.4 * k, 0.05 * k),
            (half(0.05) * k, 0.05 * k),
            (half(0.26) * k, 0.26 * k),
            (half(0.26) * 0.4 * k, 0.26 * k),
        ],
        shade,
    )


def drum(canvas: Canvas, thing: Thing) -> None:
    """A channelising drum: orange barrel with white bands."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, paint = thing.size, thing.colour
    board.rectangle(-0.34 * k, 0.0, 0.34 * k, 0.1 * k, (30, 30, 32))
    for i, (low, high) in enumerate(((0.08, 0.3), (0.3, 0.46), (0.46, 0.62), (0.62, 0.78), (0.78, 1.02))):
        colour, shine = (_WHITE, _SLEEVE) if i % 2 else (paint, 0.35)
        half = 0.3 - 0.05 * low
        board.rectangle(-half * k, low * k, half * k, high * k, colour, shine)
        board.rectangle(
            half * 0.5 * k,
            low * k,
            half * k,
            high * k,
            (colour[0] * 0.7, colour[1] * 0.7, colour[2] * 0.7),
            shine * 0.6,
        )
    board.ellipse((0.0, 1.02 * k), (0.27 * k, 0.06 * k), (paint[0] * 0.8, paint[1] * 0.8, paint[2] * 0.8))


def beacon(canvas: Canvas, thing: Thing) -> None:
    """A striped panel on a black foot, with or without its lamp."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k, f = thing.size, thing.turn
    board.rectangle(-0.28 * k, 0.0, 0.28 * k, 0.12 * k, (34, 34, 36))
    board.rectangle(-0.14 * k, 0.12 * k, 0.14 * k, 1.1 * k, _WHITE, _SLEEVE)
    for i in range(4):
        y = 0.14 + 0.25 * i
        board.polygon(
            [
                (-0.14 * k * f, y * k),
                (0.14 * k * f, (y + 0.12) * k),
                (0.14 * k * f, min(y + 0.24, 1.1) * k),
                (-0.14 * k * f, (y + 0.12) * k),
            ],
            thing.colour,
            _SLEEVE,
        )
    if thing.variant > 0.5:
        board.ellipse((0.0, 1.2 * k), (0.1 * k, 0.1 * k), (250, 186, 40), 1.0)
        canvas.bloom(thing.u, 1.2 * k, thing.s, 0.2 if canvas.look.lamps else 0.05, (130, 80, 10))


def span(thing: Thing, low: float, high: float) -> Face:
    """The upright face from a thing's start to its end, left to right as drawn."""
    a, b = (thing.u, thing.s), (thing.end_u, thing.end_s)
    return ((a[0], low, a[1]), (b[0], low, b[1]), (b[0], high, b[1]), (a[0], high, a[1]))


def barricade(canvas: Canvas, thing: Thing) -> None:
    """Striped boards on two legs, between its two ends."""
    k = thing.size
    rails = ((0.85, 1.1), (0.35, 0.55)) if thing.variant < 0.5 else ((1.2, 1.45), (0.75, 1.0), (0.3, 0.55))
    top = rails[0][1]
    for share in (0.12, 0.88):
        u = thing.u + (thing.end_u - thing.u) * share
        s = thing.s + (thing.end_s - thing.s) * share
        board = canvas.board(u, s)
        if board is not None:
            board.bar((0.0, 0.0), (0.0, top * k), 0.07, (150, 150, 148))
            board.bar((-0.25, 0.03), (0.25, 0.03), 0.06, (90, 90, 90))
    length = float(np.hypot(thing.end_u - thing.u, thing.end_s - thing.s))
    for low, high in rails:
        stripes(
            canvas, span(thing, low * k, high * k), (0, 0, 1, 1), max(3, round(length / 0.45)), thing.colour, _WHITE
        )
    if canvas.look.lamps:
        canvas.bloom(thing.u, (top + 0.1) * k, thing.s, 0.22, (150, 84, 10))


def water_barrier(canvas: Canvas, thing: Thing) -> None:
    """Plastic blocks in a row, red and white or orange in turn."""
    length = float(np.hypot(thing.end_u - thing.u, thing.end_s - thing.s))
    count = max(1, round(length / 1.6))
    step_u, step_s = (thing.end_u - thing.u) / count, (thing.end_s - thing.s) / count
    for i in reversed(range(count)):
        u, s = thing.u + step_u * i, thing.s + step_s * i
        colour = _WHITE if i % 2 else thing.colour
        prism(
            canvas,
            (u + step_u / 2, 0.0, s),
            s + max(step_s, 0.3) * 0.97,
            0.25,
            0.3 * thing.size,
            colour,
            taper=(0.0, 0.0, 0.0),
        )
        prism(
            canvas,
            (u + step_u / 2, 0.3 * thing.size, s),
            s + max(step_s, 0.3) * 0.97,
            0.25,
            0.55 * thing.size,
            colour,
            taper=(0.13, 0.0, 0.0),
        )


def mesh_fence(canvas: Canvas, thing: Thing) -> None:
    """Orange safety netting between posts."""
    length = float(np.hypot(thing.end_u - thing.u, thing.end_s - thing.s))
    face = span(thing, 0.1, 1.05 * thing.size)
    count = max(4, round(length / 0.35))
    paint = thing.colour
    for i in range(6):
        y = i / 5
        canvas.decal(face, ((0, y - 0.045), (1, y - 0.045), (1, y + 0.045), (0, y + 0.045)), paint, normal=(0, 0, -1))
    for i in range(count + 1):
        x = i / count
        canvas.decal(
            face,
            ((x - 0.16 / count, 0), (x + 0.16 / count, 0), (x + 0.16 / count, 1), (x - 0.16 / count, 1)),
            paint,
            normal=(0, 0, -1),
        )
    for i in range(max(2, round(length / 2.5)) + 1):
        share = i / max(2, round(length / 2.5))
        board = canvas.board(thing.u + (thing.end_u - thing.u) * share, thing.s + (thing.end_s - thing.s) * share)
        if board is not None:
            board.rectangle(-0.03, 0.0, 0.03, 1.2 * thing.size, (110, 104, 96))


def spoil(canvas: Canvas, thing: Thing) -> None:
    """A heap of soil, gravel or fallen leaves."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k = thing.size
    board.stamp(foliage(int(thing.variant * 6), heap=True), (0.0, 0.42 * k), (2.6 * k, 0.95 * k), thing.colour)


def pipes(canvas: Canvas, thing: Thing) -> None:
    """A stack of pipes, seen on end."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    for row, count in ((0, 4), (1, 3), (2, 2)):
        for i in range(count):
            at = ((i - (count - 1) / 2) * 0.42, 0.2 + 0.36 * row)
            board.ellipse(at, (0.2, 0.2), thing.colour)
            board.ellipse(at, (0.14, 0.14), (28, 26, 26))


def stripes(
    canvas: Canvas,
    face: Face,
    box: tuple[float, float, float, float],
    count: int,
    one: Rgb,
    two: Rgb,
    *,
    chevron: bool = False,
) -> None:
    """Diagonal reflective stripes over part of a face; as chevrons they meet in its middle."""
    left, bottom, right, top = box
    canvas.decal(face, ((left, bottom), (right, bottom), (right, top), (left, top)), two, normal=(0, 0, -1), shine=0.5)
    step = (right - left) / count
    for i in range(count):
        x = left + step * i
        lean = step * 0.5 if not chevron or i < count / 2 else -step * 0.5
        a, b = x + max(0.0, -lean), x + step * 0.5 + max(0.0, -lean)
        marks = ((a, bottom), (b, bottom), (b + lean, top), (a + lean, top))
        canvas.decal(face, [(min(max(m, left), right), y) for m, y in marks], one, normal=(0, 0, -1), shine=0.5)


DRAW: dict[str, Callable[[Canvas, Thing], None]] = {
    "cone": cone,
    "drum": drum,
    "beacon": beacon,
    "barricade": barricade,
    "water barrier": water_barrier,
    "mesh fence": mesh_fence,
    "spoil": spoil,
    "pipes": pipes,
}
