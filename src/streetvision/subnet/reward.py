"""What the subnet pays: the reward of an answer, the score that rewards add up to, the weights that scores become.

`Tracker` follows one miner answer by answer; `rewards` and `mean_rewards` give the same numbers, bit for bit, for
whole arrays of answers.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streetvision.errors import EvidenceError, InputError
from streetvision.subnet.regimes import (
    ACCURACY_WEIGHT,
    ACCURACY_WINDOW,
    HISTORY,
    MCC_WEIGHT,
    MCC_WINDOW,
    NO_ANSWER,
    SCORE_ALPHA,
    STAKE_LIMIT_TAO,
)

_CHUNK = 1 << 16  # answers replayed at once: their intermediate arrays stay in the processor's cache
_U16_MAX = 65535
_CAP_EPSILON = 1e-7  # bittensor's guard in the cut-off of a capped weight

# One byte of a uint64 per outcome counts it in a window of up to 255 answers.
_TP, _TN, _FP, _FN, _ODD, _FATAL = (1 << shift for shift in range(0, 48, 8))


@dataclass(frozen=True, slots=True)
class Step:
    """What one answer earned.

    Attributes:
        reward: in [0, 1].
        mcc: of the last 100 answers, in [0, 1].
        accuracy: of the last 10 answers, in [0, 1].
        penalty: factor, 0 for an answer outside [0, 1] and else 1.
        score: moving average of the rewards so far, this one included.
    """

    reward: float
    mcc: float
    accuracy: float
    penalty: float
    score: float


class Tracker:
    """One validator's memory of one miner, in regimes R1 to R3.

    Source: natixnetwork/streetvision-subnet natix/validator/miner_performance_tracker.py and reward.py @ 28a1755
    """

    def __init__(self, score: float = 0.0) -> None:
        self.score = score
        self._hotkey: str | None = None
        self._answers: deque[tuple[float, int]] = deque(maxlen=HISTORY)

    def update(self, prediction: float, label: int, hotkey: str) -> Step:
        """The reward of one more answer.

        Args:
            prediction: P(roadwork); -1 is no answer, and anything outside [0, 1] costs dearly.
            label: 0 or 1.
            hotkey: who answered; another one than before starts with an empty history, but with the score so far.
        """
        if hotkey != self._hotkey:
            self._answers.clear()
            self._hotkey = hotkey
        self._answers.append((prediction, label))
        _, mcc = _metrics(islice(self._answers, max(0, len(self._answers) - MCC_WINDOW), None))
        accuracy, _ = _metrics(islice(self._answers, max(0, len(self._answers) - ACCURACY_WINDOW), None))
        factor = penalty(prediction)
        raw = (MCC_WEIGHT * mcc + ACCURACY_WEIGHT * accuracy) * factor
        reward = raw * raw * raw
        self.score = SCORE_ALPHA * reward + (1 - SCORE_ALPHA) * self.score
        return Step(reward=reward, mcc=mcc, accuracy=accuracy, penalty=factor, score=self.score)


def penalty(prediction: float) -> float:
    """Factor of an answer's reward: 0 outside [0, 1], else 1, also for NaN."""
    return 0.0 if prediction < 0 or prediction > 1 else 1.0


