"""Statistics of two models that answered the same challenges."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streetvision.evaluation import Interval
from streetvision.statistics import Z_95


def mcnemar(worse: int, better: int) -> float:
    """The p-value in (0, 1] of McNemar's exact one-sided test; small means that the challenger is worse.

    Args:
        worse: challenges that the champion alone answers right.
        better: challenges that the challenger alone answers right.

    Returns:
        P(X >= worse) for X heads of `worse + better` fair coins.
    """
    n = worse + better
    term = tail = 1  # C(n, n), and the sum of C(n, k) for k from n down to `worse`
    for k in range(n, worse, -1):
        term = term * k // (n - k + 1)
        tail += term
    return tail / (1 << n)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number by Holm's step-down rule, in the order given."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def mean_difference(difference: NDArray[np.float64], group: NDArray[np.str_] | None) -> Interval:
    """The mean of paired differences with its 95 % interval (normal; clustered where challenges share pictures).

    Args:
        difference: float64[N], challenger minus champion, one a challenge.
        group: str[N] or nothing; members of a group err together, so groups, not rows, are independent.
    """
    mean = float(difference.mean())
    centred = difference - mean
    sums = centred if group is None else np.bincount(np.unique(group, return_inverse=True)[1], weights=centred)
    count = len(sums)
    variance = float(np.sum(sums**2)) * (count / (count - 1) if count > 1 else 1.0)
    half = Z_95 * variance**0.5 / len(difference)
    return Interval(mean=mean, low=mean - half, high=mean + half)
