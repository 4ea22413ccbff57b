"""Hard negatives: what shares colour and shape with roadwork and is none."""

from collections.abc import Callable

import numpy as np

from streetvision.data.procedural.look import Rgb
from streetvision.data.procedural.streets import AWNINGS, LANE_M, Plan, pick

_ORANGES: tuple[Rgb, ...] = ((232, 108, 28), (222, 92, 36), (240, 140, 30), (206, 84, 30))
_HIVIS: tuple[Rgb, ...] = ((206, 236, 40), (250, 120, 24))


def add(plan: Plan, count: int, wanted: frozenset[str] = frozenset()) -> None:
    """Adds that many different kinds of lookalikes, those `wanted` first."""
    order = [str(kind) for kind in plan.rng.permutation(list(KINDS))]
    order.sort(key=lambda kind: kind not in wanted)
    for kind in order[: max(count, len(wanted))]:
        KINDS[kind](plan)


def _side(plan: Plan) -> int:
    return int(plan.rng.choice((-1, 1)))


def _verge(plan: Plan, off: float) -> float:
    return plan.street.right + off


def _orange_cars(plan: Plan) -> None:
    rng, street = plan.rng, plan.street
    for _ in range(int(rng.integers(1, 4))):
        side = _side(plan)
        u = side * (street.right - 1.05) if rng.random() < 0.7 else plan.drive_u
        kind = str(rng.choice(("car", "van"), p=(0.75, 0.25)))
        plan.place(kind, u, float(rng.uniform(6, 26)), 0.95, 5.0, colour=pick(rng, _ORANGES), turn=side)


def _parked_lorry(plan: Plan) -> None:
    rng = plan.rng
    colours: tuple[Rgb, ...] = ((226, 226, 222), (220, 112, 36), (212, 176, 44), (60, 92, 130), (160, 44, 40))
    u = _side(plan) * (plan.street.right - 1.2)
    plan.place(
        "lorry",
        u,
        float(rng.uniform(9, 24)),
        1.25,
        8.0,
        colour=pick(rng, colours),
        turn=1,
        size=float(rng.uniform(0.8, 1.05)),
    )


def _triangles(plan: Plan) -> None:
    rng = plan.rng
    for _ in range(int(rng.integers(1, 3))):
        plan.add(
            "ordinary triangle", _side(plan) * _verge(plan, 0.6), rng.uniform(5, 18), size=float(rng.uniform(1.0, 1.35))
        )


def _diamonds(plan: Plan) -> None:
    rng = plan.rng
    plan.add(
        "ordinary diamond", _side(plan) * _verge(plan, 0.6), rng.uniform(5, 18), size=float(rng.uniform(1.0, 1.35))
    )


def _striped_posts(plan: Plan) -> None:
    rng = plan.rng
    side, step = _side(plan), float(rng.uniform(1.6, 3.2))
    colour = pick(rng, ((205, 34, 36), (215, 60, 36)))
    for s in np.arange(rng.uniform(4, 8), rng.uniform(18, 40), step):
        plan.add("striped post", side * _verge(plan, 0.35), s, colour=colour, size=float(rng.uniform(0.95, 1.05)))


def _cyclists(plan: Plan) -> None:
    rng = plan.rng
    for _ in range(int(rng.integers(1, 4))):
        u = plan.drive_u + rng.uniform(0.8, 2.0) if rng.random() < 0.5 else _side(plan) * (plan.street.right - 0.7)
        plan.add("cyclist", u, rng.uniform(5, 20), colour=pick(rng, _HIVIS), variant=float(rng.uniform(0.4, 1.0)))


def _skips(plan: Plan) -> None:
    rng = plan.rng
    colours: tuple[Rgb, ...] = ((216, 170, 36), (214, 104, 34), (48, 84, 130), (150, 70, 44), (70, 110, 70))
    u = _side(plan) * (plan.street.right - 1.0)
    plan.place(
        "skip", u, float(rng.uniform(6, 20)), 1.0, 3.6, colour=pick(rng, colours), size=float(rng.uniform(0.9, 1.2))
    )


def _leaf_piles(plan: Plan) -> None:
    rng = plan.rng
    for _ in range(int(rng.integers(1, 5))):
        u = _side(plan) * (plan.street.right + rng.uniform(-0.5, 1.2))
        plan.add(
            "spoil",
            u,
            rng.uniform(4, 20),
            colour=pick(rng, ((186, 104, 34), (166, 84, 32), (150, 110, 50))),
            size=float(rng.uniform(0.5, 1.0)),
        )


def _parasols(plan: Plan) -> None:
    rng = plan.rng
    side, colour = _side(plan), pick(rng, AWNINGS[:2])
    for s in np.arange(rng.uniform(6, 10), rng.uniform(14, 24), 2.9):
        plan.add("parasol", side * _verge(plan, 1.6), s, colour=colour)


def _billboard(plan: Plan) -> None:
    rng = plan.rng
    colours: tuple[Rgb, ...] = ((236, 120, 30), (206, 40, 44), (236, 190, 40))
    plan.add(
        "billboard",
        _side(plan) * _verge(plan, 2.6),
        rng.uniform(9, 24),
        colour=pick(rng, colours),
        size=float(rng.uniform(0.8, 1.3)),
    )


def _bins(plan: Plan) -> None:
    rng = plan.rng
    side, colour = _side(plan), pick(rng, (*_ORANGES, (216, 184, 40)))
    for s in np.arange(rng.uniform(5, 9), rng.uniform(11, 24), rng.uniform(0.9, 3)):
        plan.add("bin", side * _verge(plan, 0.7), s, colour=colour)


def _orange_ahead(plan: Plan) -> None:
    """A bus or refuse lorry in orange in the traffic ahead."""
    rng = plan.rng
    u = plan.drive_u if rng.random() < 0.5 else plan.drive_u - LANE_M
    plan.place("lorry", u, float(rng.uniform(9, 22)), 1.25, 8.0, colour=pick(rng, _ORANGES), turn=1)


KINDS: dict[str, Callable[[Plan], None]] = {
    "orange cars": _orange_cars,
    "parked lorry": _parked_lorry,
    "triangles": _triangles,
    "diamonds": _diamonds,
    "striped posts": _striped_posts,
    "cyclists": _cyclists,
    "skip": _skips,
    "leaf piles": _leaf_piles,
    "parasols": _parasols,
    "billboard": _billboard,
    "bins": _bins,
    "lorry ahead": _orange_ahead,
}
