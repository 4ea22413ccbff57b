"""A simulated validator at work: signed challenges at the subnet's pace, and organic traffic between them.

Source: natixnetwork/streetvision-subnet natix/validator/forward.py, natix/validator/proxy.py @ 28a1755
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
from bittensor_wallet import Keypair

from streetvision.challenge_set import Challenge, ChallengeSet
from streetvision.errors import SettingsError
from streetvision.forecast import draw_run
from streetvision.simulation.miners import Miner, SimulatedMiner
from streetvision.simulation.result import (
    BURN_IN,
    CompetitorResult,
    Event,
    MinerResult,
    Replies,
    SimulationResult,
    accuracy,
    answers,
    cells,
    correlation,
    mean_reward,
)
from streetvision.simulation.validator import Validator
from streetvision.subnet import challenges as generator
from streetvision.subnet import network
from streetvision.subnet.dendrite import Answer, Dendrite
from streetvision.subnet.regimes import REWARD_EXPONENT, TIMEOUT_S, Regime, active, by_name

ORGANIC_AUDIENCE = 3  # miners that an organic task is sent to
_ORGANIC_GAP_S = (0.1, 2.0)
_ORGANIC_AT_ONCE = 10
_ORGANIC_MOST = 100  # for each challenge
_DRAWN_AT_ONCE = 1000
_CHALLENGES, _ANSWERS, _ORGANIC, _CELLS = 2, 3, 4, 5  # streams of one seed; competitors have the first

Named = Miner | SimulatedMiner


class Simulation:
    """One validator and its miners; what came of them can be asked for at any time, also of an interrupted run.

    Fewer than ten miners are all asked once a step (the network would ask some of them twice), and in regime R0 every
    miner's model counts as registered. Organic pictures look like challenges of level 0, as in R1 and R2.

    Args:
        miners: each gets `count` challenges.
        challenges: what is sent, drawn from all for every step.
        count: challenges for each of `miners`: steps go on until the one that was asked least has so many.
        seed: of the challenges, of who is asked and of what simulated miners answer.
        regime: whose rules hold; None for the challenge set's.
        competitors: simulated miners that are asked too, each as often as the others.
        organic_per_step: tasks of application users for each challenge, on average; they are not scored.

    Raises:
        SettingsError: no miner or two of the same UID, nothing to send, a halted regime, or one whose pictures are
            other than those of the set.
    """

    def __init__(
        self,
        miners: Sequence[Named],
        challenges: ChallengeSet,
        *,
        count: int,
        seed: int,
        regime: str | None = None,
        competitors: Sequence[SimulatedMiner] = (),
        organic_per_step: float = 0.0,
    ) -> None:
        everybody = {miner.uid: miner for miner in (*miners, *competitors)}
        if not miners or len(everybody) < len(miners) + len(competitors):
            raise SettingsError(
                "miners are none or two of them share a UID, expected at least one and each with its own"
            )
        if count < 1 or not challenges.rows:
            raise SettingsError(
                f"{count} challenges out of {len(challenges)} were asked for, expected at least one of each"
            )
        if not 0 <= organic_per_step <= _ORGANIC_MOST:
            raise SettingsError(
                f"{organic_per_step} organic tasks a challenge were asked for, expected 0 to {_ORGANIC_MOST}"
            )
        self._regime = _rules(regime, challenges)
        self._miners, self._competitors, self._everybody = tuple(miners), tuple(competitors), everybody
        self._challenges = challenges
        self._count, self._seed = count, seed
        self._organic_per_step = organic_per_step
        self._plain = [row for row in challenges.rows if row.level == 0]
        if organic_per_step and not self._plain:
            raise SettingsError(
                f"challenge set `{challenges.root}` has no challenge of level 0, which organic pictures look like",
                hint="draw a larger set with `streetvision subnet challenges`",
            )
        self._validator = Validator({uid: miner.hotkey for uid, miner in everybody.items()}, self._regime, seed=seed)
        self._hotkey = ""
        self._replies = {uid: Replies() for uid in everybody}
        self._rewards = dict.fromkeys(everybody, 0.0)
        self._organic = {uid: Replies() for uid in everybody}
        self._events: list[Event] = []

    @property
    def progress(self) -> int:
        """Challenges that every one of the miners has got."""
        return min(self._replies[miner.uid].asked for miner in self._miners)

    async def run(
        self,
        keypair: Keypair | None = None,
        *,
        time_scale: float = 0.0,
        timeout_s: float = TIMEOUT_S,
        on_step: Callable[[tuple[Event, ...]], None] | None = None,
    ) -> None:
        """Plays the validator, one challenge after the other, each sent to its whole audience at once.

        Nothing is written; a cancelled run closes its connections and leaves nothing behind.

        Args:
            keypair: the validator's hotkey, which signs; needed where a miner has an address.
            time_scale: the subnet's pauses are divided by it; 0 leaves none.
            timeout_s: how long an answer is waited for.
            on_step: is given the events of `miners` at each step.

        Raises:
            SettingsError: a negative time scale, or miners to call without a key to sign with.
            DataError: a picture of the challenge set is missing.
        """
        if not time_scale >= 0:
            raise SettingsError(f"time scale is {time_scale}, expected 0 or more")
        async with AsyncExitStack() as stack:
            dendrite = None
            if keypair is not None:
                self._hotkey = keypair.ss58_address
                dendrite = await stack.enter_async_context(
                    Dendrite(keypair, route=self._regime.route, timeout_s=timeout_s)
                )
            elif any(isinstance(miner, Miner) for miner in self._miners):
                raise SettingsError("no key was given, expected the validator's hotkey to sign requests with")
            caller = _Caller(dendrite, self._challenges, timeout_s=timeout_s)
            await self._steps(caller, 1 / time_scale if time_scale else 0.0, on_step)

    async def _steps(self, caller: "_Caller", pace: float, on_step: Callable[[tuple[Event, ...]], None] | None) -> None:
        named = {miner.uid for miner in self._miners}
        rng, organic_rng = (np.random.default_rng((self._seed, stream)) for stream in (_ANSWERS, _ORGANIC))
        rows = _rows(self._challenges.rows, self._seed)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                for task_rng in organic_rng.spawn(int(organic_rng.poisson(self._organic_per_step))):
                    if len(tasks) == _ORGANIC_AT_ONCE:
                        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                        await asyncio.gather(*done)
                    audience = self._validator.organic_audience(ORGANIC_AUDIENCE)
                    tasks.add(asyncio.create_task(self._organic_task(caller, audience, task_rng, pace)))
                row, audience = next(rows), self._validator.audience()
                events = self._validator.record(
                    row, audience, await caller.ask([self._everybody[uid] for uid in audience], row, rng)
                )
                mine = tuple(event for event in events if event.uid in named)
                self._events += mine
                for event in events:
                    self._replies[event.uid].add(event)
                    self._rewards[event.uid] += event.reward
                if on_step is not None:
                    on_step(mine)
                if self.progress >= self._count:
                    break
                await asyncio.sleep(pace * self._regime.step_s)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _organic_task(
        self, caller: "_Caller", audience: Sequence[int], rng: np.random.Generator, pace: float
    ) -> None:
        """One application user's picture to three miners, one after another."""
        row = self._plain[int(rng.integers(len(self._plain)))]
        await asyncio.sleep(pace * float(rng.uniform(0, self._regime.step_s)))
        for uid in audience:
            await asyncio.sleep(pace * float(rng.uniform(*_ORGANIC_GAP_S)))
            (answer,) = await caller.ask([self._everybody[uid]], row, rng)
            self._organic[uid].add(answer)

    def result(self) -> SimulationResult:
        """What the run came to, so far or at its end."""
        weights = self._validator.weights()
        return SimulationResult(
            challenge_set=self._challenges.version,
            regime=self._regime.name,
            seed=self._seed,
            count=self._count,
            steps=self._validator.steps,
            complete=self.progress >= self._count,
            validator=self._hotkey,
            miners=tuple(self._miner_result(miner, weights) for miner in self._miners),
            competitors=tuple(
                CompetitorResult(
                    uid=miner.uid,
                    accuracy=miner.accuracy,
                    asked=self._replies[miner.uid].asked,
                    answered=self._replies[miner.uid].answered,
                    mean_reward=self._rewards[miner.uid] / max(1, self._replies[miner.uid].asked),
                    score=self._validator.score(miner.uid),
                    weight=weights.get(miner.uid, 0),
                )
                for miner in self._competitors
            ),
            weights=weights,
            events=tuple(self._events),
        )

    def _miner_result(self, miner: Named, weights: dict[int, int]) -> MinerResult:
        events = [event for event in self._events if event.uid == miner.uid]
        replies, answered = self._replies[miner.uid], answers(events)
        settled = mean_reward(events[BURN_IN:]) if len(events) > BURN_IN else None
        comparable = settled is not None and self._regime.reward_exponent == REWARD_EXPONENT
        return MinerResult(
            uid=miner.uid,
            url=miner.url if isinstance(miner, Miner) else "",
            hotkey=miner.hotkey,
            asked=replies.asked,
            answered=replies.answered,
            abstained=replies.abstained,
            errors=dict(replies.errors),
            mean_reward=mean_reward(events),
            mean_reward_after_burn_in=settled,
            score=self._validator.score(miner.uid),
            percentile=network.percentile(settled) if settled is not None and comparable else None,
            rank=self._validator.rank(miner.uid),
            weight=weights.get(miner.uid, 0),
            pay_share=weights.get(miner.uid, 0) / sum(weights.values()),
            accuracy=accuracy(answered),
            mcc=correlation(answered),
            latency_p50_ms=replies.latency_ms(50),
            latency_p99_ms=replies.latency_ms(99),
            levels=cells(events, lambda event: str(event.level)),
            sources=cells(events, lambda event: event.source),
            organic=self._organic[miner.uid].organic() if self._organic_per_step else None,
        )


