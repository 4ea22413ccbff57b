"""What a miner would see of its model: score and mean reward of a run of challenges, before it was run."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EvidenceError
from streetvision.evidence import Interval, Predictions, Value
from streetvision.subnet.regimes import SCORE_ALPHA
from streetvision.subnet.reward import rewards

_CHUNK = 1 << 16  # answers replayed at once: their intermediate arrays stay in the processor's cache
_POINTS = 60
_DIGITS = 5  # validators keep scores as float32
_ENDS = (0.025, 0.975)


class PathPoint(Value):
    """The score after `n` challenges: its median over runs, and where 95 of 100 runs stand."""

    n: int
    low: float
    median: float
    high: float


class Outcome(Value):
    """What a run comes to: expected value and 95 % prediction interval, ends included.

    `mean_reward` is over every challenge of the run, the first ones with their short history too; `score` is the
    validator's moving average at the end.
    """

    mean_reward: Interval
    score: Interval


class Forecast(Outcome):
    """What a run of `challenges` comes to for a miner that starts from score 0 and an empty history.

    The outcome itself, and `path`, are of runs that draw from the very pictures that were answered, as a validator
    with this challenge set as its cache does: all that is left to chance is the draw. `new_pictures` is of runs over
    pictures of the same kind that nobody has seen yet; there the model's accuracy is known only as well as this many
    groups of challenges tell it, so the interval is wider, and the more so the longer the run.
    """

    challenges: int
    seed: int
    resamples: int
    path: tuple[PathPoint, ...]
    new_pictures: Outcome

    @property
    def headline(self) -> dict[str, float]:
        """The figures that trackers and pipelines show, by name."""
        return {
            "run_score": self.score.mean,
            "run_score_low": self.score.low,
            "run_score_high": self.score.high,
            "run_reward": self.mean_reward.mean,
            "run_reward_low": self.mean_reward.low,
            "run_reward_high": self.mean_reward.high,
        }


def forecast(predictions: Predictions, *, challenges: int, seed: int = 0, resamples: int = 2000) -> Forecast:
    """What a run of so many challenges comes to, by replaying `resamples` of them.

    Args:
        predictions: answers to one challenge set.
        challenges: in a run.
        seed: of the runs.
        resamples: how many runs the intervals rest on.

    Raises:
        EvidenceError: no challenges to answer, or none were answered.
    """
    n = len(predictions)
    if challenges < 1 or n < 1:
        raise EvidenceError(f"a run of {challenges} challenges out of {n} was asked for, expected at least one of each")
    rng = np.random.default_rng(seed)
    redraw = _redraw_groups(predictions)
    same, path = _replay(predictions, lambda: draw_run(rng, n, challenges), challenges, resamples)
    new, _ = _replay(predictions, lambda: redraw(rng, challenges), challenges, resamples)
    return Forecast(
        **dict(same),
        challenges=challenges,
        seed=seed,
        resamples=resamples,
        path=path,
        new_pictures=new,
    )


def draw_run(rng: np.random.Generator, n: int, count: int) -> NDArray[np.intp]:
    """Which of `n` challenges a run of `count` consists of, intp[count]: each is drawn from all, as from a cache."""
    return rng.integers(0, n, size=count, dtype=np.intp)


def _redraw_groups(predictions: Predictions) -> Callable[[np.random.Generator, int], NDArray[np.intp]]:
    """A draw of a run from groups that are themselves drawn anew: what other pictures might have shown."""
    if predictions.group is None:
        by_group, sizes = np.arange(len(predictions), dtype=np.intp), np.ones(len(predictions), dtype=np.intp)
    else:
        by_group = np.argsort(predictions.group, kind="stable")
        sizes = np.unique(predictions.group, return_counts=True)[1].astype(np.intp)
    starts = np.cumsum(sizes) - sizes

    def draw(rng: np.random.Generator, count: int) -> NDArray[np.intp]:
        group = rng.integers(0, len(sizes), size=len(sizes), dtype=np.intp)
        ends = np.cumsum(sizes[group])
        place = draw_run(rng, int(ends[-1]), count)
        drawn = np.searchsorted(ends, place, side="right")
        return by_group[starts[group[drawn]] + place - (ends[drawn] - sizes[group[drawn]])]

    return draw


def _replay(
    predictions: Predictions, draw: Callable[[], NDArray[np.intp]], challenges: int, resamples: int
) -> tuple[Outcome, tuple[PathPoint, ...]]:
    stops = np.unique(np.linspace(0, challenges, min(challenges, _POINTS) + 1).round().astype(np.intp))
    means = np.empty(resamples)
    scores = np.zeros((resamples, len(stops)))
    rows = max(1, _CHUNK // challenges)
    for start in range(0, resamples, rows):
        chunk = slice(start, min(start + rows, resamples))
        order = np.stack([draw() for _ in range(chunk.start, chunk.stop)])
        earned = rewards(predictions.probability[order], predictions.label[order])
        means[chunk] = earned.mean(axis=1)
        for place, (before, after) in enumerate(pairwise(stops), 1):
            kept = (1 - SCORE_ALPHA) ** np.arange(after - before, -1, -1)
            scores[chunk, place] = kept[0] * scores[chunk, place - 1] + SCORE_ALPHA * earned[:, before:after] @ kept[1:]
    outcome = Outcome(mean_reward=_interval(means), score=_interval(scores[:, -1]))
    low, median, high = np.quantile(scores, (_ENDS[0], 0.5, _ENDS[1]), axis=0).tolist()
    points = zip(stops.tolist(), low, median, high, strict=True)
    return outcome, tuple(PathPoint(n=n, low=bottom, median=middle, high=top) for n, bottom, middle, top in points)


def _interval(values: NDArray[np.float64]) -> Interval:
    """Mean and ends, these rounded outwards: many runs of a near perfect miner end at the very same score."""
    low, high = np.quantile(values, _ENDS)
    scale = 10**_DIGITS
    return Interval(
        mean=float(values.mean()), low=float(np.floor(low * scale) / scale), high=float(np.ceil(high * scale) / scale)
    )
