"""Calibration on the validation views: a temperature for honest probabilities, a threshold for the reward."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streetvision.subnet.reward import mean_rewards

TEMPERATURES = (0.25, 8.0)
_PRIOR_SD = 0.5  # of the temperature's logarithm
_GOLDEN = (5**0.5 - 1) / 2
_STEPS = 60
_THRESHOLDS = np.round(np.arange(0.05, 0.951, 0.025), 3)
_SEQUENCES = 64
_BURN_IN = 100
_LENGTHS = (200, 4000)  # of a sequence after the burn-in; between them as many as there are views


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The cut of the calibrated probability, and what it earns in replays of the validation views.

    Attributes:
        value: the calibrated probability from which on the answer is roadwork.
        reward: mean simulated reward at it.
        reward_at_half: mean simulated reward at 0.5.
        best: the threshold with the highest mean, which `value` lies within one standard error of.
    """

    value: float
    reward: float
    reward_at_half: float
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What turns logits into the probability that is served, measured on the views it was chosen on.

    Attributes:
        temperature: what logits are divided by.
        threshold: the cut, and what it earns.
        log_loss_before: weighted log-loss of the raw logits, in nats.
        log_loss: of the calibrated ones.
        accuracy: weighted, at the threshold.
    """

    temperature: float
    threshold: Threshold
    log_loss_before: float
    log_loss: float
    accuracy: float


def calibrate(
    logits: NDArray[np.float64],
    label: NDArray[np.uint8],
    weight: NDArray[np.float64],
    group: NDArray[Any],
    *,
    seed: int,
) -> Calibration:
    """Temperature, then threshold, from the validation views.

    Args:
        logits: of the head, float64[N].
        label: uint8[N], both values present.
        weight: float64[N], as the subnet draws them.
        group: the group of each view's picture, [N].
        seed: of the replayed sequences.
    """
    temperature = fit_temperature(logits, label, weight, group)
    probability = 1 / (1 + np.exp(-logits / temperature))
    threshold = choose_threshold(probability, label, weight, group, seed=seed)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        log_loss_before=log_loss(logits, label, weight),
        log_loss=log_loss(logits / temperature, label, weight),
        accuracy=float(np.average((probability >= threshold.value) == (label == 1), weights=weight)),
    )


def fit_temperature(
    logits: NDArray[np.float64], label: NDArray[np.uint8], weight: NDArray[np.float64], group: NDArray[Any]
) -> float:
    """What to divide float64[N] logits by so that their weighted log-loss is least, in [0.25, 8].

    Every group counts as one piece of evidence against a prior that keeps the logarithm of the temperature near 0:
    training stopped where the log-loss was least, and a head that separates thirty pictures perfectly has not shown
    that it is never wrong.
    """
    groups = len(np.unique(group))

    def cost(logarithm: float) -> float:
        return groups * log_loss(logits / np.exp(logarithm), label, weight) + (logarithm / _PRIOR_SD) ** 2 / 2

    low, high = np.log(TEMPERATURES)
    for _ in range(_STEPS):  # one minimum, so golden section finds it
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if cost(left) < cost(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def log_loss(logits: NDArray[np.float64], label: NDArray[np.uint8], weight: NDArray[np.float64]) -> float:
    """Weighted mean log-loss of float64[N] logits, in nats."""
    return float(np.average(np.logaddexp(0.0, logits) - label * logits, weights=weight))


def choose_threshold(
    probability: NDArray[np.float64],
    label: NDArray[np.uint8],
    weight: NDArray[np.float64],
    group: NDArray[Any],
    *,
    seed: int,
) -> Threshold:
    """The threshold that earns the highest simulated reward, drawn towards 0.5 as far as the evidence is thin.

    The reward is the subnet's own, averaged over sequences of challenges drawn from the validation views: groups are
    drawn with replacement, then views by weight, so that the spread between sequences is the error of the choice. Of
    all thresholds within one standard error of the best, the one nearest to 0.5 is taken: a few hundred pictures
    cannot tell 0.42 from 0.5, and a cut fitted to them would cost more than it brings.

    Args:
        probability: calibrated, float64[N] in [0, 1].
        label: uint8[N].
        weight: float64[N], as the subnet draws them.
        group: the group of each view's picture, [N].
        seed: of the sequences.
    """
    orders = _sequences(weight, group, np.random.default_rng(seed))
    earned = np.stack(
        [
            mean_rewards((probability >= threshold).astype(np.float64), label, orders, burn_in=_BURN_IN)
            for threshold in _THRESHOLDS
        ]
    )
    means = earned.mean(axis=1)
    best = int(means.argmax())
    behind = earned[best] - earned
    as_good = behind.mean(axis=1) <= behind.std(axis=1)
    distance = np.where(as_good, np.abs(_THRESHOLDS - 0.5), np.inf)
    nearest = np.flatnonzero(distance == distance.min())
    chosen = int(nearest[means[nearest].argmax()])
    half = int(np.abs(_THRESHOLDS - 0.5).argmin())
    return Threshold(
        value=float(_THRESHOLDS[chosen]),
        reward=float(means[chosen]),
        reward_at_half=float(means[half]),
        best=float(_THRESHOLDS[best]),
    )


def _sequences(weight: NDArray[np.float64], group: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """int64[R,M] rows, each sequence from its own draw of groups."""
    _, group_of = np.unique(group, return_inverse=True)
    groups = int(group_of.max()) + 1
    length = int(np.clip(len(weight), *_LENGTHS))
    orders = np.empty((_SEQUENCES, _BURN_IN + length), dtype=np.int64)
    for order in orders:
        times = np.bincount(rng.integers(0, groups, groups), minlength=groups)
        share = weight * times[group_of]
        order[:] = rng.choice(len(weight), size=len(order), p=share / share.sum())
    return orders