class _Caller:
    """Asks miners: over the wire who has an address, here who is simulated."""

    def __init__(self, dendrite: Dendrite | None, challenges: ChallengeSet, *, timeout_s: float) -> None:
        self._dendrite = dendrite
        self._challenges = challenges
        self._timeout_s = timeout_s

    async def ask(self, audience: Sequence[Named], row: Challenge, rng: np.random.Generator) -> list[Answer]:
        """The answers of all to one picture, which they get at once."""
        answers = {
            place: miner.answer(row.label, rng, timeout_s=self._timeout_s)
            for place, miner in enumerate(audience)
            if isinstance(miner, SimulatedMiner)
        }
        called = [(place, miner) for place, miner in enumerate(audience) if isinstance(miner, Miner)]
        if called and self._dendrite is not None:
            image, dendrite = self._challenges.read_bytes(row), self._dendrite
            replies = await asyncio.gather(*(dendrite.ask(miner.url, miner.hotkey, image) for _, miner in called))
            answers |= {place: reply for (place, _), reply in zip(called, replies, strict=True)}
        return [answers[place] for place in range(len(audience))]


async def simulate(
    miners: Sequence[Named],
    challenges: ChallengeSet,
    keypair: Keypair | None = None,
    *,
    count: int,
    seed: int,
    time_scale: float,
    timeout_s: float = TIMEOUT_S,
    on_step: Callable[[tuple[Event, ...]], None] | None = None,
) -> SimulationResult:
    """What comes of `count` challenges to each of `miners`, under the rules of the challenge set.

    Arguments and errors are those of `Simulation` and its `run`.
    """
    simulation = Simulation(miners, challenges, count=count, seed=seed)
    await simulation.run(keypair, time_scale=time_scale, timeout_s=timeout_s, on_step=on_step)
    return simulation.result()


