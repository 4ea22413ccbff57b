import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.miner.breaker import Breaker
from serving.miner.forward import Forward, Outcome
from serving.miner.predictor import Answer, AskError, Predictor
from tests.ports import unused_url
from tests.serving.miner.predictors import (
    BUSY,
    FAIL,
    GARBAGE,
    HANG,
    HANG_UP,
    REFUSE,
    Say,
    Scripted,
    good,
    reply,
    scripted,
)

PICTURE = b"\xff\xd8 not really a picture \xff\xd9"
BUDGET_S = 1.0
PATIENCE_S = 0.3  # of that budget
SOON_S = 0.15


@dataclass
class Setup:
    """A forward with scripted predictors, and what it says of them."""

    forward: Forward
    primary: Scripted
    fallback: Scripted
    results: list[tuple[str, str]] = field(default_factory=list)

    async def ask(self, *, budget_s: float = BUDGET_S) -> tuple[Outcome, float]:
        """The outcome and how long it took."""
        begun_s = asyncio.get_running_loop().time()
        outcome = await self.forward.predict(PICTURE, deadline_s=begun_s + budget_s)
        return outcome, asyncio.get_running_loop().time() - begun_s


@asynccontextmanager
async def setup(
    primary: list[Say], fallback: list[Say] | None = None, *, breaker: Breaker | None = None
) -> AsyncIterator[Setup]:
    async with scripted(*primary) as first, scripted(*(fallback or [FAIL])) as second:
        results: list[tuple[str, str]] = []
        forward = Forward(
            Predictor(first.url, model_name="roadwork"),
            Predictor(second.url, model_name="roadwork") if fallback else None,
            breaker=breaker,
            observe=lambda asked, result: results.append((asked, result)),
        )
        async with forward:
            yield Setup(forward, first, second, results)


def answered(outcome: Outcome) -> tuple[float, str, int]:
    assert outcome.reason == ""
    return outcome.prediction, outcome.answered_by, outcome.attempts


def abstained(outcome: Outcome) -> str:
    assert (outcome.prediction, outcome.answered_by, outcome.model_version) == (-1.0, "", "")
    return outcome.reason


async def test_the_primary_answers():
    async with setup([good(0.77)], [good(0.2)]) as tested:
        outcome, _ = await tested.ask()
        assert answered(outcome) == (0.77, "primary", 1)
        assert outcome.model_version == "abc"
        assert list(outcome.parts_ms) == ["primary"]
        assert 0 < outcome.parts_ms["primary"] < 1000
        assert tested.fallback.requests == []
        assert tested.results == [("primary", "ok")]


@pytest.mark.parametrize("fault", [HANG_UP, FAIL, GARBAGE], ids=["hung up", "failed", "garbage"])
async def test_a_failure_is_retried_at_once_over_a_connection_of_its_own(fault: Say):
    async with setup([good(), fault, good(0.9)], [good(0.2)]) as tested:
        await tested.ask()
        outcome, took_s = await tested.ask()
        assert answered(outcome) == (0.9, "primary", 2)
        assert took_s < SOON_S
        assert tested.primary.connections == 2
        assert set(outcome.parts_ms) == {"primary", "retry"}


async def test_a_silent_predictor_is_asked_again_and_let_go_once_that_is_answered():
    async with setup([HANG, good(0.9)], [good(0.2)]) as tested:
        outcome, took_s = await tested.ask()
        assert answered(outcome) == (0.9, "primary", 2)
        assert PATIENCE_S * 0.9 < took_s < PATIENCE_S + SOON_S
        await asyncio.sleep(0.02)
        assert tested.primary.lost == 1
        assert tested.results == [("primary", "late"), ("retry", "ok")]


async def test_a_late_answer_counts_while_the_retry_is_on_its_way():
    async with setup([good(0.9, after_s=PATIENCE_S * 1.5), HANG], [good(0.2)]) as tested:
        outcome, took_s = await tested.ask()
        assert answered(outcome) == (0.9, "primary", 2)
        assert took_s < PATIENCE_S * 2
        await asyncio.sleep(0.02)
        assert tested.primary.lost == 1


