"""A validator to test miners with: signed challenges at the subnet's pace, with its rewards and scores.

Source: natixnetwork/streetvision-subnet natix/validator/forward.py @ 28a1755
"""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import httpx
import numpy as np
from bittensor_wallet import Keypair
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_serializer

from streetvision.challenge_set import Challenge, ChallengeSet
from streetvision.errors import SettingsError
from streetvision.statistics import mcc
from streetvision.subnet.deck import UidDeck
from streetvision.subnet.dendrite import Dendrite
from streetvision.subnet.protocol import NO_ANSWER
from streetvision.subnet.regimes import AUDIENCE_SIZE, TIMEOUT_S, active
from streetvision.subnet.reward import Tracker, update_scores

BURN_IN = 100  # challenges until the reward's history is full


@dataclass(frozen=True, slots=True, kw_only=True)
class Miner:
    """Where a miner answers, and whose signature it expects to be called by.

    Attributes:
        uid: its place on the subnet.
        url: as in `http://127.0.0.1:8091`.
        hotkey: ss58 address.
    """

    uid: int
    url: str
    hotkey: str

    @classmethod
    def parse(cls, text: str, *, uid: int) -> Self:
        """The miner of a command line's `URL=HOTKEY`.

        Raises:
            SettingsError: the text has another form.
        """
        url, _, hotkey = text.rpartition("=")
        try:
            address = httpx.URL(url)
            Keypair(ss58_address=hotkey)
        except (httpx.InvalidURL, ValueError) as err:
            raise SettingsError(f"miner is `{text}`, expected URL=HOTKEY: {err}") from err
        if address.scheme != "http" or not address.host:
            raise SettingsError(f"miner is `{text}`, expected URL=HOTKEY with a URL like `http://127.0.0.1:8091`")
        return cls(uid=uid, url=url.rstrip("/"), hotkey=hotkey)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


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


class MinerResult(_Value):
    """What one miner made of its challenges.

    Attributes:
        answered: replies with a prediction.
        abstained: replies without one.
        errors: how often there was no usable reply, by reason.
        mean_reward: over all that was asked, as the next one.
        mean_reward_after_burn_in: without the first 100; None where no more were asked.
        score: moving average at the end, from 0.
        accuracy: of the predictions; None where there is none.
        mcc: of the predictions; None where there is none.
        latency_p50_ms: of the replies; None where there is none.
        latency_p99_ms: of the replies; None where there is none.
    """

    uid: int
    url: str
    hotkey: str
    answered: int
    abstained: int
    errors: dict[str, int]
    mean_reward: float
    mean_reward_after_burn_in: float | None
    score: float
    accuracy: float | None
    mcc: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    levels: tuple[Cell, ...]
    sources: tuple[Cell, ...]


class SimulationResult(_Value):
    """What all miners made of the challenges of one simulated validator; `events` in the order they were sent."""

    challenge_set: str
    regime: str
    seed: int
    count: int
    validator: str
    miners: tuple[MinerResult, ...]
    events: tuple[Event, ...]


