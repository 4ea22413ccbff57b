"""Recorded answers of one miner, replayed as a validator would have rewarded them."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from streetvision import json_input
from streetvision.errors import DataError
from streetvision.subnet.regimes import HISTORY, NO_ANSWER, REWARD_EXPONENT
from streetvision.subnet.reward import Step, Tracker, answered_class

BURN_IN = HISTORY  # answers until the history is full
LINE_MAX_BYTES = 65_536

_KEYS = ("prediction", "label", "hotkey")
_HINT = 'a line is {"prediction": 0.93, "label": 1, "hotkey": "5F..."}'


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded answer.

    Attributes:
        prediction: P(roadwork); -1 is no answer.
        label: 0 or 1.
        hotkey: who answered.
    """

    prediction: float
    label: int
    hotkey: str


def read_events(file: BinaryIO, name: str) -> Iterator[Event]:
    """The events of JSON lines, each as soon as its line is there; blank lines count as lines, but are no events.

    Args:
        file: bytes of UTF-8 text, such as standard input.
        name: of the file, for messages.

    Raises:
        DataError: a line that is no event, or no event at all.
    """
    number = 0
    empty = True
    while line := file.readline(LINE_MAX_BYTES + 1):
        number += 1
        if line.isspace():
            continue
        empty = False
        yield _parse(line, f"`{name}`, line {number}")
    if empty:
        raise DataError(f"`{name}` has no events", hint=_HINT)


def _parse(line: bytes, place: str) -> Event:
    if len(line) > LINE_MAX_BYTES:
        raise DataError(f"{place}: more than {LINE_MAX_BYTES:,} bytes", hint=_HINT)
    value = json_input.parse(line, place, hint=_HINT)
    if not isinstance(value, dict):
        raise DataError(f"{place}: got {json_input.shorten(value)}, expected an object", hint=_HINT)
    event = cast("dict[str, Any]", value)
    for key in _KEYS:
        if key not in event:
            raise DataError(f"{place}: `{key}` is missing", hint=_HINT)
    prediction, label, hotkey = json_input.number(event["prediction"]), event["label"], event["hotkey"]
    if prediction is None:
        said = json_input.shorten(event["prediction"])
        raise DataError(f"{place}: prediction is {said}, expected a number", hint=_HINT)
    if not isinstance(label, float) or label not in (0.0, 1.0):
        raise DataError(f"{place}: label is {json_input.shorten(label)}, expected 0 or 1", hint=_HINT)
    if not isinstance(hotkey, str):
        raise DataError(f"{place}: hotkey is {json_input.shorten(hotkey)}, expected text", hint=_HINT)
    return Event(prediction=prediction, label=int(label), hotkey=hotkey)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a replay came to.

    Attributes:
        events: lines replayed.
        answered: those with a prediction other than -1.
        mean_reward: over all events, in [0, 1].
        mean_reward_after_burn_in: without the first 100 events; None where there are no more.
        score: after the last event, in [0, 1].
        mcc: of the last 100 answers, in [0, 1].
        accuracy: of the last 10 answers, in [0, 1].
        hotkey_changes: how often the history began anew.
        poisonous: answers whose class is neither 0 nor 1.
        poisoned: events with such an answer among the last 100 of their hotkey, itself included.
    """

    events: int
    answered: int
    mean_reward: float
    mean_reward_after_burn_in: float | None
    score: float
    mcc: float
    accuracy: float
    hotkey_changes: int
    poisonous: int
    poisoned: int


class Replay:
    """Replays events one after the other and keeps what a summary and a plot of them need.

    Attributes:
        rewards: of every event so far, in [0, 1].
        scores: after every event so far, in [0, 1].
        poisoned: 1 for every event so far that has a poisonous answer in its history, else 0.
        changes: events so far, from 0, whose hotkey was another than the one before.
    """

    def __init__(self, *, exponent: int = REWARD_EXPONENT) -> None:
        self.rewards, self.scores = array("d"), array("d")
        self.poisoned = array("b")
        self.changes: list[int] = []
        self._tracker = Tracker(exponent=exponent)
        self._hotkey: str | None = None
        self._answered = self._poisonous = 0
        self._spoilt_for = 0  # events until the newest poisonous answer is forgotten
        self._last: Step | None = None

    def add(self, event: Event) -> Step:
        """What the next event earned."""
        if event.hotkey != self._hotkey:
            if self._hotkey is not None:
                self.changes.append(len(self.rewards))
            self._hotkey = event.hotkey
            self._spoilt_for = 0
        if event.prediction != NO_ANSWER:
            self._answered += 1
            if answered_class(event.prediction) not in (0, 1):
                self._poisonous += 1
                self._spoilt_for = HISTORY
        step = self._last = self._tracker.update(event.prediction, event.label, event.hotkey)
        self.rewards.append(step.reward)
        self.scores.append(step.score)
        self.poisoned.append(self._spoilt_for > 0)
        self._spoilt_for = max(0, self._spoilt_for - 1)
        return step

    def summary(self) -> Summary:
        """The figures so far.

        Raises:
            DataError: nothing was replayed yet.
        """
        if self._last is None:
            raise DataError("nothing was replayed, expected at least one event")
        earned = np.frombuffer(self.rewards)
        return Summary(
            events=len(earned),
            answered=self._answered,
            mean_reward=float(earned.mean()),
            mean_reward_after_burn_in=float(earned[BURN_IN:].mean()) if len(earned) > BURN_IN else None,
            score=self._last.score,
            mcc=self._last.mcc,
            accuracy=self._last.accuracy,
            hotkey_changes=len(self.changes),
            poisonous=self._poisonous,
            poisoned=sum(self.poisoned),
        )