async def test_the_fallback_is_asked_at_once_where_both_attempts_failed():
    async with setup([FAIL], [good(0.2)]) as tested:
        outcome, took_s = await tested.ask()
        assert answered(outcome) == (0.2, "fallback", 3)
        assert took_s < SOON_S
        assert len(tested.primary.requests) == 2


async def test_the_fallback_is_asked_after_two_waits_where_the_primary_is_silent():
    async with setup([HANG], [good(0.2)]) as tested:
        outcome, took_s = await tested.ask()
        assert answered(outcome) == (0.2, "fallback", 3)
        assert PATIENCE_S * 1.9 < took_s < PATIENCE_S * 2 + SOON_S
        assert set(outcome.parts_ms) == {"primary", "retry", "fallback"}


async def test_a_retry_that_fails_does_not_cut_the_wait_of_the_last_one_asked():
    late = Say(after_s=PATIENCE_S * 1.2, hang_up=True)
    async with setup([late, good(0.9, after_s=PATIENCE_S * 0.6)], [good(0.2)]) as tested:
        outcome, _ = await tested.ask()
        assert answered(outcome) == (0.9, "primary", 2)


async def test_the_primary_may_still_answer_while_the_fallback_works():
    async with setup([good(0.9, after_s=PATIENCE_S * 2.4), HANG], [HANG]) as tested:
        outcome, _ = await tested.ask()
        assert answered(outcome) == (0.9, "primary", 3)


async def test_it_abstains_in_time_where_all_are_silent(caplog: pytest.LogCaptureFixture):
    async with setup([HANG], [HANG]) as tested:
        outcome, took_s = await tested.ask()
        assert abstained(outcome) == "late"
        assert took_s < BUDGET_S + 0.05
        assert tested.results == [("primary", "late"), ("retry", "late"), ("fallback", "late")]
    assert [record.getMessage() for record in caplog.records] == ["predictor_failed"] * 3


async def test_it_abstains_at_once_where_all_fail():
    async with setup([FAIL], [GARBAGE]) as tested:
        outcome, took_s = await tested.ask()
        assert abstained(outcome) == "unusable_answer"
        assert took_s < SOON_S


async def test_it_abstains_where_nobody_listens():
    async with Forward(*(Predictor(unused_url(), model_name="roadwork") for _ in range(2))) as forward:
        outcome = await forward.predict(PICTURE, deadline_s=asyncio.get_running_loop().time() + BUDGET_S)
        assert (abstained(outcome), outcome.attempts) == ("unreachable", 3)
        assert not await forward.ready()


async def test_there_need_not_be_a_fallback():
    async with setup([FAIL, good(0.9), FAIL]) as tested:
        assert answered((await tested.ask())[0]) == (0.9, "primary", 2)
        assert abstained((await tested.ask())[0]) == "failed"


# --- busy predictors and refused pictures


async def test_a_busy_primary_is_left_for_the_fallback_at_once():
    async with setup([BUSY], [good(0.2)]) as tested:
        for _ in range(5):
            outcome, took_s = await tested.ask()
            assert answered(outcome) == (0.2, "fallback", 2)
            assert took_s < SOON_S
        assert tested.forward.breaker.state == "closed"


async def test_a_busy_primary_is_asked_again_where_the_fallback_fails():
    async with setup([BUSY, good(0.9)], [FAIL]) as tested:
        assert answered((await tested.ask())[0]) == (0.9, "primary", 3)


async def test_a_busy_primary_is_asked_again_when_it_said():
    later = Say(reply({}, status=503, headers="retry-after: 60\r\n"))
    async with setup([later, good(0.9)]) as tested:
        outcome, took_s = await tested.ask()
        assert answered(outcome) == (0.9, "primary", 2)
        assert PATIENCE_S * 0.9 < took_s < PATIENCE_S + SOON_S  # no longer than a silent one


