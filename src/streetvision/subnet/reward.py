"""What the subnet pays: the reward of an answer, the score that rewards add up to, the weights that scores become.

`Tracker` follows one miner answer by answer; `rewards` and `mean_rewards` give the same numbers, bit for bit, for
whole arrays of answers.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
    REWARD_EXPONENT,
    SCORE_ALPHA,
    STAKE_LIMIT_TAO,
    WEIGHT_MAX,
)

_CHUNK = 1 << 16  # answers replayed at once: their intermediate arrays stay in the processor's cache
_CLASS_LIMIT = 2.0**63  # scikit-learn casts classes to int64, and takes what does not fit for no class at all
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
    """One validator's memory of one miner.

    Args:
        score: what the miner begins with.
        exponent: the regime's power of the raw reward.

    Source: natixnetwork/streetvision-subnet natix/validator/miner_performance_tracker.py and reward.py @ 28a1755
    """

    def __init__(self, score: float = 0.0, *, exponent: int = REWARD_EXPONENT) -> None:
        self.score = score
        self._exponent = exponent
        self._hotkey: str | None = None
        self._answers: deque[tuple[float, int] | None] = deque(maxlen=HISTORY)  # class and label; None is no answer

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
        self._answers.append(None if prediction == NO_ANSWER else (answered_class(prediction), label))
        answers = list(self._answers)
        _, mcc = _metrics(answers[-MCC_WINDOW:])
        accuracy, _ = _metrics(answers[-ACCURACY_WINDOW:])
        factor = penalty(prediction)
        reward = _power((MCC_WEIGHT * mcc + ACCURACY_WEIGHT * accuracy) * factor, self._exponent)
        self.score = SCORE_ALPHA * reward + (1 - SCORE_ALPHA) * self.score
        return Step(reward=reward, mcc=mcc, accuracy=accuracy, penalty=factor, score=self.score)


def answered_class(prediction: float) -> float:
    """The class an answer counts as: 0, 1, another integer, or infinity where it is none at all.

    Ties go to the even class, so that 0.5 is class 0. Any other class than 0 and 1 spoils the metrics of the windows
    it stands in.
    """
    return float(round(prediction)) if -_CLASS_LIMIT <= prediction < _CLASS_LIMIT else math.inf


def penalty(prediction: float) -> float:
    """Factor of an answer's reward: 0 outside [0, 1], else 1, also for NaN."""
    return 0.0 if prediction < 0 or prediction > 1 else 1.0


def _metrics(window: Iterable[tuple[float, int] | None]) -> tuple[float, float]:
    """Accuracy and MCC (never negative) of a window; both 0 where upstream's scikit-learn calls would raise."""
    counts = Counter(answer for answer in window if answer is not None)
    seen = {value for answer in counts for value in answer}
    if not seen or math.inf in seen or len(seen) > 2 or (len(seen) == 2 and 1 not in seen):
        return 0.0, 0.0
    accuracy = sum(count for (answer, label), count in counts.items() if answer == label) / counts.total()
    tp, tn, fp, fn = counts[1, 1], counts[0, 0], counts[1, 0], counts[0, 1]
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))  # 0 where there is one label or one class only
    return accuracy, max(0.0, (tp * tn - fp * fn) / root) if root else 0.0


_Real = TypeVar("_Real", float, NDArray[np.float64])


def _power(raw: _Real, exponent: int) -> _Real:
    """The power by products, which are the same to the last bit for a number and for an array."""
    power = raw
    for _ in range(exponent - 1):
        power = power * raw
    return power


def rewards(
    predictions: NDArray[np.float64], labels: NDArray[np.uint8], *, exponent: int = REWARD_EXPONENT
) -> NDArray[np.float64]:
    """Reward of every answer of one or many miners, float64[..., N] in [0, 1], as one `Tracker` for each gives it.

    A row is one hotkey's: where a hotkey changes, its history ends, and another row begins.

    Args:
        predictions: float64[..., N], oldest first; -1 is no answer.
        labels: uint8[..., N] or uint8[N], 0 or 1.
        exponent: the regime's power of the raw reward.

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
    return _replay(_outcomes(values, truth), ~((values < 0) | (values > 1)), np.rint(values), exponent)


def mean_rewards(
    predictions: NDArray[np.float64],
    labels: NDArray[np.uint8],
    orders: NDArray[np.integer],
    *,
    burn_in: int = 100,
    exponent: int = REWARD_EXPONENT,
) -> NDArray[np.float64]:
    """Mean reward after the first `burn_in` answers of each sequence, float64[R] in [0, 1].

    Args:
        predictions: float64[N]; -1 is no answer.
        labels: uint8[N], 0 or 1.
        orders: int[R, M] in [0, N): the answers that each of R sequences consists of, oldest first.
        burn_in: answers left out at the beginning, while the history fills.
        exponent: the regime's power of the raw reward.

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
        replayed = _replay(outcomes[order], in_range[order], classes[order], exponent)
        means[start : start + rows] = replayed[:, burn_in:].mean(axis=-1)
    return means


