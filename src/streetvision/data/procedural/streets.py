"""Streets without incident: road, houses, traffic, people and greenery."""

from dataclasses import dataclass, field

import numpy as np

from streetvision.data.procedural.look import Look, Rgb
from streetvision.data.procedural.scene import Building, Street, Thing

KINDS = ("city", "suburb", "rural", "highway")
_KIND_SHARES = (0.48, 0.26, 0.14, 0.12)
LANE_M = 3.3

CAR_COLOURS: tuple[Rgb, ...] = (
    (224, 225, 226), (30, 31, 33), (112, 116, 120), (172, 176, 180), (52, 74, 122),
    (150, 32, 34), (72, 92, 78), (196, 186, 162), (34, 52, 84), (226, 104, 30), (214, 176, 40),
)  # fmt: skip
_CAR_SHARES = (0.18, 0.17, 0.14, 0.15, 0.1, 0.07, 0.04, 0.05, 0.05, 0.03, 0.02)
_CLOTHES: tuple[Rgb, ...] = (
    (42, 46, 60), (120, 40, 44), (176, 172, 164), (60, 84, 66), (86, 70, 60), (30, 30, 32), (150, 120, 80),
    (70, 96, 140), (206, 98, 44), (214, 190, 60),
)  # fmt: skip
_WALLS: tuple[Rgb, ...] = (
    (204, 192, 168), (178, 118, 92), (214, 206, 192), (158, 150, 142), (150, 92, 74), (196, 172, 132), (226, 220, 208),
    (140, 146, 152), (208, 160, 120), (122, 104, 92), (214, 190, 120), (176, 186, 180),
)  # fmt: skip
_ROOFS: tuple[Rgb, ...] = ((124, 64, 48), (82, 78, 76), (150, 84, 58), (70, 66, 70))
_SHOPS: tuple[Rgb, ...] = ((40, 70, 110), (150, 40, 40), (50, 90, 62), (210, 110, 40), (60, 54, 60), (200, 160, 50))
AWNINGS: tuple[Rgb, ...] = ((206, 96, 36), (176, 40, 44), (56, 92, 72), (210, 180, 120), (52, 76, 120))


def pick(rng: np.random.Generator, choices: tuple[Rgb, ...], spread: float = 0.06) -> Rgb:
    """One of the colours, varied a little."""
    red, green, blue = np.clip(np.array(choices[int(rng.integers(len(choices)))]) * rng.normal(1, spread, 3), 8, 250)
    return (float(red), float(green), float(blue))


def car_colour(rng: np.random.Generator) -> Rgb:
    """A colour as cars have them."""
    return pick(rng, (CAR_COLOURS[int(rng.choice(len(CAR_COLOURS), p=_CAR_SHARES))],))


@dataclass
class Plan:
    """A street that is being filled; `taken` holds the boxes (left, right, s, end_s) that are occupied."""

    rng: np.random.Generator
    look: Look
    street: Street
    drive_u: float  # where the camera drives
    things: list[Thing] = field(default_factory=list[Thing])
    taken: list[tuple[float, float, float, float]] = field(default_factory=list[tuple[float, float, float, float]])

    def free(self, u: float, s: float, half: float, length: float) -> bool:
        """Whether nothing occupies that place."""
        return not any(
            u + half > left and u - half < right and s + length > low and s < high
            for left, right, low, high in self.taken
        )

    def add(self, kind: str, u: float, s: float, **fields: object) -> Thing:
        """Puts a thing there, with a random variant and facing where not given."""
        values = {"variant": float(self.rng.random()), "turn": int(self.rng.choice((-1, 1)))} | fields
        thing = Thing(kind=kind, u=float(u), s=float(s), **values)  # type: ignore[arg-type]
        self.things.append(thing)
        return thing

    def place(self, kind: str, u: float, s: float, half: float, length: float, **fields: object) -> bool:
        """Puts a thing there and occupies the place, unless it is taken."""
        if not self.free(u, s, half, length):
            return False
        self.add(kind, u, s, **fields)
        self.taken.append((u - half, u + half, s, s + length))
        return True