def _rows(rows: Sequence[Challenge], seed: int) -> Iterator[Challenge]:
    """Challenges without end, each drawn from all, as a validator draws from its caches."""
    rng = np.random.default_rng((seed, _CHALLENGES))
    while True:
        for index in draw_run(rng, len(rows), _DRAWN_AT_ONCE):
            yield rows[index]


def _rules(name: str | None, challenges: ChallengeSet) -> Regime:
    """The regime that is played, if its pictures are those of the challenge set."""
    played, drawn = active(name or challenges.regime), by_name(challenges.regime)
    pictures = [(one.geometry, one.wire_size_px, dict(one.source_shares)) for one in (played, drawn)]
    if pictures[0] != pictures[1]:
        raise SettingsError(
            f"regime is `{played.name}`, but challenge set `{challenges.root}` was drawn for {drawn.name}, whose "
            "pictures are others",
            hint=f"draw a set with `streetvision subnet challenges --regime {played.name}`",
        )
    return played


def without_pictures(regime: str, *, seed: int, count: int = 4000) -> ChallengeSet:
    """Challenges in the regime's shares that have no pictures, for miners that need none.

    Raises:
        SettingsError: no such regime, or it sends no challenges.
    """
    rng = np.random.default_rng((seed, _CELLS))
    drawn = generator.draw_cells(rng, count, active(regime).name)
    rows = tuple(
        Challenge(
            challenge_id=f"drawn/{place}",
            file="",
            image="",
            label=int(rng.integers(2)) if cell.label is None else cell.label,
            source=cell.source,
            level=cell.level,
            group="",
            image_sha256="",
        )
        for place, cell in enumerate(drawn)
    )
    return ChallengeSet(root=Path(), version="", regime=regime, seed=seed, data_version="", rows=rows)