async def simulate(
    miners: Sequence[Miner],
    challenges: ChallengeSet,
    keypair: Keypair,
    *,
    count: int,
    seed: int,
    time_scale: float,
    timeout_s: float = TIMEOUT_S,
    on_step: Callable[[tuple[Event, ...]], None] | None = None,
) -> SimulationResult:
    """Plays a validator for `count` challenges, one after the other, each sent to its whole audience at once.

    The audience is dealt from the deck, ten miners or as many as there are. Nothing is written; a cancelled run closes
    its connections and leaves nothing behind.

    Args:
        miners: who can be asked.
        challenges: asked in a seeded order; a set that is used up is shuffled and asked again.
        keypair: the validator's hotkey, which signs.
        count: how many challenges are sent.
        seed: of the order and of the deck.
        time_scale: the subnet's pause between two challenges is divided by it; 0 leaves no pause.
        timeout_s: how long an answer is waited for.
        on_step: is given the events of each challenge.

    Raises:
        SettingsError: no miner, two of the same UID, no challenge to send, or a halted regime.
    """
    regime = active(challenges.regime)
    if not miners or len({miner.uid for miner in miners}) < len(miners):
        raise SettingsError("miners are none or two of them share a UID, expected at least one and each with its own")
    if count < 1 or not challenges.rows or time_scale < 0:
        raise SettingsError("expected at least one challenge to send, and a time scale that is not negative")
    pause_s = regime.step_s / time_scale if time_scale else 0.0
    deck = UidDeck(random.Random(seed))  # noqa: S311 - a seeded shuffle, not a secret
    rows = _rows(challenges.rows, seed)
    places = {miner.uid: place for place, miner in enumerate(miners)}
    trackers = [Tracker() for _ in miners]
    scores = np.zeros(len(miners), dtype=np.float32)
    events: list[Event] = []
    async with Dendrite(keypair, route=regime.route, timeout_s=timeout_s) as dendrite:
        for step in range(count):
            row = next(rows)
            image = challenges.read_bytes(row)
            audience = [places[uid] for uid in deck.deal(list(places), min(AUDIENCE_SIZE, len(places)))]
            answers = await asyncio.gather(
                *(dendrite.ask(miners[place].url, miners[place].hotkey, image) for place in audience)
            )
            rewards = [
                trackers[place].update(answer.prediction, row.label, miners[place].hotkey).reward
                for place, answer in zip(audience, answers, strict=True)
            ]
            scores = update_scores(scores, audience, rewards)
            new = tuple(
                Event(
                    step=step,
                    uid=miners[place].uid,
                    challenge_id=row.challenge_id,
                    label=row.label,
                    source=row.source,
                    level=row.level,
                    prediction=answer.prediction,
                    error=answer.error,
                    latency_ms=answer.latency_ms,
                    reward=reward,
                    score=float(scores[place]),
                )
                for place, answer, reward in zip(audience, answers, rewards, strict=True)
            )
            events += new
            if on_step is not None:
                on_step(new)
            if pause_s and step + 1 < count:
                await asyncio.sleep(pause_s)
    return SimulationResult(
        challenge_set=challenges.version,
        regime=challenges.regime,
        seed=seed,
        count=count,
        validator=keypair.ss58_address,
        miners=tuple(
            _miner_result(miner, [event for event in events if event.uid == miner.uid], score=float(score))
            for miner, score in zip(miners, scores, strict=True)
        ),
        events=tuple(events),
    )


def _rows(rows: Sequence[Challenge], seed: int) -> Iterator[Challenge]:
    rng = np.random.default_rng(seed)
    while True:
        for index in rng.permutation(len(rows)):
            yield rows[index]


def _miner_result(miner: Miner, events: Sequence[Event], *, score: float) -> MinerResult:
    replies = [event for event in events if not event.error]
    answers = [event for event in replies if event.prediction != NO_ANSWER]
    latency_ms = [event.latency_ms for event in replies]
    return MinerResult(
        uid=miner.uid,
        url=miner.url,
        hotkey=miner.hotkey,
        answered=len(answers),
        abstained=len(replies) - len(answers),
        errors=dict(Counter(event.error for event in events if event.error)),
        mean_reward=_mean_reward(events),
        mean_reward_after_burn_in=_mean_reward(events[BURN_IN:]) if len(events) > BURN_IN else None,
        score=score,
        accuracy=_accuracy(answers),
        mcc=mcc(_classes(answers), _labels(answers)) if answers else None,
        latency_p50_ms=float(np.percentile(latency_ms, 50)) if latency_ms else None,
        latency_p99_ms=float(np.percentile(latency_ms, 99)) if latency_ms else None,
        levels=_cells(events, lambda event: str(event.level)),
        sources=_cells(events, lambda event: event.source),
    )


def _cells(events: Sequence[Event], key: Callable[[Event], str]) -> tuple[Cell, ...]:
    cells: dict[str, list[Event]] = {}
    for event in events:
        cells.setdefault(key(event), []).append(event)
    return tuple(_cell(name, cells[name]) for name in sorted(cells))


def _cell(name: str, events: Sequence[Event]) -> Cell:
    answers = [event for event in events if not event.error and event.prediction != NO_ANSWER]
    return Cell(
        name=name,
        asked=len(events),
        answered=len(answers),
        accuracy=_accuracy(answers),
        mean_reward=_mean_reward(events),
    )


def _accuracy(answers: Sequence[Event]) -> float | None:
    return sum((event.prediction > 0.5) == event.label for event in answers) / len(answers) if answers else None


def _classes(answers: Sequence[Event]) -> NDArray[np.uint8]:
    return np.array([event.prediction > 0.5 for event in answers], dtype=np.uint8)  # 0.5 itself is class 0


def _labels(answers: Sequence[Event]) -> NDArray[np.uint8]:
    return np.array([event.label for event in answers], dtype=np.uint8)


def _mean_reward(events: Sequence[Event]) -> float:
    return float(np.mean([event.reward for event in events])) if events else 0.0
