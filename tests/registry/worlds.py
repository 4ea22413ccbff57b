"""Worlds of two models whose difference is known, and how often the gate promotes there."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from streetvision.evidence import Predictions
from streetvision.registry.decision import Decision, Policy
from streetvision.registry.gate import decide

POLICY = Policy(resamples=500)


@dataclass(frozen=True, kw_only=True)
class World:
    """Champion and challenger as random answers to `n` challenges.

    Every challenge is answered right by both, by the challenger alone, by the champion alone or by neither.

    Attributes:
        n: challenges.
        accuracy: of the champion.
        gain: the challenger's accuracy minus the champion's.
        discordance: share of challenges that one of the two alone answers right.
        balance: share of challenges with roadwork.
        lost_rows: challenges of one further stratum, in which the challenger is not better but worse.
        lost: accuracy that it loses there.
        groups: source pictures that the challenges are views of; None for a picture a challenge.
        together: share of the views of one picture that are answered as the picture is, not on their own.
        sureness: how far the challenger's calibrated probabilities are from one half, 1 for as far as the champion's.
        hard: probabilities are 0 and 1.
    """

    n: int = 4000
    accuracy: float = 0.96
    gain: float = 0.0
    discordance: float = 0.04
    balance: float = 0.5
    lost_rows: int = 0
    lost: float = 0.08
    groups: int | None = None
    together: float = 0.7
    sureness: float = 1.0
    hard: bool = False


def answers(world: World, seed: int) -> tuple[Predictions, Predictions]:
    """Champion's and challenger's answers to one challenge set."""
    rng = np.random.default_rng(seed)
    n, pictures = world.n, world.groups or world.n
    picture = rng.permutation(np.arange(n) % pictures)
    label = (rng.random(pictures) < world.balance).astype(np.uint8)[picture]
    source = rng.choice(["real", "t2i", "i2i"], pictures, p=[0.5, 0.25, 0.25])[picture].astype("U8")
    level = rng.integers(0, 4, n).astype(np.int8)
    in_lost = np.arange(n) < world.lost_rows
    source[in_lost], level[in_lost] = "lost", 0

    draw = rng.random(n)
    if world.groups:
        draw = np.where(rng.random(n) < world.together, rng.random(pictures)[picture], draw)
    gain = np.where(in_lost, -world.lost, world.gain)
    discordance = np.where(in_lost, world.discordance + world.lost, world.discordance)
    only_challenger = draw < (discordance + gain) / 2
    only_champion = ~only_challenger & (draw < discordance)
    neither = (draw >= discordance) & (draw < discordance + 1 - world.accuracy - (discordance + gain) / 2)
    sure = np.ones(n) if world.hard else 0.5 + 0.5 * rng.beta(8, 2, n)

    def predictions(wrong: np.ndarray, sureness: float) -> Predictions:
        probability = np.where((label == 1) == ~wrong, sure, 1 - sure)
        return Predictions(
            challenge_id=np.char.add("set/", np.arange(n).astype(str)),
            label=label,
            probability=probability,
            source=source,
            level=level,
            calibrated=0.5 + sureness * (probability - 0.5),
            group=picture.astype(str) if world.groups else None,
        )

    return predictions(only_challenger | neither, 1.0), predictions(only_champion | neither, world.sureness)


def trial(world: World, seed: int, policy: Policy = POLICY) -> Decision:
    return decide(*answers(world, seed), policy)


def trials(pool: Executor, world: World, count: int, policy: Policy = POLICY) -> Sequence[Decision]:
    """Decisions in so many draws of a world, with the seeds 0, 1, 2 ..."""
    return list(pool.map(trial, repeat(world), range(count), repeat(policy), chunksize=5))
