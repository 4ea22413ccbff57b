"""Statistics of two models that answered the same challenges."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streetvision.evidence import Interval
from streetvision.statistics import Z_95


def mcnemar(change: NDArray[np.integer], group: NDArray[np.str_] | None = None) -> float:
    """The p-value in [0, 1] of McNemar's exact one-sided test; small means that the challenger is worse.

    Were the two models equal, each challenge that they judge differently could as well have gone the other way. Where
    challenges share pictures, pictures could, with all their challenges: the changes of a group are added up, and
    their sum changes its sign as a whole. With one challenge a group both are the same test.

    Args:
        change: int[N], 1 where the challenger alone is right, -1 where the champion alone is, else 0.
        group: str[N] or nothing.

    Returns:
        The chance that the sum of all changes, each with the sign that a fair coin gives it, is as low as it was seen.
    """
    sums = change if group is None else np.bincount(np.unique(group, return_inverse=True)[1], weights=change)
    sizes = np.abs(sums[sums != 0]).astype(np.int64)
    chances = np.ones(1)  # of every count of challenges that went the champion's way
    for size in sizes:
        longer = np.zeros(len(chances) + size)
        longer[: len(chances)] = chances
        longer[size:] += chances
        chances = longer / 2
    worse = int(-np.sum(sums[sums < 0]))
    return min(1.0, float(chances[worse:].sum()))


def mcnemar_two_sided(change: NDArray[np.integer], group: NDArray[np.str_] | None = None) -> float:
    """The p-value in [0, 1] of the same test, small where the two models differ either way."""
    return min(1.0, 2 * min(mcnemar(change, group), mcnemar(-change, group)))


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
