"""Challenges whose pictures are short texts, and miners that answer them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from streetvision.challenge_set import Challenge, ChallengeSet
from streetvision.simulation import Miner
from tests.unit.simulation.served import Answer, Served, serve


@pytest.fixture
def challenges(tmp_path: Path) -> ChallengeSet:
    rows: list[Challenge] = []
    for index in range(24):
        name = f"{index}-{index % 2}.jpg"
        (tmp_path / name).write_bytes(name.encode())
        rows.append(
            Challenge(
                challenge_id=f"set/{index}",
                file=name,
                image=name,
                label=index % 2,
                source=("real", "t2i", "i2i")[index % 3],
                level=index % 4,
                group=str(index),
                image_sha256="",
            )
        )
    return ChallengeSet(tmp_path, "v1", "R1", 0, "data", tuple(rows))


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    """Starts miners, and tells what they were asked."""
    with ExitStack() as stack:

        def start(answer: Answer, *, uid: int = 1) -> Served:
            return serve(stack, answer, uid=uid)

        yield start


@pytest.fixture
def start(served: Callable[..., Served]) -> Callable[..., Miner]:
    """Starts miners of which only the address matters."""
    return lambda answer, *, uid=1: served(answer, uid=uid).miner
