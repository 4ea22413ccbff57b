"""From answers to a verdict on a model: the subnet's reward with its interval, and where the model errs."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from streetvision.errors import EvidenceError
from streetvision.statistics import confusion, mcc, sequences, wilson
from streetvision.subnet.reward import mean_rewards

_ORDERS = 200  # orders of the answers as they are, of which the reward is the mean
_MISTAKES = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """One model's answers to a challenge set, one row a challenge; checked when made.

    Args:
        challenge_id: str[N], unique.
        label: uint8[N], 1 is roadwork.
        probability: float64[N] in [0, 1], the served P(roadwork).
        source: str[N], `real`, `t2i` or `i2i`.
        level: int8[N], the validator's augmentation level.
        calibrated: float64[N] in [0, 1], P(roadwork) before the threshold map.
        group: str[N], challenges of one group share a source picture or scene.
        latency_ms: float64[N], NaN where it was not measured.

    Raises:
        EvidenceError: columns of different lengths, an id twice, a label that is neither 0 nor 1, or a
            probability outside [0, 1].
    """

    challenge_id: NDArray[np.str_]
    label: NDArray[np.uint8]
    probability: NDArray[np.float64]
    source: NDArray[np.str_]
    level: NDArray[np.int8]
    calibrated: NDArray[np.float64] | None = None
    group: NDArray[np.str_] | None = None
    latency_ms: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.challenge_id)

    @property
    def best_calibrated(self) -> NDArray[np.float64]:
        """float64[N]: `calibrated` where it is known, else `probability`."""
        return self.probability if self.calibrated is None else self.calibrated

    @property
    def predicted(self) -> NDArray[np.uint8]:
        """uint8[N], the class the subnet reads: 1 above one half, so exactly 0.5 is class 0."""
        return (self.probability > 0.5).astype(np.uint8)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(_Value):
    """An estimate and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


class Bin(_Value):
    """One bin of the reliability curve: what was said, and how often it was so."""

    low: float
    high: float
    n: int
    probability: float
    frequency: float


class Stratum(_Value):
    """How the model does on one source at one level; `mcc` is 0 where it is undefined."""

    source: str
    level: int
    n: int
    accuracy: Interval
    mcc: float
    brier: float


class Confusion(_Value):
    """Counts of answers by truth."""

    true_negative: int
    false_positive: int
    false_negative: int
    true_positive: int


class Latency(_Value):
    """Percentiles of the time that one challenge alone takes from JPEG to answer."""

    n: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


class Mistake(_Value):
    """A wrong answer and how sure it was."""

    challenge_id: str
    label: int
    probability: float
    source: str
    level: int


class Report(_Value):
    """What one model earns and where it errs on one challenge set.

    `reward` is the mean reward of a challenge after the first `burn_in`, over resampled sequences; `groups` counts what
    was resampled where challenges share pictures, else it is null and single challenges were.
    """

    n: int
    groups: int | None
    seed: int
    resamples: int
    burn_in: int
    reward: Interval
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
        return figures


def evaluate(predictions: Predictions, *, seed: int = 0, resamples: int = 2000, burn_in: int = 100) -> Report:
    """What the model earns and where it errs.

    Args:
        predictions: answers to one challenge set.
        seed: of the resampled sequences.
        resamples: how many sequences the interval of the reward rests on.
        burn_in: challenges at the head of a sequence that do not count, as the subnet's history still fills then.

    Raises:
        EvidenceError: no more challenges than `burn_in`.
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
    low, high = np.quantile(mean_rewards(probability, label, resampled, burn_in=burn_in), (0.025, 0.975))
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


def _check(predictions: Predictions) -> None:
    n = len(predictions.challenge_id)
    for name, column in _columns(predictions):
        if column.shape != (n,):
            raise EvidenceError(f"column `{name}` has shape {column.shape}, expected ({n},) as `challenge_id`")
    for name, column in (("label", predictions.label), ("level", predictions.level)):
        if column.dtype.kind not in "iu":
            raise EvidenceError(f"column `{name}` holds `{column.dtype}`, expected whole numbers")
    _first_outside(
        "label", predictions.label, (predictions.label == 0) | (predictions.label == 1), predictions, "0 or 1"
    )
    for name, column in (("probability", predictions.probability), ("calibrated", predictions.calibrated)):
        if column is not None:
            _first_outside(name, column, (column >= 0) & (column <= 1), predictions, "a number in [0, 1]")
    ids, counts = np.unique(predictions.challenge_id, return_counts=True)
    if len(ids) != n:
        raise EvidenceError(f"challenge `{ids[counts.argmax()]}` has {counts.max()} rows, expected one")


def _columns(predictions: Predictions) -> Iterator[tuple[str, NDArray[np.generic]]]:
    for field in fields(predictions):
        column = getattr(predictions, field.name)
        if column is not None:
            yield field.name, column


def _first_outside(
    name: str, column: NDArray[np.generic], inside: NDArray[np.bool_], predictions: Predictions, expected: str
) -> None:
    if not inside.all():
        row = int(np.argmin(inside))
        raise EvidenceError(
            f"`{name}` of challenge `{predictions.challenge_id[row]}` is {column[row]}, expected {expected}"
        )