def draw_street(rng: np.random.Generator, kind: str | None = None) -> tuple[Street, float]:
    """A random street, and where across it the camera drives."""
    kind = kind or str(rng.choice(KINDS, p=_KIND_SHARES))
    lanes = {"city": int(rng.choice((1, 2), p=(0.65, 0.35))), "highway": int(rng.choice((2, 3)))}.get(kind, 1)
    parking = 2.2 if kind == "city" and rng.random() < 0.65 else (0.9 if kind != "highway" else 2.0)
    right = lanes * LANE_M + parking if kind != "highway" else lanes * LANE_M / 2 + parking
    own = int(rng.integers(lanes))
    drive = own * LANE_M + LANE_M / 2 if kind != "highway" else (own - lanes / 2 + 0.5) * LANE_M
    if kind == "highway":
        lines = tuple((i - lanes / 2) * LANE_M for i in range(1, lanes))
    else:
        lines = tuple(side * i * LANE_M for i in range(1, lanes + (parking > 2)) for side in (-1, 1))
    street = Street(
        kind=kind,
        left=-right,
        right=right,
        pavement={"city": float(rng.uniform(2.2, 4.2)), "suburb": float(rng.uniform(1.4, 2.2))}.get(kind, 0.3),
        lines=lines,
        centre="none"
        if kind == "highway"
        else str(rng.choice(("dashed", "solid", "double", "none"), p=(0.5, 0.15, 0.2, 0.15))),
        yellow=bool(rng.random() < 0.5),
        crossing_s=float(rng.uniform(8, 40)) if kind in ("city", "suburb") and rng.random() < 0.25 else None,
        asphalt=float(rng.uniform(76, 122)),
        bend=float(rng.normal(0, 0.0011)) if rng.random() < 0.6 else 0.0,
        seed=int(rng.integers(2**31)),
    )
    return street, drive


def draw_buildings(rng: np.random.Generator, street: Street) -> tuple[Building, ...]:
    """Houses on both sides, as the kind of street has them."""
    if street.kind in ("rural", "highway") and rng.random() < 0.7:
        return ()
    houses: list[Building] = []
    for side in (-1, 1):
        kerb = street.right + street.pavement
        setback = {"city": 0.05, "suburb": float(rng.uniform(3, 7))}.get(street.kind, float(rng.uniform(9, 16)))
        s = float(rng.uniform(-12, 0))
        gaps = {"city": 0.12, "suburb": 0.9}.get(street.kind, 1.0)
        while s < 110:
            length = float(rng.uniform(8, 18))
            storeys = int(rng.integers(2, 7)) if street.kind == "city" else int(rng.integers(1, 3))
            shop = street.kind == "city" and rng.random() < 0.45
            wall = pick(rng, _WALLS)
            houses.append(
                Building(
                    u=side * (kerb + setback + float(rng.uniform(0, 0.6))),
                    s=s,
                    end_s=s + length,
                    storeys=storeys,
                    wall=wall,
                    trim=pick(rng, ((226, 222, 212), (190, 184, 172), (110, 100, 92))),
                    roof=pick(rng, _ROOFS),
                    shop=pick(rng, _SHOPS) if shop else None,
                    awning=pick(rng, AWNINGS) if shop and rng.random() < 0.3 else None,
                    style=int(rng.integers(5)) if street.kind == "city" else 1 + 2 * int(rng.integers(2)),
                    seed=int(rng.integers(2**31)),
                )
            )
            s += length + (float(rng.uniform(2, 14)) if rng.random() < gaps else 0.0)
    return tuple(houses)


def leaf_colour(rng: np.random.Generator, look: Look) -> Rgb:
    """What leaves look like in that season."""
    choices: dict[str, tuple[Rgb, ...]] = {
        "summer": ((70, 104, 48), (56, 92, 52), (92, 118, 56), (48, 78, 44)),
        "autumn": ((196, 120, 40), (176, 84, 34), (190, 152, 56), (120, 108, 52)),
        "winter": ((70, 84, 60), (96, 92, 74)),
    }
    return pick(rng, choices[look.season], 0.1)


def fill(plan: Plan) -> None:
    """Adds what any street has: lamps, trees, parked and moving cars, people, bins, lights."""
    rng, street = plan.rng, plan.street
    _greenery(plan)
    lit = plan.look.lamps or rng.random() < 0.7
    if lit and street.kind != "rural":
        side = int(rng.choice((-1, 1)))
        for s in np.arange(rng.uniform(4, 16), 75, rng.uniform(16, 26)):
            plan.add("lamp", side * (street.right + 0.5), s, turn=-side, size=float(rng.uniform(0.85, 1.2)))
            if street.kind == "city":
                plan.add("lamp", -side * (street.right + 0.5), s + 4, turn=side, size=1.0)
    _traffic(plan)
    _pavement_life(plan)


