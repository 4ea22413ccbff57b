"""The map from the model's calibrated probability to the one that is served."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EngineError, ModelDirectoryError

_HALF = np.float32(0.5)
_JUST_ABOVE = np.nextafter(_HALF, np.float32(1))
_JUST_BELOW = np.nextafter(_HALF, np.float32(0))


@dataclass(frozen=True, slots=True)
class ThresholdMap:
    """Piecewise linear and monotone: 0 to 0, `threshold` to 0.5, 1 to 1.

    Validators cut at 0.5 and count exactly 0.5 as no roadwork, so the model's own best cut is moved there and 0.5
    itself is never answered: a probability of `threshold` or more comes out above it.

    Source: natixnetwork/streetvision-subnet natix/validator/reward.py @ 28a1755
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise ModelDirectoryError(
                f"threshold is {self.threshold}, expected a number between 0 and 1, both excluded"
            )

    def __call__(self, calibrated: NDArray[np.float32]) -> NDArray[np.float32]:
        """Served probability, float32[N] in [0, 1] and never 0.5.

        Args:
            calibrated: float32[N], the model's probability of roadwork; values beyond [0, 1] are clamped.

        Raises:
            EngineError: a value is NaN.
        """
        if np.isnan(calibrated).any():
            raise EngineError(f"{int(np.isnan(calibrated).sum())} of {calibrated.size} probabilities are NaN")
        p = np.clip(calibrated.astype(np.float64), 0.0, 1.0)
        t = self.threshold
        below = p < t
        part = np.where(below, p, p - t) / np.where(below, t, 1.0 - t)  # of the way from one knee to the next
        served = np.where(below, 0.5 * part, 0.5 + 0.5 * part).astype(np.float32)
        return np.where(below, np.minimum(served, _JUST_BELOW), np.maximum(served, _JUST_ABOVE))
