"""What figures rest on, one model's answers to a challenge set, and what they are, estimates with an interval."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from streetvision.errors import EvidenceError


class Value(BaseModel):
    """A result that can be written as JSON: immutable, finite, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Value):
    """An estimate and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


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
