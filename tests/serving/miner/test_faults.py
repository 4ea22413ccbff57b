"""Real predictors in processes of their own that are killed, frozen and confused while the miner asks them."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bittensor_wallet import Keypair

from serving.miner.breaker import Breaker
from serving.miner.forward import Forward, Outcome
from serving.miner.predictor import Predictor
from streetvision.curation.prediction_log import Row, read_log, segment_files
from streetvision.imaging import encode_jpeg
from streetvision.subnet.reward import mean_rewards
from tests.serving.miner.entries import Told, ask_miner, logged_once
from tests.serving.miner.predictors import Process, channel_model, start

pytestmark = pytest.mark.slow  # kserve takes seconds to start

RED, GREEN, BLUE = 0, 1, 2
ALICE = Keypair.create_from_uri("//Alice").ss58_address
ANSWER_DEADLINE_S = 8.5


def picture(*, red: bool, green: bool, number: int = 0) -> bytes:
    """One of 14 pictures that are different, and the same to both predictors."""
    pixels = np.full((224, 224, 3), 10, dtype=np.uint8)
    pixels[..., RED] = 220 if red else 10
    pixels[..., GREEN] = 220 if green else 10
    pixels[:16, 16 * number : 16 * (number + 1), BLUE] = 220
    return encode_jpeg(pixels)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Process]]:
    """A primary that sees red and a fallback that sees green."""
    folder = tmp_path_factory.mktemp("predictors")
    processes = [
        start(channel_model(folder / name, channel), folder / f"{name}.log", *options)
        for name, channel, options in [("primary", RED, ["--timeout-keep-alive", 1]), ("fallback", GREEN, [])]
    ]
    try:
        for process in processes:
            process.wait_until_ready()
        yield processes[0], processes[1]
    finally:
        for process in processes:
            process.stop()


@pytest.fixture
def primary(started: tuple[Process, Process]) -> Iterator[Process]:
    yield started[0]
    started[0].thaw()
    started[0].wait_until_ready()


@pytest.fixture
def fallback(started: tuple[Process, Process]) -> Iterator[Process]:
    yield started[1]
    started[1].thaw()
    started[1].wait_until_ready()


def forward(*urls: str, breaker: Breaker | None = None) -> Forward:
    return Forward(*(Predictor(url, model_name="roadwork") for url in urls), breaker=breaker)


async def ask(forward: Forward, image: bytes, *, budget_s: float = ANSWER_DEADLINE_S) -> Outcome:
    return await forward.predict(image, deadline_s=asyncio.get_running_loop().time() + budget_s)


async def killed_while(primary: Process, *asking: asyncio.Task[Outcome]) -> list[Outcome]:
    """What became of requests that were with the predictor when it was killed."""
    primary.freeze()
    await asyncio.sleep(0.03)
    assert not any(task.done() for task in asking)
    await asyncio.to_thread(primary.kill)
    return list(await asyncio.gather(*asking))


async def test_a_predictor_killed_with_requests_in_flight_costs_no_answer(primary: Process, fallback: Process):
    async with forward(primary.url, fallback.url, breaker=Breaker(wait_s=0.1)) as tested:
        image = picture(red=True, green=False)
        assert (await ask(tested, image)).prediction > 0.5
        primary.freeze()
        asking = [asyncio.create_task(ask(tested, image)) for _ in range(16)]
        outcomes = await killed_while(primary, *asking)
        assert {outcome.answered_by for outcome in outcomes} == {"fallback"}
        assert all(outcome.prediction < 0.5 for outcome in outcomes)
        assert tested.breaker.state == "open"
        await asyncio.to_thread(primary.wait_until_ready)
        await asyncio.sleep(0.1)
        assert (await ask(tested, image)).answered_by == "primary"


async def test_a_predictor_that_wakes_up_in_time_answers(primary: Process, fallback: Process):
    async with forward(primary.url, fallback.url) as tested:
        primary.freeze()
        asking = asyncio.create_task(ask(tested, picture(red=True, green=False), budget_s=2.0))
        await asyncio.sleep(0.9)  # 0.6 s are its patience
        primary.thaw()
        outcome = await asking
        assert (outcome.answered_by, outcome.attempts) == ("primary", 2)


async def test_a_port_of_another_protocol_is_left_for_the_fallback(primary: Process, fallback: Process):
    async with forward(f"http://127.0.0.1:{primary.grpc_port}", fallback.url) as tested:
        outcome = await ask(tested, picture(red=True, green=True))
        assert outcome.answered_by == "fallback"


async def test_a_server_without_our_model_is_left_for_the_fallback(primary: Process, fallback: Process):
    async with Forward(
        Predictor(primary.url, model_name="birds"), Predictor(fallback.url, model_name="roadwork")
    ) as tested:
        assert (await ask(tested, picture(red=True, green=True))).answered_by == "fallback"


async def test_connections_that_the_predictor_closes_cost_nothing(primary: Process):
    async with forward(primary.url) as tested:
        for pause_s in (0.0, 1.2, 1.0):  # it keeps them for a second
            await asyncio.sleep(pause_s)
            assert (await ask(tested, picture(red=True, green=True))).answered_by == "primary"


@pytest.mark.parametrize("image", [b"", b"no picture", picture(red=True, green=True)[:-500]])
async def test_a_picture_that_is_none_is_no_fault_of_a_predictor(primary: Process, fallback: Process, image: bytes):
    async with forward(primary.url, fallback.url) as tested:
        for _ in range(4):
            outcome = await ask(tested, image)
            assert (outcome.prediction, outcome.reason, outcome.attempts) == (-1.0, "refused", 2)
        assert tested.breaker.state == "closed"


async def test_kills_under_five_per_cent_of_the_challenges_cost_little_reward(primary: Process, fallback: Process):
    """A fallback that is right in 80 % of the challenges stands in for a primary that is in 96 %."""
    count = 500
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count).astype(np.uint8)
    red = labels ^ (rng.random(count) >= 0.96)
    green = labels ^ (rng.random(count) >= 0.80)
    hit = rng.permutation(count) < count // 20
    pictures = {(r, g): picture(red=r, green=g) for r in (False, True) for g in (False, True)}
    images = [pictures[bool(r), bool(g)] for r, g in zip(red, green, strict=True)]
    minute = 0

    def breaker() -> Breaker:
        return Breaker(clock_s=lambda: 60.0 * minute)

    undisturbed, helped, alone = (np.empty(count) for _ in range(3))
    async with (
        forward(primary.url, fallback.url, breaker=breaker()) as with_fallback,
        forward(primary.url, breaker=breaker()) as without,
    ):
        for number, image in enumerate(images):
            undisturbed[number] = (await ask(with_fallback, image)).prediction
        for minute, image in enumerate(images):  # challenges are minutes apart
            if not hit[minute]:
                helped[minute] = alone[minute] = (await ask(with_fallback, image)).prediction
                continue
            primary.freeze()
            asking = [asyncio.create_task(ask(one, image)) for one in (with_fallback, without)]
            outcomes = await killed_while(primary, *asking)
            assert [outcome.answered_by for outcome in outcomes] == ["fallback", ""]
            helped[minute], alone[minute] = (outcome.prediction for outcome in outcomes)
            await asyncio.to_thread(primary.wait_until_ready)
    assert np.array_equal(undisturbed > 0.5, red.astype(bool))
    assert np.array_equal(helped > 0.5, np.where(hit, green, red).astype(bool))
    assert np.array_equal(alone == -1.0, hit)
    orders = rng.integers(0, count, (200, count))
    expected, kept, abstained = (mean_rewards(p, labels, orders).mean() for p in (undisturbed, helped, alone))
    # The first is asked for; the second is what an abstention costs.
    assert 1 - kept / expected <= 0.06, (expected, kept, abstained)
    assert 1 - abstained / expected <= 0.06, (expected, kept, abstained)


# --- what a miner process says and writes down meanwhile


@dataclass
class Logging:
    """A miner process, and what it was asked so far."""

    process: Any
    spool: Path
    told: list[Told] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """Its prediction log after its end, in the order of `told`."""
        counts = self.process.counts()
        assert self.process.stop() == 0
        log = read_log(segment_files(self.spool))
        assert (log.orphans, log.torn_lines) == (0, 0)
        rows = logged_once(log.rows, self.told)
        for outcome in ("answered", "abstained"):
            counted = counts.get(f'streetvision_miner_challenges_total{{outcome="{outcome}",validator="{ALICE}"}}', 0)
            assert counted == sum(row.outcome == outcome for row in rows)
        return rows


@pytest.fixture
def start_logging(start_process: Callable[..., Any], tmp_path: Path) -> Callable[..., Logging]:
    """Starts miners by the addresses of their primary and of their fallback, if any."""

    def start(primary_url: str, fallback_url: str | None) -> Logging:
        spool = tmp_path / f"spool-{time.monotonic_ns()}"
        return Logging(
            start_process(PREDICTOR_URL=primary_url, FALLBACK_URL=fallback_url, SPOOL_FOLDER=str(spool)), spool
        )

    return start


def fates(rows: list[Row]) -> set[tuple[str, str, str]]:
    return {(row.outcome, row.answered_by, row.reason) for row in rows}


PRIMARY, FALLBACK = ("answered", "primary", ""), ("answered", "fallback", "")
OUT_OF_REACH, LATE, UNUSABLE = (("abstained", "", reason) for reason in ("unreachable", "late", "unusable_answer"))


@pytest.mark.parametrize(
    ("fault", "left_alone"), [("killed", OUT_OF_REACH), ("frozen", LATE)], ids=["killed", "frozen"]
)
def test_challenges_that_a_dying_predictor_holds_are_answered_or_not_in_time_and_logged_once(
    primary: Process,
    fallback: Process,
    start_logging: Callable[..., Logging],
    fault: str,
    left_alone: tuple[str, str, str],
):
    miners = [start_logging(primary.url, url) for url in (fallback.url, primary.url, None)]

    def asking(threads: ThreadPoolExecutor, numbers: range) -> list[list[Future[Told]]]:
        images = [picture(red=True, green=False, number=number) for number in numbers]
        return [[threads.submit(ask_miner, miner.process, image) for image in images] for miner in miners]

    def note(asked: list[list[Future[Told]]]) -> None:
        for miner, futures in zip(miners, asked, strict=True):
            miner.told += [future.result() for future in futures]

    with ThreadPoolExecutor(12) as threads:
        note(asking(threads, range(4)))
        primary.freeze()
        asked = asking(threads, range(4, 8))
        time.sleep(1.0)
        assert not any(future.done() for futures in asked for future in futures)
        if fault == "killed":
            primary.kill()
        note(asked)
    primary.thaw()  # what it says now is nobody's answer any more
    primary.wait_until_ready()
    # The breaker opens at the third silence, and whoever still waits goes on to the fallback.
    assert max(one.took_s for one in miners[0].told) < 6.0
    rows = [miner.rows() for miner in miners]
    assert [fates(of_one[:4]) for of_one in rows] == [{PRIMARY}] * 3
    assert [fates(of_one[4:]) for of_one in rows] == [{FALLBACK}, {left_alone}, {left_alone}]


GARBAGE = [b"", b"<html>welcome</html>", b'{"outputs": [', [math.nan], [1.7], [0.5], [-1.0], [0.7, 0.7]]


def test_challenges_that_get_slow_answers_and_garbage_are_logged_once(
    fallback: Process, predictor: Any, start_logging: Callable[..., Logging]
):
    miners = [start_logging(predictor.url, url) for url in (fallback.url, predictor.url, None)]

    def ask_all(number: int) -> None:
        image = picture(red=True, green=False, number=number)
        with ThreadPoolExecutor(3) as threads:
            told = list(threads.map(lambda miner: ask_miner(miner.process, image), miners))
        for miner, one in zip(miners, told, strict=True):
            miner.told.append(one)

    predictor.delay_s = 3.0  # longer than it is waited for before somebody else is asked
    ask_all(0)
    predictor.delay_s = 0.0
    for number, garbage in enumerate(GARBAGE, start=1):
        if isinstance(garbage, bytes):
            predictor.answer = garbage
        else:
            predictor.say(*garbage)
        ask_all(number)
    rows = [miner.rows() for miner in miners]
    assert [fates(of_one[:1]) for of_one in rows] == [{PRIMARY}, {PRIMARY}, {PRIMARY}]
    assert [fates(of_one[1:]) for of_one in rows] == [{FALLBACK}, {UNUSABLE}, {UNUSABLE}]
