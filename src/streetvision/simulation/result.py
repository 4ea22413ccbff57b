"""What a simulation came to: each challenge, each miner, the weights."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_serializer

from streetvision.statistics import mcc
from streetvision.subnet.dendrite import Answer
from streetvision.subnet.protocol import NO_ANSWER

BURN_IN = 100  # challenges until the reward's history is full


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(_Value):
    """One challenge to one miner.

    Attributes:
        prediction: what a validator records: -1 for no answer, and whatever else a miner may say.
        error: why there is no usable reply, empty where there is one.
        latency_ms: from the first byte sent to the reply or the error.
        reward: in [0, 1].
        score: after this step.
    """

    step: int
    uid: int
    challenge_id: str
    label: int
    source: str
    level: int
    prediction: float
    error: str
    latency_ms: float
    reward: float
    score: float

    @field_serializer("prediction", when_used="json")
    def _json_has_no_nan(self, prediction: float) -> float | str:
        return prediction if math.isfinite(prediction) else str(prediction)


class Cell(_Value):
    """The events of one level or source; accuracy is None where nothing was answered."""

    name: str
    asked: int
    answered: int
    accuracy: float | None
    mean_reward: float


class Organic(_Value):
    """What one miner made of the traffic that is not scored; latencies are of the replies."""

    asked: int
    answered: int
    abstained: int
    errors: dict[str, int]
    latency_p50_ms: float | None
    latency_p99_ms: float | None


class MinerResult(_Value):
    """What one miner made of its challenges.

    Attributes:
        url: empty for a simulated miner.
        asked: challenges it was sent.
        answered: replies with a prediction.
        abstained: replies without one.
        errors: how often there was no usable reply, by reason.
        mean_reward: over all that was asked.
        mean_reward_after_burn_in: without the first 100; None where no more were asked.
        score: moving average at the end, from 0.
        percentile: share of the network's miners of December 2025, in percent, whose score was below the mean reward
            after the burn-in, about which the score moves; None where that is None, or under other rules than theirs.
        rank: by score among all miners of the simulation, 1 is the best.
        weight: as sent to the chain, 0 to 65535.
        pay_share: the weight's share of all weights, in [0, 1].
        accuracy: of the predictions; None where there is none.
        mcc: of the predictions; None where there is none.
        latency_p50_ms: of the replies; None where there is none.
        latency_p99_ms: of the replies; None where there is none.
        organic: what was asked beside the challenges; None where the simulation has no such traffic.
    """

    uid: int
    url: str
    hotkey: str
    asked: int
    answered: int
    abstained: int
    errors: dict[str, int]
    mean_reward: float
    mean_reward_after_burn_in: float | None
    score: float
    percentile: float | None
    rank: int
    weight: int
    pay_share: float
    accuracy: float | None
    mcc: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    levels: tuple[Cell, ...]
    sources: tuple[Cell, ...]
    organic: Organic | None


class CompetitorResult(_Value):
    """What a simulated competitor came to; `accuracy` is what it was made with."""

    uid: int
    accuracy: float
    asked: int
    answered: int
    mean_reward: float
    score: float
    weight: int


class SimulationResult(_Value):
    """What the miners made of the challenges of one simulated validator.

    Attributes:
        challenge_set: its version; empty where challenges had no pictures.
        regime: whose rules were played.
        count: challenges that each miner was to get.
        steps: challenges the validator made; with competitors most go to others.
        complete: whether every miner got its challenges; else the run was interrupted.
        validator: its hotkey; empty where nothing was signed.
        miners: as they were named.
        competitors: simulated beside them.
        weights: what the validator sends to the chain, by UID; all of it goes to UID 0 where nobody has a score.
        events: challenges to `miners`, in the order they were sent.
    """

    challenge_set: str
    regime: str
    seed: int
    count: int
    steps: int
    complete: bool
    validator: str
    miners: tuple[MinerResult, ...]
    competitors: tuple[CompetitorResult, ...]
    weights: dict[int, int]
    events: tuple[Event, ...]

    def events_of(self, uid: int) -> tuple[Event, ...]:
        """The challenges of one miner, oldest first."""
        return tuple(event for event in self.events if event.uid == uid)


class Replies:
    """Counts what came back from one miner, by kind, and how long it took."""

    def __init__(self) -> None:
        self.asked = self.answered = self.abstained = 0
        self.errors = Counter[str]()
        self._latency_ms: list[float] = []

    def add(self, answer: Answer | Event) -> None:
        """One more."""
        self.asked += 1
        if answer.error:
            self.errors[answer.error] += 1
            return
        self._latency_ms.append(answer.latency_ms)
        if answer.prediction == NO_ANSWER:
            self.abstained += 1
        else:
            self.answered += 1

    def latency_ms(self, percent: float) -> float | None:
        """A percentile of the replies' latencies; None where there is no reply."""
        return float(np.percentile(self._latency_ms, percent)) if self._latency_ms else None

    def organic(self) -> Organic:
        """The counts of traffic that is not scored."""
        return Organic(
            asked=self.asked,
            answered=self.answered,
            abstained=self.abstained,
            errors=dict(self.errors),
            latency_p50_ms=self.latency_ms(50),
            latency_p99_ms=self.latency_ms(99),
        )


def answers(events: Sequence[Event]) -> list[Event]:
    """Those events that hold a prediction."""
    return [event for event in events if not event.error and event.prediction != NO_ANSWER]


def cells(events: Sequence[Event], key: Callable[[Event], str]) -> tuple[Cell, ...]:
    """Events put together by `key`, in its order."""
    by_key: dict[str, list[Event]] = {}
    for event in events:
        by_key.setdefault(key(event), []).append(event)
    return tuple(_cell(name, by_key[name]) for name in sorted(by_key))


def _cell(name: str, events: Sequence[Event]) -> Cell:
    answered = answers(events)
    return Cell(
        name=name,
        asked=len(events),
        answered=len(answered),
        accuracy=accuracy(answered),
        mean_reward=mean_reward(events),
    )


def accuracy(answered: Sequence[Event]) -> float | None:
    """Share of predictions that are right."""
    return float(np.mean(_classes(answered) == _labels(answered))) if answered else None


def correlation(answered: Sequence[Event]) -> float | None:
    """Matthews correlation of predictions and labels."""
    return mcc(_classes(answered), _labels(answered)) if answered else None


def mean_reward(events: Sequence[Event]) -> float:
    """What an event earned on average, 0 where there is none."""
    return float(np.mean([event.reward for event in events])) if events else 0.0


def _classes(answered: Sequence[Event]) -> NDArray[np.uint8]:
    return np.array([event.prediction > 0.5 for event in answered], dtype=np.uint8)  # 0.5 itself is class 0


def _labels(answered: Sequence[Event]) -> NDArray[np.uint8]:
    return np.array([event.label for event in answered], dtype=np.uint8)
