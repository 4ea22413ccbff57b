"""What stands in any street: posts, skips, lamps, trees, bins and rails, some of them mistaken for roadwork."""

from collections.abc import Callable

from streetvision.data.procedural.canvas import Canvas, prism
from streetvision.data.procedural.gear import span
from streetvision.data.procedural.look import Rgb
from streetvision.data.procedural.scene import Thing
from streetvision.data.procedural.texture import foliage

_WHITE: Rgb = (238, 238, 234)


def skip(canvas: Canvas, thing: Thing) -> None:
    """A builder's or household skip: an open steel container, wider at the top."""
    k = thing.size
    front, side, normal = prism(
        canvas,
        (thing.u, 0.0, thing.s),
        thing.s + 3.2 * k,
        0.75 * k,
        1.15 * k,
        thing.colour,
        taper=(-0.2 * k, -0.35 * k, -0.35 * k),
        top=(52, 46, 42),
    )
    shade: Rgb = (thing.colour[0] * 0.7, thing.colour[1] * 0.7, thing.colour[2] * 0.7)
    canvas.decal(front, ((0, 0.9), (1, 0.9), (1, 1), (0, 1)), shade, normal=(0, 0, -1))
    for x in (0.2, 0.5, 0.8):
        canvas.decal(side, ((x, 0), (x + 0.04, 0), (x + 0.04, 1), (x, 1)), shade, normal=normal)
    canvas.decal(side, ((0, 0.9), (1, 0.9), (1, 1), (0, 1)), shade, normal=normal)


def striped_post(canvas: Canvas, thing: Thing) -> None:
    """A red-white bollard, or a delineator post with its reflector."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k = thing.size
    bands = 5
    for i in range(bands):
        board.rectangle(-0.06 * k, i / bands * k, 0.06 * k, (i + 1) / bands * k, _WHITE if i % 2 else thing.colour, 0.5)
    board.ellipse((0.0, 1.0 * k), (0.06 * k, 0.04 * k), thing.colour)


def lamp(canvas: Canvas, thing: Thing) -> None:
    """A street lamp whose arm reaches over the road."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    f, height = thing.turn, 6.5 * thing.size
    board.bar((0.0, 0.0), (0.0, height), 0.13, (84, 86, 88))
    board.bar((0.0, height), (1.5 * f, height + 0.35), 0.09, (84, 86, 88))
    board.ellipse(
        (1.6 * f, height + 0.3),
        (0.32, 0.1),
        (250, 226, 176) if canvas.look.lamps else (170, 172, 174),
        3.0 if canvas.look.lamps else 0.0,
    )
    if canvas.look.lamps:
        canvas.bloom(thing.u + 1.6 * f, height + 0.3, thing.s, 0.5, (235, 190, 120))


def traffic_light(canvas: Canvas, thing: Thing) -> None:
    """Signals on a pole."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    board.bar((0.0, 0.0), (0.0, 3.4), 0.11, (70, 72, 74))
    board.rectangle(-0.17, 2.4, 0.17, 3.4, (26, 27, 28))
    on = int(thing.variant * 3)
    for i, colour in enumerate(((40, 220, 120), (250, 180, 30), (240, 40, 30))):
        lit: Rgb = colour if i == on else (colour[0] * 0.25, colour[1] * 0.25, colour[2] * 0.25)
        board.ellipse((0.0, 2.56 + 0.32 * i), (0.11, 0.11), lit, 2.0 if i == on else 0.0)


def tree(canvas: Canvas, thing: Thing) -> None:
    """A tree; bare where `variant` is above 0.85."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    k = thing.size
    trunk: Rgb = (84, 70, 58)
    board.polygon([(-0.17 * k, 0.0), (0.17 * k, 0.0), (0.09 * k, 2.6 * k), (-0.09 * k, 2.6 * k)], trunk)
    if thing.variant > 0.85:
        for x, y, width in (
            (-1.5, 4.6, 0.12),
            (1.4, 4.9, 0.12),
            (-0.5, 5.6, 0.1),
            (0.7, 5.8, 0.1),
            (-2.0, 3.7, 0.08),
            (2.0, 3.9, 0.08),
        ):
            board.bar((0.0, 2.2 * k), (x * k, y * k), width * k, trunk)
            board.bar((x * 0.6 * k, (2.2 + (y - 2.2) * 0.6) * k), (x * 0.4 * k, y * 1.08 * k), width * 0.5 * k, trunk)
        return
    kind = int(thing.variant * 9)
    c = thing.colour
    board.stamp(foliage(kind), (-0.8 * k, 3.5 * k), (3.0 * k, 2.8 * k), (c[0] * 0.82, c[1] * 0.82, c[2] * 0.82))
    board.stamp(foliage(kind, mirrored=True), (0.3 * k, 4.1 * k), (3.9 * k, 3.7 * k), c)


def bush(canvas: Canvas, thing: Thing) -> None:
    """A hedge plant or shrub."""
    board = canvas.board(thing.u, thing.s)
    if board is not None:
        board.stamp(
            foliage(int(thing.variant * 9)),
            (0.0, 0.65 * thing.size),
            (2.4 * thing.size, 1.5 * thing.size),
            thing.colour,
        )


def bin_(canvas: Canvas, thing: Thing) -> None:
    """A wheeled bin or a post box."""
    prism(
        canvas,
        (thing.u, 0.0, thing.s),
        thing.s + 0.6,
        0.28 * thing.size,
        1.05 * thing.size,
        thing.colour,
        taper=(-0.05, 0.0, 0.0),
        top=(50, 50, 52),
    )


def parasol(canvas: Canvas, thing: Thing) -> None:
    """A café table under a coloured parasol."""
    board = canvas.board(thing.u, thing.s)
    if board is None:
        return
    c = thing.colour
    board.bar((0.0, 0.0), (0.0, 2.4), 0.05, (190, 186, 178))
    board.rectangle(-0.5, 0.7, 0.5, 0.76, (120, 92, 66))
    for i in range(4):
        left, right = -1.3 + 0.65 * i, -0.65 + 0.65 * i
        paint: Rgb = (
            c if i % 2 else ((236, 232, 222) if thing.variant > 0.5 else (c[0] * 0.85, c[1] * 0.85, c[2] * 0.85))
        )
        board.polygon([(left, 2.1), (right, 2.1), (right * 0.1, 2.7), (left * 0.1, 2.7)], paint)


def guard_rail(canvas: Canvas, thing: Thing) -> None:
    """A steel rail along the road."""
    face = span(thing, 0.45, 0.8)
    canvas.decal(face, ((0, 0), (1, 0), (1, 1), (0, 1)), (168, 172, 174), normal=(0, 0.7, -0.7))
    canvas.decal(face, ((0, 0.4), (1, 0.4), (1, 0.6), (0, 0.6)), (110, 114, 118), normal=(0, 0.7, -0.7))
    for i in range(9):
        share = i / 8
        board = canvas.board(thing.u, thing.s + (thing.end_s - thing.s) * share)
        if board is not None:
            board.rectangle(-0.05, 0.0, 0.05, 0.6, (120, 122, 124))


DRAW: dict[str, Callable[[Canvas, Thing], None]] = {
    "skip": skip,
    "striped post": striped_post,
    "lamp": lamp,
    "traffic light": traffic_light,
    "tree": tree,
    "bush": bush,
    "bin": bin_,
    "parasol": parasol,
    "guard rail": guard_rail,
}