async def test_a_retry_that_had_to_wait_is_not_waited_for_beyond_the_deadline():
    later = Say(reply({}, status=503, headers="retry-after: 60\r\n"), after_s=PATIENCE_S * 0.8)
    async with setup([later, HANG], [HANG]) as tested:
        outcome, took_s = await tested.ask()
        assert (abstained(outcome), outcome.attempts) == ("late", 3)
        assert took_s < BUDGET_S + 0.05


async def test_a_refused_picture_goes_to_the_fallback_once():
    async with setup([REFUSE], [good(0.2)]) as tested:
        for _ in range(5):
            assert answered((await tested.ask())[0]) == (0.2, "fallback", 2)
        assert tested.forward.breaker.state == "closed"


async def test_a_picture_that_both_refuse_is_not_answered():
    async with setup([REFUSE], [REFUSE]) as tested:
        outcome, took_s = await tested.ask()
        assert (abstained(outcome), outcome.attempts) == ("refused", 2)
        assert took_s < SOON_S


# --- the breaker


async def test_after_three_failures_the_fallback_is_asked_first():
    async with setup([FAIL], [good(0.2)]) as tested:
        for attempts in (3, 2, 1, 1, 1):
            assert answered((await tested.ask())[0]) == (0.2, "fallback", attempts)
        assert len(tested.primary.requests) == 3
        assert tested.forward.breaker.state == "open"


async def test_a_silent_primary_opens_the_breaker_while_others_still_wait():
    async with setup([HANG], [good(0.2)]) as tested:
        outcomes = await asyncio.gather(*(tested.ask() for _ in range(8)))
        assert {answered(outcome)[1] for outcome, _ in outcomes} == {"fallback"}
        assert len(tested.primary.requests) <= 10
        outcome, took_s = await tested.ask()
        assert answered(outcome) == (0.2, "fallback", 1)
        assert took_s < SOON_S


async def test_one_probe_at_a_time_brings_the_primary_back():
    async with setup([FAIL, FAIL, FAIL, HANG, good(0.9)], [good(0.2)], breaker=Breaker(wait_s=0.05)) as tested:
        for _ in range(2):
            await tested.ask()
        assert tested.forward.breaker.state == "open"
        await asyncio.sleep(0.06)
        outcomes = await asyncio.gather(*(tested.ask() for _ in range(5)))
        assert Counter(outcome.attempts for outcome, _ in outcomes) == {1: 4, 2: 1}
        assert len(tested.primary.requests) == 4
        await asyncio.sleep(0.11)  # twice as long after a probe that failed
        assert answered((await tested.ask())[0]) == (0.9, "primary", 1)
        assert tested.forward.breaker.state == "closed"


async def test_the_primary_is_asked_in_spite_of_its_breaker_where_the_fallback_fails():
    async with setup([FAIL, FAIL, FAIL, good(0.9)], [good(0.2), good(0.2), FAIL]) as tested:
        for _ in range(2):
            await tested.ask()
        assert tested.forward.breaker.state == "open"
        assert answered((await tested.ask())[0]) == (0.9, "primary", 2)
        assert tested.forward.breaker.state == "closed"


async def test_without_a_fallback_an_open_breaker_lets_one_request_pass_at_a_time():
    async with setup([FAIL, FAIL, FAIL, HANG]) as tested:
        for _ in range(2):
            assert abstained((await tested.ask())[0]) == "failed"
        outcomes = await asyncio.gather(*(tested.ask(budget_s=0.2) for _ in range(3)))
        assert sorted(abstained(outcome) for outcome, _ in outcomes) == ["breaker_open", "breaker_open", "late"]
        assert len(tested.primary.requests) == 4


async def test_a_probe_that_is_given_up_makes_room_for_the_next():
    async with setup([FAIL, FAIL, FAIL, HANG, good(0.9)], [good(0.2)], breaker=Breaker(wait_s=0.01)) as tested:
        for _ in range(2):
            await tested.ask()
        await asyncio.sleep(0.02)
        asking = asyncio.create_task(tested.ask())
        await asyncio.sleep(0.05)
        assert tested.forward.breaker.state == "half_open"
        asking.cancel()
        await asyncio.wait([asking])
        assert answered((await tested.ask())[0]) == (0.9, "primary", 1)


