import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serving.miner.forward import Forward
from serving.miner.predictor import Predictor
from serving.miner.shadow import Shadow, ShadowAnswer
from tests.serving.miner.predictors import FAIL, GARBAGE, HANG, Say, Scripted, good, scripted

PICTURE = bytes(range(256)) * 40


@asynccontextmanager
async def shadowing(
    *script: Say, in_flight: int = 8, timeout_s: float = 5.0
) -> AsyncIterator[tuple[Shadow, Scripted, list[ShadowAnswer]]]:
    heard: list[ShadowAnswer] = []
    async with scripted(*script) as challenger:
        predictor = Predictor(challenger.url, model_name="roadwork")
        async with Shadow(predictor, heard.append, in_flight=in_flight, timeout_s=timeout_s) as shadow:
            yield shadow, challenger, heard


async def settled(shadow: Shadow) -> None:
    async with asyncio.timeout(5):
        while shadow.in_flight:
            await asyncio.sleep(0.005)


async def test_what_the_challenger_says_is_heard_under_the_challenges_id():
    async with shadowing(good(0.3), good(0.6)) as (shadow, challenger, heard):
        for request_id in ("first", "second"):
            shadow.ask(request_id, PICTURE)
            await settled(shadow)
    assert [(one.request_id, one.probability, one.model_version) for one in heard] == [
        ("first", 0.3, "abc"),
        ("second", 0.6, "abc"),
    ]
    assert all(0 < one.latency_ms < 5000 for one in heard)
    assert challenger.connections == 1
    assert (shadow.answered, shadow.failed, shadow.dropped) == (2, 0, 0)


async def test_a_slow_challenger_holds_few_pictures_and_the_others_are_dropped():
    async with shadowing(HANG, in_flight=3, timeout_s=0.2) as (shadow, challenger, heard):
        for number in range(10):
            shadow.ask(str(number), PICTURE)
        assert (shadow.in_flight, shadow.dropped) == (3, 7)
        await settled(shadow)
        assert (shadow.failed, shadow.dropped, heard) == (3, 7, [])
        challenger.script = [good(0.3)]
        shadow.ask("later", PICTURE)
        await settled(shadow)
    assert [one.request_id for one in heard] == ["later"]


@pytest.mark.parametrize("say", [FAIL, GARBAGE], ids=["failed", "garbage"])
async def test_a_challenger_without_a_usable_answer_is_counted(say: Say):
    async with shadowing(say) as (shadow, _, heard):
        shadow.ask("one", PICTURE)
        await settled(shadow)
    assert (shadow.answered, shadow.failed, heard) == (0, 1, [])


async def test_the_end_does_not_wait_for_the_challenger():
    async with asyncio.timeout(1), shadowing(HANG) as (shadow, _, heard):
        shadow.ask("one", PICTURE)
        await asyncio.sleep(0.02)
    assert (shadow.in_flight, heard) == (0, [])


async def test_a_picture_is_shown_to_it_only_after_its_answer():
    async with scripted(good(0.9)) as primary, shadowing(good(0.3)) as (shadow, challenger, heard):
        forward = Forward(Predictor(primary.url, model_name="roadwork"), shadow=shadow)
        async with forward:
            await forward.predict(PICTURE, deadline_s=asyncio.get_running_loop().time() + 1)
            assert challenger.requests == []
            forward.after("one", PICTURE)
            await settled(shadow)
    assert [one.request_id for one in heard] == ["one"]


async def test_nothing_happens_without_a_shadow():
    async with scripted(good()) as primary, Forward(Predictor(primary.url, model_name="roadwork")) as forward:
        forward.after("one", PICTURE)


@pytest.mark.slow  # a comparison of times
async def test_answers_take_no_longer_while_the_challenger_hangs():
    async def p99_s(forward: Forward) -> float:
        now_s = asyncio.get_running_loop().time
        took_s = []
        for number in range(300):
            begun_s = now_s()
            await forward.predict(PICTURE, deadline_s=begun_s + 8.5)
            took_s.append(now_s() - begun_s)
            forward.after(str(number), PICTURE)
        return sorted(took_s)[-3]

    async with scripted(good(0.9)) as primary, scripted(HANG) as challenger:
        shadow = Shadow(Predictor(challenger.url, model_name="roadwork"), lambda _: None)
        alone = Forward(Predictor(primary.url, model_name="roadwork"))
        shadowed = Forward(Predictor(primary.url, model_name="roadwork"), shadow=shadow)
        async with alone, shadowed:
            rounds = [(await p99_s(alone), await p99_s(shadowed)) for _ in range(9)]
        assert shadow.dropped > 1000
    assert statistics.median(with_s / without_s for without_s, with_s in rounds) < 1.5, rounds
