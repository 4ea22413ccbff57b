"""From answers to a verdict on a model: the subnet's reward with its interval, and where the model errs."""

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EvidenceError
from streetvision.evidence import Interval, Predictions, Value
from streetvision.forecast import Forecast, forecast
from streetvision.statistics import confusion, mcc, percentile_ends, sequences, wilson
from streetvision.subnet.reward import mean_rewards

RUN = 500  # challenges: nine days or so of one validator

_ORDERS = 200  # orders of the answers as they are, of which the reward is the mean
_MISTAKES = 12


class Bin(Value):
    """One bin of the reliability curve: what was said, and how often it was so."""

    low: float
    high: float
    n: int
    probability: float
    frequency: float


class Stratum(Value):
    """How the model does on one source at one level; `mcc` is 0 where it is undefined."""

    source: str
    level: int
    n: int
    accuracy: Interval
    mcc: float
    brier: float


class Confusion(Value):
    """Counts of answers by truth."""

    true_negative: int
    false_positive: int
    false_negative: int
    true_positive: int


class Latency(Value):
    """Percentiles of the time that one challenge alone takes from JPEG to answer."""

    n: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


class Mistake(Value):
    """A wrong answer and how sure it was."""

    challenge_id: str
    label: int
    probability: float
    source: str
    level: int


class Report(Value):
    """What one model earns and where it errs on one challenge set.

    `reward` is the mean reward of a challenge after the first `burn_in`, over resampled sequences; `groups` counts what
    was resampled where challenges share pictures, else it is null and single challenges were. `forecast` is of a run
    from score 0.
    """

    n: int
    groups: int | None
    seed: int
    resamples: int
    burn_in: int
    reward: Interval
    forecast: Forecast
    mcc: float
    accuracy: float
    brier: float
    ece: float
    confusion: Confusion
    reliability: tuple[Bin, ...]
    strata: tuple[Stratum, ...]
    latency: Latency | None
    mistakes: tuple[Mistake, ...]

    @property
    def headline(self) -> dict[str, float]:
        """The figures that trackers and pipelines show, by name."""
        figures = {
            "reward": self.reward.mean,
            "reward_low": self.reward.low,
            "reward_high": self.reward.high,
            "accuracy": self.accuracy,
            "mcc": self.mcc,
            "brier": self.brier,
            "ece": self.ece,
        }
        if self.latency:
            figures |= {"latency_p50_ms": self.latency.p50_ms, "latency_p99_ms": self.latency.p99_ms}
        return figures | self.forecast.headline


def evaluate(
    predictions: Predictions, *, seed: int = 0, resamples: int = 2000, burn_in: int = 100, run: int = RUN
) -> Report:
    """What the model earns and where it errs.

    Args:
        predictions: answers to one challenge set.
        seed: of the resampled sequences.
        resamples: how many sequences the interval of the reward rests on.
        burn_in: challenges at the head of a sequence that do not count, as the subnet's history still fills then.
        run: challenges of the run that is forecast.

    Raises:
        EvidenceError: no more challenges than `burn_in`, or a run of none.
    """
    n = len(predictions)
    if n <= burn_in:
        raise EvidenceError(
            f"{n} challenges were answered, expected more than the first {burn_in} that do not count",
            hint="freeze a larger challenge set",
        )
    predicted, calibrated = predictions.predicted, predictions.best_calibrated
    bins = reliability(calibrated, predictions.label)
    tn, fp, fn, tp = confusion(predicted, predictions.label)
    return Report(
        n=n,
        groups=None if predictions.group is None else len(np.unique(predictions.group)),
        seed=seed,
        resamples=resamples,
        burn_in=burn_in,
        reward=_reward(predictions, seed=seed, resamples=resamples, burn_in=burn_in),
        forecast=forecast(predictions, challenges=run, seed=seed, resamples=resamples),
        mcc=mcc(predicted, predictions.label),
        accuracy=float(np.mean(predicted == predictions.label)),
        brier=_brier(calibrated, predictions.label),
        ece=sum(one.n * abs(one.probability - one.frequency) for one in bins) / n,
        confusion=Confusion(true_negative=tn, false_positive=fp, false_negative=fn, true_positive=tp),
        reliability=bins,
        strata=_strata(predictions),
        latency=_latency(predictions.latency_ms),
        mistakes=_mistakes(predictions),
    )


def reliability(probability: NDArray[np.float64], label: NDArray[np.uint8], *, bins: int = 10) -> tuple[Bin, ...]:
    """The non-empty of `bins` equal-width bins of float64[N] probabilities, lowest first."""
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    return tuple(
        Bin(
            low=b / bins,
            high=(b + 1) / bins,
            n=int(inside.sum()),
            probability=float(probability[inside].mean()),
            frequency=float(label[inside].mean()),
        )
        for b in range(bins)
        if (inside := index == b).any()
    )


def _reward(predictions: Predictions, *, seed: int, resamples: int, burn_in: int) -> Interval:
    rng = np.random.default_rng(seed)
    n, probability, label = len(predictions), predictions.probability, predictions.label
    as_answered = rng.permuted(np.tile(np.arange(n, dtype=np.int32), (_ORDERS, 1)), axis=1)
    resampled = sequences(rng, resamples, n=n, group=predictions.group)
    low, high = percentile_ends(mean_rewards(probability, label, resampled, burn_in=burn_in))
    mean = float(mean_rewards(probability, label, as_answered, burn_in=burn_in).mean())
    return Interval(mean=mean, low=float(low), high=float(high))


def _brier(probability: NDArray[np.float64], label: NDArray[np.uint8]) -> float:
    return float(np.mean((probability - label) ** 2))


def _strata(predictions: Predictions) -> tuple[Stratum, ...]:
    predicted, calibrated, label = predictions.predicted, predictions.best_calibrated, predictions.label
    strata: list[Stratum] = []
    cells = set(zip(predictions.source.tolist(), predictions.level.tolist(), strict=True))
    for source, level in sorted(cells, key=lambda cell: (cell[0] != "real", *cell)):
        inside = (predictions.source == source) & (predictions.level == level)
        n, right = int(inside.sum()), int((predicted[inside] == label[inside]).sum())
        low, high = wilson(right, n)
        strata.append(
            Stratum(
                source=source,
                level=level,
                n=n,
                accuracy=Interval(mean=right / n, low=low, high=high),
                mcc=mcc(predicted[inside], label[inside]),
                brier=_brier(calibrated[inside], label[inside]),
            )
        )
    return tuple(strata)


def _latency(latency_ms: NDArray[np.float64] | None) -> Latency | None:
    measured = latency_ms[np.isfinite(latency_ms)] if latency_ms is not None else np.empty(0)
    if not len(measured):
        return None
    p50, p90, p99 = np.quantile(measured, (0.5, 0.9, 0.99)).tolist()
    return Latency(n=len(measured), p50_ms=p50, p90_ms=p90, p99_ms=p99, max_ms=float(measured.max()))


def _mistakes(predictions: Predictions) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(predictions.predicted != predictions.label)
    surest_first = wrong[np.argsort(-np.abs(predictions.probability[wrong] - 0.5), kind="stable")]
    if predictions.group is not None:  # one a group: the same picture ten times teaches nothing
        surest_first = surest_first[np.sort(np.unique(predictions.group[surest_first], return_index=True)[1])]
    return tuple(
        Mistake(
            challenge_id=str(predictions.challenge_id[row]),
            label=int(predictions.label[row]),
            probability=float(predictions.probability[row]),
            source=str(predictions.source[row]),
            level=int(predictions.level[row]),
        )
        for row in surest_first[:_MISTAKES]
    )