# --- time


@pytest.mark.parametrize("budget_s", [0.1, 0.4])
async def test_everybody_gets_a_turn_in_what_time_there_is(budget_s: float):
    async with setup([HANG], [good(0.2)]) as tested:
        outcome, took_s = await tested.ask(budget_s=budget_s)
        assert answered(outcome) == (0.2, "fallback", 3)
        assert took_s < budget_s


async def test_no_time_left_is_no_answer():
    async with setup([good()], [good()]) as tested:
        outcome, _ = await tested.ask(budget_s=-0.1)
        assert (abstained(outcome), outcome.attempts) == ("late", 0)
        assert tested.primary.requests == []


@dataclass
class StandIn:
    """Behaves as it is told, without a network."""

    behaviours: list[str]
    asked: int = 0

    async def __aenter__(self) -> "StandIn":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def ask(self, image: bytes, *, fresh: bool = False) -> Answer:
        self.asked += 1
        match self.behaviours[min(self.asked, len(self.behaviours)) - 1]:
            case "good":
                return Answer(0.9, "abc")
            case "slow":
                await asyncio.sleep(0.15)
                return Answer(0.8, "abc")
            case "hang":
                await asyncio.sleep(60)
            case "bug":
                raise KeyError("a bug")
            case reason:
                raise AskError("as told", reason=reason)  # type: ignore[arg-type]
        raise AssertionError


async def test_every_mixture_of_faults_ends_in_time_in_an_answer_if_somebody_has_one():
    behaviours = ["good", "slow", "hang", "bug", "unreachable", "busy", "refused"]

    async def mixture(first: str, retry: str, fallback: str, opened: bool) -> None:
        breaker = Breaker()
        for _ in range(3 * opened):
            breaker.failed()
        forward: Any = Forward(StandIn([first, retry]), StandIn([fallback]), breaker=breaker)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        outcome = await forward.predict(PICTURE, deadline_s=begun_s + 1.5)
        assert loop.time() - begun_s < 2.5
        somebody = {first, fallback} if opened or first == "refused" else {first, retry, fallback}
        told = (first, retry, fallback, opened, outcome)
        assert (outcome.reason == "") == bool(somebody & {"good", "slow"}), told
        assert outcome.prediction == -1 if outcome.reason else 0 <= outcome.prediction <= 1, told
        assert breaker.state != "half_open"

    logging.disable(logging.ERROR)
    try:
        mixtures = itertools.product(behaviours, behaviours, behaviours, [False, True])
        await asyncio.gather(*(mixture(*one) for one in mixtures))
    finally:
        logging.disable(logging.NOTSET)


async def test_a_bug_of_ours_is_logged_and_costs_no_more_than_its_attempt(caplog: pytest.LogCaptureFixture):
    forward: Any = Forward(StandIn(["bug"]), StandIn(["bug"]))  # type: ignore[arg-type]
    outcome = await forward.predict(PICTURE, deadline_s=asyncio.get_running_loop().time() + 1)
    assert abstained(outcome) == "error"
    assert "KeyError" in caplog.text


# --- readiness, and what is shown


async def test_it_is_ready_while_one_of_both_is():
    async with AsyncExitStack() as stack:
        ready, unready = Say(reply({})), Say(reply({}, status=503))
        for first, second, expected in [(ready, unready, True), (unready, ready, True), (unready, unready, False)]:
            tested = await stack.enter_async_context(setup([first], [second]))
            assert await tested.forward.ready() is expected


async def test_readiness_does_not_wait_for_a_frozen_predictor():
    async with setup([Say(reply({}))], [HANG]) as tested:
        begun_s = time.monotonic()
        assert await tested.forward.ready()
        assert time.monotonic() - begun_s < 1