def _outcomes(values: NDArray[np.float64], labels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Each answer as a 1 in the byte of its outcome; no answer is 0.

    An odd class (neither 0 nor 1) spoils every window with a 0 in it, as class or label; one on label 0, or what is
    no class at all, therefore always does.
    """
    classes = np.rint(values)
    is_class = (classes >= -_CLASS_LIMIT) & (classes < _CLASS_LIMIT)
    kind = np.select([values == NO_ANSWER, classes == 0, classes == 1, is_class], [0, 1, 2, 3], default=4)
    lanes = np.array([[0, 0], [_TN, _FN], [_FP, _TP], [_FATAL, _ODD], [_FATAL, _FATAL]], dtype=np.uint64)
    return lanes[kind, np.asarray(labels, dtype=np.intp)]


def _replay(
    outcomes: NDArray[np.uint64], in_range: NDArray[np.bool_], classes: NDArray[np.float64], exponent: int
) -> NDArray[np.float64]:
    totals = np.cumsum(outcomes, axis=-1, dtype=np.uint64)  # may wrap around: differences of two stay right
    recent, remembered = _window(totals, ACCURACY_WINDOW), _window(totals, MCC_WINDOW)
    accuracy, mcc = _accuracy(recent), _mcc(remembered)
    if np.any(outcomes >= _ODD):
        accuracy[_is_spoilt(recent, outcomes, classes, ACCURACY_WINDOW)] = 0.0
        mcc[_is_spoilt(remembered, outcomes, classes, MCC_WINDOW)] = 0.0
    return _power((MCC_WEIGHT * mcc + ACCURACY_WEIGHT * accuracy) * in_range, exponent)


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

    Who was not asked keeps the score, except validators of large stake, who lose 5 % of it. Without UIDs or without
    rewards all scores stay.

    Args:
        scores: float32[U] or float64[U], by UID.
        uids: who was asked; of a UID that stands there twice the last reward counts.
        rewards: one in [0, 1] for each of `uids`; NaN is 0.
        permit: bool[U], validator permits; None for none.
        stake_tao: float[U]; None for none.

    Raises:
        InputError: as many rewards as UIDs are needed, UIDs below U, and a permit and a stake for each of U.

    Source: natixnetwork/streetvision-subnet natix/base/validator.py @ 28a1755
    """
    earned = np.asarray(rewards, dtype=np.float64)
    if earned.size == 0 or len(uids) == 0:
        return scores.copy()
    if earned.shape != (len(uids),):
        raise InputError(f"{earned.size} rewards for {len(uids)} UIDs, expected one for each")
    if min(uids) < 0 or max(uids) >= len(scores):
        raise InputError(f"UIDs are {min(uids)} to {max(uids)}, expected 0 to {len(scores) - 1}")
    newest = scores.copy()
    if permit is not None and stake_tao is not None:
        if permit.shape != scores.shape or stake_tao.shape != scores.shape:
            raise InputError(f"{permit.size} permits and {stake_tao.size} stakes, expected {scores.size} of each")
        newest[permit & (stake_tao > STAKE_LIMIT_TAO)] = 0.0
    newest[list(uids)] = np.where(np.isnan(earned), 0.0, earned)
    return SCORE_ALPHA * newest + (1 - SCORE_ALPHA) * scores


def resync_scores(scores: NDArray[np.floating], hotkeys: Sequence[str], current: Sequence[str]) -> NDArray[np.floating]:
    """Scores after a validator has read the metagraph again: 0 where somebody else took the UID or a UID is new.

    Until then a new hotkey goes on with the score of the old one. Once UIDs were added, scores are float64 for good.

    Args:
        scores: float32[U] or float64[U], by UID.
        hotkeys: of the U UIDs when the metagraph was read before.
        current: of all UIDs now; none is ever taken away.

    Raises:
        InputError: hotkeys for other UIDs than those of the scores.

    Source: natixnetwork/streetvision-subnet natix/base/validator.py @ 28a1755
    """
    if len(hotkeys) != len(scores) or len(current) < len(scores):
        raise InputError(
            f"{len(hotkeys)} hotkeys before and {len(current)} now, expected {len(scores)} and at least as many"
        )
    kept = np.array([old == new for old, new in zip(hotkeys, current, strict=False)], dtype=np.bool_)
    resynced = np.zeros(len(current), dtype=np.float64 if len(current) > len(scores) else scores.dtype)
    resynced[: len(scores)] = np.where(kept, scores, 0.0)
    return resynced


def weights(scores: ArrayLike, *, min_allowed: int, max_limit: float) -> tuple[list[int], list[int]]:
    """UIDs and their weights in 1 to 65535, as a validator sends them to the chain.

    Args:
        scores: float32[U], or float64[U] once the metagraph grew, by UID; what is no array becomes float32.
        min_allowed: fewest weights that the chain accepts; with fewer positive scores all weight goes to UID 0.
        max_limit: largest share of one weight that the chain accepts, in [0, 1].

    Raises:
        InputError: scores of which upstream makes no weights either: infinite ones beside NaN.

    Source: natixnetwork/streetvision-subnet natix/base/validator.py, natix/base/utils/weight_utils.py @ 28a1755
    """
    raw = scores if isinstance(scores, np.ndarray) else np.asarray(scores, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # absurd scores go upstream's way as well
        norm = np.abs(raw).sum()
        if norm > 0:  # neither 0 nor NaN
            raw = raw / norm
        raw = raw.astype(np.float32)
        uids = np.flatnonzero(raw > 0)
        if len(uids) == 0 or len(uids) < min_allowed:
            return [0], [WEIGHT_MAX]
        shares = _cap(raw[uids], max_limit)
    top = float(shares.max())
    if math.isnan(top):
        raise InputError("scores are infinite, expected finite ones")
    if top == 0:
        return [], []
    scaled = [round(float(share) / top * WEIGHT_MAX) for share in shares]
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
