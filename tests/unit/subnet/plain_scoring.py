"""Reward, score and weights a second time: slow, straightforward, and with scikit-learn for the metrics."""

import math
import warnings

import numpy as np
from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_score


def metrics(answers):
    """(MCC, accuracy) of (prediction, label) pairs, or zeros where scikit-learn refuses them."""
    given = [(prediction, label) for prediction, label in answers if prediction != -1]
    if not given:
        return 0.0, 0.0
    predictions, labels = (np.array(column) for column in zip(*given, strict=True))
    classes = np.round(predictions.astype(np.float64))
    with warnings.catch_warnings(action="ignore"):
        try:
            accuracy = accuracy_score(labels, classes)
            precision_score(labels, classes)  # refuses what has no class 1 or more than two classes
            mcc = matthews_corrcoef(labels, classes)
        except ValueError:
            return 0.0, 0.0
    if len(set(labels.tolist())) == 1 or len(set(classes.tolist())) == 1:
        return 0.0, float(accuracy)
    return max(0.0, float(mcc)), float(accuracy)


def replay(events, *, exponent=3):
    """(reward, MCC, accuracy, penalty, score) after each (prediction, label, hotkey)."""
    history, owner, score = [], None, 0.0
    for prediction, label, hotkey in events:
        if hotkey != owner:
            history, owner = [], hotkey
        history = [*history, (prediction, label)][-100:]
        mcc, _ = metrics(history)
        _, accuracy = metrics(history[-10:])
        penalty = float(math.isnan(prediction) or 0 <= prediction <= 1)
        reward = 0.0 if prediction == -1 else (penalty * (mcc + accuracy) / 2) ** exponent
        score += 0.05 * (reward - score)
        yield reward, mcc, accuracy, penalty, score


def scores_after(scores, uids, rewards, permit, stake_tao):
    """float32 scores, UID by UID."""
    after = scores.copy()
    for uid, before in enumerate(scores):
        newest = before
        if permit[uid] and stake_tao[uid] > 40096:
            newest = np.float32(0)
        for asked, reward in zip(uids, rewards, strict=True):
            if asked == uid:
                newest = np.float32(0 if math.isnan(reward) else reward)
        after[uid] = np.float32(0.05) * newest + np.float32(0.95) * before
    return after


def weights(scores, *, min_allowed, max_limit):
    """UIDs and u16 weights, in float64."""
    scores = np.array(scores, dtype=np.float64)
    positive = [uid for uid, score in enumerate(scores) if score > 0]
    if len(positive) < max(min_allowed, 1):
        return [0], [65535]
    shares = scores[positive] / scores[positive].sum()
    if len(shares) * max_limit <= 1:
        shares = np.ones(len(shares))
    elif shares.max() > max_limit:
        shares = np.minimum(shares, cut_at(np.sort(shares), max_limit))
    scaled = [round(65535 * share / shares.max()) for share in shares]
    return [uid for uid, weight in zip(positive, scaled, strict=True) if weight], [
        weight for weight in scaled if weight
    ]


def cut_at(ascending, limit):
    """Where shares are cut, so that each cut one is `limit` of what is left, less bittensor's guard of 1e-7."""
    for cut in range(1, len(ascending)):
        kept = ascending[:-cut]
        at = (limit * kept.sum() - 1e-7) / (1 - limit * cut)
        if kept[-1] <= at:
            return at
    raise AssertionError("more than one share in `limit` is above it")