def _greenery(plan: Plan) -> None:
    rng, street, look = plan.rng, plan.street, plan.look
    bare = look.season == "winter"
    chance = {"city": 0.45, "suburb": 0.85, "rural": 0.9, "highway": 0.8}[street.kind]
    for side in (-1, 1):
        if rng.random() > chance:
            continue
        row = street.right + (street.pavement - 0.6 if street.kind == "city" else street.pavement + rng.uniform(1.2, 4))
        for s in np.arange(rng.uniform(2, 12), 85, rng.uniform(6, 14)):
            off = rng.uniform(0, 6) if street.kind in ("rural", "highway") else rng.uniform(-0.2, 0.3)
            size, variant = float(rng.uniform(0.75, 1.4)), float(rng.uniform(0.86, 1) if bare else rng.uniform(0, 0.85))
            u, at = side * (row + off), s + rng.uniform(-1, 1)
            plan.add("tree", u, at, colour=leaf_colour(rng, look), size=size, variant=variant)
    if street.kind != "city":
        for _ in range(int(rng.integers(6, 22))):
            side = int(rng.choice((-1, 1)))
            u = side * (street.right + street.pavement + rng.uniform(1.2, 9))
            plan.add("bush", u, rng.uniform(4, 60), colour=leaf_colour(rng, look), size=float(rng.uniform(0.6, 1.5)))
    if street.kind in ("rural", "highway") and rng.random() < 0.6:
        for side in (-1, 1) if rng.random() < 0.5 else (1,):
            for s in range(2, 70, 6):
                u = side * (street.right + 0.5)
                plan.add("guard rail", u, s, end_u=u, end_s=s + 6.0)


def _traffic(plan: Plan) -> None:
    rng, street = plan.rng, plan.street
    if street.kind in ("city", "suburb"):
        for side in (-1, 1):
            if rng.random() < 0.75:
                u = side * (street.right - 1.05)
                s = float(rng.uniform(2, 14))
                while s < 62:
                    kind = str(rng.choice(("car", "van"), p=(0.88, 0.12)))
                    length = 5.4 if kind == "van" else 4.4
                    colour = car_colour(rng)
                    plan.place(kind, u, s, 0.9, length, colour=colour, turn=side, size=float(rng.uniform(0.92, 1.08)))
                    s += length + float(rng.choice((0.9, 4.0, 14.0), p=(0.5, 0.3, 0.2)))
    lanes = int(street.right // LANE_M) if street.kind != "highway" else round((street.right - 2) / LANE_M * 2)
    for i in range(lanes * (1 if street.kind == "highway" else 2)):
        if street.kind == "highway":
            u, turn = (i - lanes / 2 + 0.5) * LANE_M, 1
        else:
            turn = 1 if i % 2 == 0 else -1
            u = turn * (i // 2 + 0.5) * LANE_M
        s = float(rng.uniform(9, 38))
        while s < 75:
            kind = str(rng.choice(("car", "van", "lorry"), p=(0.83, 0.1, 0.07)))
            length = {"car": 4.4, "van": 5.4, "lorry": 8.0}[kind]
            plan.place(kind, u + rng.normal(0, 0.15), s, 1.0, length, colour=car_colour(rng), turn=turn)
            s += length + float(rng.uniform(8, 45))
    if street.kind == "city" and rng.random() < 0.2:
        plan.add("crossing car", float(rng.uniform(-8, 8)), float(rng.uniform(35, 60)), colour=car_colour(rng))


def _pavement_life(plan: Plan) -> None:
    rng, street = plan.rng, plan.street
    busy = {"city": 7, "suburb": 3}.get(street.kind, 0)
    for _ in range(int(rng.integers(0, busy + 1))):
        u = int(rng.choice((-1, 1))) * (street.right + rng.uniform(0.3, max(street.pavement - 0.2, 0.5)))
        plan.add(
            "pedestrian", u, rng.uniform(4, 40), colour=pick(rng, _CLOTHES, 0.1), size=float(rng.uniform(0.9, 1.08))
        )
    if street.crossing_s is not None and rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 4))):
            u = rng.uniform(street.left, street.right)
            plan.add("pedestrian", u, street.crossing_s + rng.uniform(0.5, 2.5), colour=pick(rng, _CLOTHES, 0.1))
    if street.kind == "city":
        for _ in range(int(rng.integers(0, 4))):
            u = int(rng.choice((-1, 1))) * (street.right + rng.uniform(0.4, street.pavement - 0.4))
            paint = pick(rng, ((70, 78, 74), (52, 64, 52), (40, 52, 90), (150, 36, 36), (120, 90, 40)))
            plan.add("bin", u, rng.uniform(5, 35), colour=paint)
        if rng.random() < 0.3:
            for side in (-1, 1):
                plan.add("traffic light", side * (street.right + 0.4), rng.uniform(14, 45))
    if rng.random() < 0.5:
        plan.add("round sign", int(rng.choice((-1, 1))) * (street.right + 0.5), rng.uniform(6, 30))
