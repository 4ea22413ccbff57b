"""Extended work zones: closed ground, what marks it off, who works in it, and the signs before it."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from streetvision.data.procedural.look import Rgb
from streetvision.data.procedural.scene import Dig
from streetvision.data.procedural.streets import Plan, pick

ITEMS = ("cones", "barriers", "fence", "trench", "excavator", "roller", "lorry", "workers", "signs")

_ORANGES: tuple[Rgb, ...] = ((246, 96, 24), (240, 112, 30), (232, 84, 30))
_BOARDS: tuple[Rgb, ...] = ((206, 32, 34), (242, 110, 26))
_MACHINES: tuple[Rgb, ...] = ((232, 172, 24), (226, 140, 26), (214, 188, 40), (206, 90, 36))
_VESTS: tuple[Rgb, ...] = ((206, 236, 40), (250, 116, 22))
_SOIL: tuple[Rgb, ...] = ((122, 92, 64), (146, 128, 102), (104, 80, 60))
_WORDS = {
    "cones": "traffic cones",
    "barriers": "striped barriers",
    "fence": "orange safety netting",
    "trench": "opened ground",
    "excavator": "an excavator",
    "roller": "a road roller",
    "lorry": "a works lorry with an arrow board",
    "workers": "workers in hi-vis",
    "signs": "roadwork signs",
}


@dataclass(frozen=True)
class _Zone:
    """Closed ground on one side of the street, from its kerb to `edge`."""

    side: int
    kerb: float
    edge: float
    s: float
    end_s: float

    @property
    def middle(self) -> float:
        return (self.kerb + self.edge) / 2

    def inside(self, rng: np.random.Generator, margin: float = 0.5) -> float:
        low, high = sorted((self.kerb + self.side * 0.6, self.edge + self.side * margin))
        return float(rng.uniform(low, max(high, low + 0.1)))


def add(plan: Plan, wanted: frozenset[str] = frozenset()) -> str:
    """Fills a work zone into the plan, before its traffic; gives one sentence on what is there."""
    rng = plan.rng
    items = set(wanted) | _choose(rng)
    side = int(rng.choice((-1, 1), p=(0.4, 0.6)))
    zone = _stake_out(plan, side)
    plan.taken.append((min(zone.edge, zone.kerb) - 0.3, max(zone.edge, zone.kerb) + 0.3, zone.s - 1, zone.end_s + 2))
    if "trench" in items:
        _dig(plan, zone)
    _delineate(plan, zone, items)
    _machines(plan, zone, items)
    if "workers" in items:
        for _ in range(int(rng.integers(2, 6))):
            s = float(rng.uniform(zone.s + 1, min(zone.end_s, zone.s + 20)))
            plan.add("worker", zone.inside(rng, 0.0), s, colour=pick(rng, _VESTS), size=float(rng.uniform(0.95, 1.08)))
    if "signs" in items:
        _signs(plan, zone)
    if rng.random() < 0.75:
        _other_side(plan, zone, items)
    if rng.random() < 0.35:
        _close_off(plan, zone)
        items.add("barriers")
    return _sentence(plan, items, side)


def _choose(rng: np.random.Generator) -> set[str]:
    items = {"cones"} if rng.random() < 0.85 else {"barriers"}
    for item, chance in (("barriers", 0.5), ("fence", 0.25), ("trench", 0.6), ("workers", 0.7), ("signs", 0.75)):
        if rng.random() < chance:
            items.add(item)
    machine = str(rng.choice(("excavator", "roller", "lorry", "none"), p=(0.38, 0.14, 0.26, 0.22)))
    return items | ({machine} if machine != "none" else set())


def _stake_out(plan: Plan, side: int) -> _Zone:
    rng, street = plan.rng, plan.street
    kerb = street.right if side > 0 else street.left
    if side > 0 and rng.random() < 0.45:
        edge = plan.drive_u - rng.uniform(0.2, 1.2)  # the camera's own lane is closed ahead
        s = float(rng.uniform(6.5, 11))
    else:
        edge = plan.drive_u + side * rng.uniform(1.2, 2.0)
        s = float(rng.uniform(4, 9))
    if abs(kerb - edge) < 2.2:
        kerb = edge + side * 2.6  # the pavement is part of it
    return _Zone(side, float(kerb), float(edge), s, s + float(rng.uniform(22, 45)))


def _dig(plan: Plan, zone: _Zone) -> None:
    rng = plan.rng
    kind = str(rng.choice(("trench", "gravel", "milled", "plates"), p=(0.5, 0.2, 0.2, 0.1)))
    left, right = sorted((zone.edge + zone.side * 0.6, zone.kerb - zone.side * 0.2))
    if kind == "trench":
        middle, half = (left + right) / 2, min((right - left) / 2, float(rng.uniform(0.5, 1.1)))
        left, right = middle - half, middle + half
    start = zone.s + float(rng.uniform(1.5, 4))
    dig = Dig(left=left, right=right, s=start, end_s=min(zone.end_s, start + float(rng.uniform(8, 26))), kind=kind)
    plan.street = replace(plan.street, digs=(*plan.street.digs, dig))
    for _ in range(int(rng.integers(1, 4))):
        s = float(rng.uniform(zone.s + 2, zone.s + 18))
        plan.add("spoil", zone.inside(rng), s, colour=pick(rng, _SOIL), size=float(rng.uniform(0.8, 1.7)))
    if rng.random() < 0.3:
        plan.add(
            "pipes",
            zone.inside(rng),
            zone.s + float(rng.uniform(3, 12)),
            colour=pick(rng, ((190, 110, 60), (150, 150, 148), (60, 90, 150))),
        )


def _delineate(plan: Plan, zone: _Zone, items: set[str]) -> None:
    """A taper from the kerb to the edge, then a line along the edge."""
    rng = plan.rng
    taper = float(rng.uniform(3, 7))
    marker = str(rng.choice(("cone", "drum", "beacon"), p=(0.55, 0.2, 0.25))) if "cones" in items else "none"
    line = [(zone.kerb, zone.s), (zone.edge, zone.s + taper), (zone.edge, zone.end_s)]
    if marker != "none":
        colour, size = pick(rng, _ORANGES if marker != "beacon" else _BOARDS), float(rng.uniform(0.95, 1.35))
        for u, s in _along(line, float(rng.uniform(1.6, 2.9))):
            plan.add(marker, u + rng.normal(0, 0.08), s + rng.normal(0, 0.15), colour=colour, size=size, turn=zone.side)
    if "barriers" in items:
        kind = str(rng.choice(("barricade", "water barrier")))
        colour = pick(rng, _BOARDS)
        for (u, s), (end_u, end_s) in _pairs(line, 2.2 if kind == "barricade" else 4.8):
            gap = 0.86 if kind == "barricade" else 1.0
            plan.add(
                kind,
                u,
                s,
                end_u=u + (end_u - u) * gap,
                end_s=s + (end_s - s) * gap,
                colour=colour,
                size=float(rng.uniform(0.85, 1.05)),
            )
    if "fence" in items:
        u = zone.kerb
        for s in np.arange(zone.s, zone.end_s, 5.0):
            plan.add("mesh fence", u, s, end_u=u, end_s=s + 5.0, colour=pick(rng, ((238, 104, 32),)))


def _machines(plan: Plan, zone: _Zone, items: set[str]) -> None:
    rng = plan.rng
    s = zone.s + float(rng.uniform(6, 13))
    for kind in ("excavator", "roller"):
        if kind in items:
            paint = pick(rng, _MACHINES)
            plan.add(
                kind,
                zone.middle + zone.side * 0.6,
                s,
                colour=paint,
                turn=-zone.side if rng.random() < 0.7 else zone.side,
                size=float(rng.uniform(0.9, 1.15)),
            )
            s += 8.0
    if "lorry" in items:
        plan.add(
            "works lorry",
            zone.middle,
            s + 1.0,
            colour=pick(rng, (*_MACHINES, (228, 228, 224))),
            turn=1 if zone.side > 0 else -1,
        )


def _signs(plan: Plan, zone: _Zone) -> None:
    rng = plan.rng
    kind = str(rng.choice(("works triangle", "works diamond")))
    for side in (zone.side, -zone.side)[: 1 if rng.random() < 0.3 else 2]:
        u = side * (plan.street.right + float(rng.uniform(0.3, 1.0)))
        plan.add(kind, u, float(rng.uniform(6, 13)), size=float(rng.uniform(1.0, 1.4)))
    if rng.random() < 0.35:
        plan.add(
            "detour sign",
            zone.inside(rng),
            zone.s + float(rng.uniform(0.5, 4)),
            turn=-zone.side,
            size=float(rng.uniform(0.9, 1.2)),
        )


def _other_side(plan: Plan, zone: _Zone, items: set[str]) -> None:
    """Works rarely keep to one kerb: markers, netting or spoil across the road."""
    rng = plan.rng
    u = -zone.side * plan.street.right + zone.side * float(rng.uniform(0.0, 0.8))
    start, end = float(rng.uniform(5, 9)), float(rng.uniform(18, 36))
    plan.taken.append((u - 1.1, u + 1.1, start - 1, end))
    kind = str(rng.choice(("cone", "drum", "barricade", "mesh fence"), p=(0.4, 0.15, 0.25, 0.2)))
    if kind in ("cone", "drum"):
        items.add("cones")
        colour, size = pick(rng, _ORANGES), float(rng.uniform(0.95, 1.3))
        for s in np.arange(start, end, rng.uniform(1.8, 3.2)):
            plan.add(kind, u + rng.normal(0, 0.1), s, colour=colour, size=size)
    else:
        items.add("fence" if kind == "mesh fence" else "barriers")
        colour = pick(rng, _BOARDS if kind == "barricade" else ((238, 104, 32),))
        for s in np.arange(start, end, 3.4):
            plan.add(kind, u, s, end_u=u, end_s=s + (2.2 if kind == "barricade" else 3.4), colour=colour)
    if rng.random() < 0.4:
        items.add("workers")
        plan.add("worker", u - zone.side * 0.8, float(rng.uniform(start, end)), colour=pick(rng, _VESTS))


def _close_off(plan: Plan, zone: _Zone) -> None:
    """Boards across the closed lane."""
    rng = plan.rng
    s = zone.s + float(rng.uniform(3, 7))
    low, high = sorted((zone.edge, zone.kerb))
    colour = pick(rng, _BOARDS)
    for u in np.arange(low, high - 0.8, 2.1):
        plan.add(
            "barricade", u, s, end_u=min(u + 1.9, high), end_s=s, colour=colour, variant=float(rng.uniform(0.4, 1))
        )


def _along(line: list[tuple[float, float]], step: float) -> list[tuple[float, float]]:
    points = np.array(line)
    length = np.concatenate(([0.0], np.hypot(*np.diff(points, axis=0).T).cumsum()))
    at = np.arange(0.0, length[-1], step)
    u, s = np.interp(at, length, points[:, 0]), np.interp(at, length, points[:, 1])
    return [(float(a), float(b)) for a, b in zip(u, s, strict=True)]


def _pairs(line: list[tuple[float, float]], step: float) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    points = _along(line, step)
    return list(pairwise(points))


def _sentence(plan: Plan, items: set[str], side: int) -> str:
    named = [_WORDS[item] for item in ITEMS if item in items]
    listed = f"{', '.join(named[:-1])} and {named[-1]}" if len(named) > 1 else named[0]
    where = "right" if side > 0 else "left"
    place = {"city": "city street", "suburb": "suburban road", "rural": "country road", "highway": "motorway"}[
        plan.street.kind
    ]
    return (
        f"Roadwork on the {where} of a {place} with {listed}, {plan.look.weather} weather at {plan.look.time}".replace(
            "at day", "by day"
        )
        + "."
    )
