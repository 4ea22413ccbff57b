"""The statistics that evaluation and gate share."""

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054


def sequences(
    rng: np.random.Generator, resamples: int, *, n: int, group: NDArray[np.str_] | None = None
) -> NDArray[np.int32]:
    """int32[R, N] rows of resampled challenge sequences, each in an order of its own.

    Rows are drawn with replacement; where `group` (str[N]) is given whole groups are, since views of one picture err
    together. A sequence of groups is cut, or repeated, to N rows.
    """
    if group is None:
        return rng.integers(0, n, size=(resamples, n), dtype=np.int32)
    by_group = np.argsort(group, kind="stable").astype(np.int32)
    sizes = np.unique(group, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    orders = np.empty((resamples, n), dtype=np.int32)
    for order in orders:
        drawn = rng.integers(0, len(sizes), size=len(sizes))
        counts = sizes[drawn]
        first = np.repeat(starts[drawn] - (np.cumsum(counts) - counts), counts)
        order[:] = np.resize(rng.permutation(by_group[first + np.arange(counts.sum())]), n)
    return orders


def percentile_ends(draws: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % percentile interval of bootstrap draws, float64[...] each, of draws float64[..., R].

    By Weibull's rule, so that one draw more would fall outside in 5 of 100 cases, however few draws there are; numpy's
    own rule makes the interval too narrow for some hundreds of them.
    """
    low, high = np.quantile(draws, (0.025, 0.975), axis=-1, method="weibull")
    return low, high


def confusion(predicted: NDArray[np.uint8], label: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """True negatives, false positives, false negatives and true positives of two uint8[N] of classes."""
    tn, fp, fn, tp = np.bincount(2 * label.astype(np.int64) + predicted, minlength=4).tolist()
    return tn, fp, fn, tp


def mcc(predicted: NDArray[np.uint8], label: NDArray[np.uint8]) -> float:
    """Matthews correlation of two uint8[N] of classes in [-1, 1]; 0 where either shows one class only."""
    tn, fp, fn, tp = confusion(predicted, label)
    root = float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    return (tp * tn - fp * fn) / root if root else 0.0


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Ends of the 95 % Wilson score interval of a share, for n of at least 1."""
    z2, share = Z_95**2, successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)