def _metrics(window: Iterable[tuple[float, int]]) -> tuple[float, float]:
    """Accuracy and MCC (never negative) of a window; both 0 where upstream's scikit-learn calls would raise."""
    answers = [(prediction, label) for prediction, label in window if prediction != NO_ANSWER]
    if not answers or not all(math.isfinite(prediction) for prediction, _ in answers):
        return 0.0, 0.0
    pairs = [(round(prediction), label) for prediction, label in answers]  # to even: 0.5 is class 0
    labels, classes = {label for _, label in pairs}, {answer for answer, _ in pairs}
    seen = labels | classes
    if len(seen) > 2 or (len(seen) == 2 and 1 not in seen):
        return 0.0, 0.0
    accuracy = sum(answer == label for answer, label in pairs) / len(pairs)
    if len(labels) < 2 or len(classes) < 2:
        return accuracy, 0.0
    tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))
    return accuracy, max(0.0, (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def rewards(predictions: NDArray[np.float64], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Reward of every answer of one or many miners, float64[..., N] in [0, 1], as one `Tracker` for each gives it.

    Args:
        predictions: float64[..., N], oldest first; -1 is no answer.
        labels: uint8[..., N] or uint8[N], 0 or 1.

    Raises:
        InputError: the two shapes do not fit.
    """
    values = np.asarray(predictions, dtype=np.float64)
    try:
        truth = np.broadcast_to(labels, values.shape)
    except ValueError as err:
        raise InputError(
            f"labels have the shape {np.shape(labels)}, expected that of the predictions {values.shape}"
        ) from err
    return _replay(_outcomes(values, truth), ~((values < 0) | (values > 1)), np.rint(values))


def mean_rewards(
    predictions: NDArray[np.float64],
    labels: NDArray[np.uint8],
    orders: NDArray[np.integer],
    *,
    burn_in: int = 100,
) -> NDArray[np.float64]:
    """Mean reward after the first `burn_in` answers of each sequence, float64[R] in [0, 1].

    Args:
        predictions: float64[N]; -1 is no answer.
        labels: uint8[N], 0 or 1.
        orders: int[R, M] in [0, N): the answers that each of R sequences consists of, oldest first.
        burn_in: answers left out at the beginning, while the history fills.

    Raises:
        EvidenceError: a sequence is no longer than the burn-in.
    """
    length = orders.shape[-1]
    if length <= burn_in:
        raise EvidenceError(f"a sequence has {length} challenges, expected more than the burn-in of {burn_in}")
    values = np.asarray(predictions, dtype=np.float64)
    outcomes, classes = _outcomes(values, labels), np.rint(values)
    in_range = ~((values < 0) | (values > 1))
    means = np.empty(len(orders))
    rows = max(1, _CHUNK // length)
    for start in range(0, len(orders), rows):
        order = orders[start : start + rows]
        replayed = _replay(outcomes[order], in_range[order], classes[order])
        means[start : start + rows] = replayed[:, burn_in:].mean(axis=-1)
    return means


def _outcomes(values: NDArray[np.float64], labels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Each answer as a 1 in the byte of its outcome; no answer is 0.

    An odd class (neither 0 nor 1) spoils every window with a 0 in it, as class or label; one on label 0, or a class
    that is not finite, therefore always does.
    """
    classes = np.rint(values)
    kind = np.select([values == NO_ANSWER, classes == 0, classes == 1, np.isfinite(classes)], [0, 1, 2, 3], default=4)
    lanes = np.array([[0, 0], [_TN, _FN], [_FP, _TP], [_FATAL, _ODD], [_FATAL, _FATAL]], dtype=np.uint64)
    return lanes[kind, np.asarray(labels, dtype=np.intp)]


def _replay(
    outcomes: NDArray[np.uint64], in_range: NDArray[np.bool_], classes: NDArray[np.float64]
) -> NDArray[np.float64]:
    totals = np.cumsum(outcomes, axis=-1, dtype=np.uint64)  # may wrap around: differences of two stay right
    recent, remembered = _window(totals, ACCURACY_WINDOW), _window(totals, MCC_WINDOW)
    accuracy, mcc = _accuracy(recent), _mcc(remembered)
    if np.any(outcomes >= _ODD):
        accuracy[_is_spoilt(recent, outcomes, classes, ACCURACY_WINDOW)] = 0.0
        mcc[_is_spoilt(remembered, outcomes, classes, MCC_WINDOW)] = 0.0
    raw = (MCC_WEIGHT * mcc + ACCURACY_WEIGHT * accuracy) * in_range
    return raw * raw * raw


def _window(totals: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    """Count of each outcome in the last `width` answers, uint8[6, ..., N]: TP, TN, FP, FN, odd, fatal."""
    window = totals.copy()
    window[..., width:] -= totals[..., :-width]
    lanes = window.astype("<u8", copy=False)[..., None].view(np.uint8)
    return np.moveaxis(lanes[..., :6], -1, 0)


def _accuracy(counts: NDArray[np.uint8]) -> NDArray[np.float64]:
    right = (counts[0] + counts[1]).astype(np.float64)
    return right / np.maximum(right + counts[2] + counts[3] + counts[4], 1.0)


def _mcc(counts: NDArray[np.uint8]) -> NDArray[np.float64]:
    tp, tn, fp, fn = (lane.astype(np.float64) for lane in counts[:4])
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    root[root == 0] = 1.0  # one class or one label only: the numerator is 0 as well
    mcc = tp * tn
    mcc -= fp * fn
    mcc /= root
    return np.maximum(mcc, 0.0, out=mcc)


def _is_spoilt(
    counts: NDArray[np.uint8], outcomes: NDArray[np.uint64], classes: NDArray[np.float64], width: int
) -> NDArray[np.bool_]:
    """Whether a window holds a class that makes every metric 0: more than two values, or two without a 1."""
    zeros = counts[1] + counts[2] + counts[3] > 0
    index: NDArray[np.intp] = np.arange(outcomes.shape[-1], dtype=np.intp)
    odd = outcomes == _ODD
    newest = np.maximum.accumulate(np.where(odd, index, -1), axis=-1)
    previous = np.concatenate([np.full_like(newest[..., :1], -1), newest[..., :-1]], axis=-1)
    differs = odd & (previous >= 0) & (classes != np.take_along_axis(classes, np.maximum(previous, 0), axis=-1))
    mixed = np.maximum.accumulate(np.where(differs, previous, -1), axis=-1)  # where an odd class began to differ
    return (counts[5] > 0) | ((counts[4] > 0) & (zeros | ((mixed >= 0) & (mixed > index - width))))


def update_scores(
    scores: NDArray[np.floating],
    uids: Sequence[int],
    rewards: ArrayLike,
    *,
    permit: NDArray[np.bool_] | None = None,
    stake_tao: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Scores of all miners after one challenge, of the dtype of `scores` (float32 on the network until it grew).

    Who was not asked keeps the score, except validators of large stake, who lose 5 % of it.

    Args:
        scores: float32[U] or float64[U], by UID.
        uids: who was asked; of a UID that stands there twice the last reward counts.
        rewards: one in [0, 1] for each of `uids`; NaN is 0.
        permit: bool[U], validator permits; None for none.
        stake_tao: float[U]; None for none.

    Raises:
        InputError: as many rewards as UIDs are needed, and UIDs below U.

    Source: natixnetwork/streetvision-subnet natix/base/validator.py @ 28a1755
    """
    earned = np.nan_to_num(np.asarray(rewards, dtype=scores.dtype), nan=0.0)
    if earned.shape != (len(uids),):
        raise InputError(f"{earned.size} rewards for {len(uids)} UIDs, expected one for each")
    if len(uids) == 0:
        return scores.copy()
    if min(uids) < 0 or max(uids) >= len(scores):
        raise InputError(f"UIDs are {min(uids)} to {max(uids)}, expected 0 to {len(scores) - 1}")
    newest = scores.copy()
    if permit is not None and stake_tao is not None:
        newest[permit & (stake_tao > STAKE_LIMIT_TAO)] = 0.0
    newest[list(uids)] = earned
    return SCORE_ALPHA * newest + (1 - SCORE_ALPHA) * scores


def weights(scores: ArrayLike, *, min_allowed: int, max_limit: float) -> tuple[list[int], list[int]]:
    """UIDs and their weights in 1 to 65535, as a validator sends them to the chain.

    Args:
        scores: float[U], by UID; computed in float32.
        min_allowed: fewest weights that the chain accepts; with fewer positive scores all weight goes to UID 0.
        max_limit: largest share of one weight that the chain accepts, in (0, 1].

    Source: natixnetwork/streetvision-subnet natix/base/validator.py, natix/base/utils/weight_utils.py @ 28a1755
    """
    raw = np.asarray(scores, dtype=np.float32)
    norm = np.abs(raw).sum()
    if norm > 0:  # neither 0 nor NaN
        raw = raw / norm
    uids = np.flatnonzero(raw > 0)
    if len(uids) == 0 or len(uids) < min_allowed:
        return [0], [_U16_MAX]
    shares = _cap(raw[uids], max_limit)
    top = float(shares.max())
    scaled = [round(float(share) / top * _U16_MAX) for share in shares]
    kept = [(int(uid), value) for uid, value in zip(uids, scaled, strict=True) if value > 0]
    return [uid for uid, _ in kept], [value for _, value in kept]


def _cap(shares: NDArray[np.float32], limit: float) -> NDArray[np.float32]:
    """Shares that sum to 1, the largest cut so that none is above `limit`."""
    count = len(shares)
    if count * limit <= 1:
        return np.full_like(shares, 1 / count)
    ascending = np.sort(shares)
    total = ascending.sum()
    ascending = ascending / total
    if ascending[-1] > limit:
        below = np.cumsum(ascending)
        above = np.arange(count - 1, -1, -1, dtype=np.float32)
        kept = np.count_nonzero(ascending / (above * ascending + below + _CAP_EPSILON) < limit)  # the others are cut
        cutoff = (limit * below[kept - 1] - _CAP_EPSILON) / np.float64(1 - limit * (count - kept))
        shares = np.where(shares > cutoff * total, cutoff * total, shares).astype(np.float32)
    return shares / shares.sum()
