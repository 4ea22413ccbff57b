"""The network's miners as they were last seen: how their scores were spread, and what accuracy buys beside them."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streetvision.errors import SettingsError
from streetvision.evidence import Interval, Value
from streetvision.subnet.regimes import NO_ANSWER, REWARD_EXPONENT, SCORE_ALPHA
from streetvision.subnet.reward import rewards

# Scores above zero in December 2025, regime R1. Source: a public W&B record quoted in Si-36/Natix_miner, recomputed
P10, MEDIAN, MEAN, P90 = 0.873, 0.949, 0.935, 0.997

_RUNS, _LENGTH, _BURN_IN = 2000, 320, 100  # after 320 challenges a score remembers 1e-7 of its beginning
_GRID_RUNS = 400
_GRID = np.concatenate([np.linspace(0.5, 0.9, 9), np.linspace(0.91, 0.98, 8), np.linspace(0.985, 1.0, 7)])

_SHARES, _SCORES = np.array([0.1, 0.5, 0.9, 1.0]), np.array([P10, MEDIAN, P90, 1.0])
_LOWEST_MEAN = (MEAN - float(np.sum(np.diff(_SHARES) * (_SCORES[1:] + _SCORES[:-1]) / 2))) / _SHARES[0]
_TAIL = P10 / _LOWEST_MEAN - 1


class LongRun(Value):
    """What a miner that errs at random comes to in the long run.

    Attributes:
        accuracy: share of its answers that are right.
        no_answer_rate: share of challenges that it does not answer.
        score: its mean, and where it stands in 95 of 100 moments.
        percentile: share of the network's miners, in percent, whose score was lower; null where other rules hold.
    """

    accuracy: float
    no_answer_rate: float
    score: Interval
    percentile: float | None


def quantile(share: ArrayLike) -> NDArray[np.float64]:
    """Score that so large a share of the network's miners stayed below, float64 in [0, 1].

    Straight lines between the published quantiles; the lowest tenth falls off to 0 by the one power that gives the
    published mean.

    Args:
        share: float[...] in [0, 1].
    """
    shares = np.asarray(share, dtype=np.float64)
    return np.where(shares < _SHARES[0], P10 * (shares / _SHARES[0]) ** _TAIL, np.interp(shares, _SHARES, _SCORES))


def percentile(score: float) -> float:
    """Share of the network's miners, in percent, whose score was below `score`; the inverse of `quantile`."""
    if score < P10:
        return float(100 * _SHARES[0] * (max(score, 0.0) / P10) ** (1 / _TAIL))
    return float(100 * np.interp(score, _SCORES, _SHARES))


def long_run(
    accuracy: float, *, no_answer_rate: float = 0.0, exponent: int = REWARD_EXPONENT, seed: int = 0
) -> LongRun:
    """What a miner comes to that errs at random, by replay of labels that are even.

    Args:
        accuracy: share of answers that are right, in [0, 1].
        no_answer_rate: share of challenges without an answer, in [0, 1].
        exponent: the regime's, of the reward.
        seed: of the replay.

    Raises:
        SettingsError: a share outside [0, 1].
    """
    for name, value in (("accuracy", accuracy), ("no-answer rate", no_answer_rate)):
        if not 0 <= value <= 1:
            raise SettingsError(f"{name} is {value}, expected a share from 0 to 1")
    earned = next(_replays([accuracy], no_answer_rate, runs=_RUNS, seed=seed, exponent=exponent))
    scores = earned @ (SCORE_ALPHA * (1 - SCORE_ALPHA) ** np.arange(_LENGTH - 1, -1, -1))
    low, high = np.quantile(scores, (0.025, 0.975)).tolist()
    mean = float(earned[:, _BURN_IN:].mean())
    return LongRun(
        accuracy=accuracy,
        no_answer_rate=no_answer_rate,
        score=Interval(mean=mean, low=low, high=high),
        percentile=percentile(mean) if exponent == REWARD_EXPONENT else None,
    )


def accuracies(scores: ArrayLike, *, no_answer_rate: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    """Accuracies that come to these long-run scores, float64[...] in [0.5, 1]; 1 where no accuracy is enough.

    Args:
        scores: float[...] in [0, 1].
        no_answer_rate: share of challenges without an answer, in [0, 1].
        seed: of the replay.
    """
    return np.interp(np.asarray(scores, dtype=np.float64), _reached(no_answer_rate, seed), _GRID)


@lru_cache
def _reached(no_answer_rate: float, seed: int) -> NDArray[np.float64]:
    """The long-run score of each accuracy of the grid."""
    replays = _replays(_GRID, no_answer_rate, runs=_GRID_RUNS, seed=seed)
    return np.array([earned[:, _BURN_IN:].mean() for earned in replays])


def _replays(
    levels: ArrayLike, no_answer_rate: float, *, runs: int, seed: int, exponent: int = REWARD_EXPONENT
) -> Iterator[NDArray[np.float64]]:
    """Rewards of each accuracy, float64[runs, length]; the same luck for all of them, so that more is never less."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (runs, _LENGTH), dtype=np.uint8)
    luck, silence = rng.random((runs, _LENGTH)), rng.random((runs, _LENGTH))
    for accuracy in np.asarray(levels, dtype=np.float64):
        answers = np.where(luck < accuracy, labels, 1.0 - labels)
        yield rewards(np.where(silence < no_answer_rate, NO_ANSWER, answers), labels, exponent=exponent)
