import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from streetvision.challenge_set import ChallengeSet
from streetvision.errors import DataError, SettingsError
from streetvision.simulation import (
    Miner,
    SimulatedMiner,
    Simulation,
    SimulationResult,
    competitors,
    simulate,
    without_pictures,
)
from streetvision.subnet.reward import rewards
from tests.unit.simulation.served import HOTKEY, VALIDATOR, Answer, Served, perfect, truth

Start = Callable[..., Miner]


async def play(miners: list[Any], challenges: ChallengeSet, **changes: Any) -> SimulationResult:
    options: dict[str, Any] = {"count": 30, "seed": 1, "time_scale": 0}
    return await simulate(miners, challenges, VALIDATOR, **(options | changes))


async def test_a_perfect_miner_earns_what_the_replay_says(start: Start, challenges: ChallengeSet):
    result = await play([start(perfect)], challenges, count=130)
    [miner] = result.miners
    assert (miner.asked, miner.answered, miner.abstained, miner.errors) == (130, 130, 0, {})
    assert miner.accuracy == miner.mcc == 1.0
    predictions = np.array([event.prediction for event in result.events])
    labels = np.array([event.label for event in result.events], dtype=np.uint8)
    expected = rewards(predictions, labels)
    assert [event.reward for event in result.events] == expected.tolist()
    assert miner.mean_reward == pytest.approx(expected.mean())
    assert miner.mean_reward_after_burn_in == pytest.approx(1.0)
    assert miner.percentile == pytest.approx(100.0)
    score = 0.0
    for reward in expected:
        score = 0.05 * reward + 0.95 * score
    assert miner.score == pytest.approx(score, abs=1e-5)
    assert (miner.rank, miner.weight, miner.pay_share, result.weights) == (1, 65535, 1.0, {1: 65535})
    assert miner.latency_p50_ms is not None
    assert miner.latency_p99_ms is not None
    assert 0 < miner.latency_p50_ms <= miner.latency_p99_ms < 1000


async def test_tables_add_up(start: Start, challenges: ChallengeSet):
    result = await play(
        [start(lambda image: (200, truth(image) if int(image.split(b"-")[0]) % 4 else -1.0))], challenges
    )
    [miner] = result.miners
    assert [cell.name for cell in miner.levels] == ["0", "1", "2", "3"]
    assert [cell.name for cell in miner.sources] == ["i2i", "real", "t2i"]
    for cells in (miner.levels, miner.sources):
        assert sum(cell.asked for cell in cells) == 30
        assert sum(cell.answered for cell in cells) == miner.answered < 30
    assert miner.levels[0].answered == 0
    assert miner.levels[0].accuracy is None
    assert miner.levels[1].accuracy == 1.0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda _: (403, None), "HTTP 403"),
        (lambda _: (500, 0.9), "HTTP 500"),
        (lambda _: (200, 1.7), "prediction outside [0, 1]"),
        (lambda _: (200, float("nan")), "prediction outside [0, 1]"),
        (lambda _: time.sleep(0.3) or (200, 0.9), "timeout"),
    ],
)
async def test_what_is_no_answer_earns_nothing(start: Start, challenges: ChallengeSet, answer: Answer, error: str):
    result = await play([start(answer)], challenges, count=2, timeout_s=0.2)
    [miner] = result.miners
    assert (miner.answered, miner.abstained, miner.errors) == (0, 0, {error: 2})
    assert (miner.mean_reward, miner.score) == (0.0, 0.0)
    assert miner.accuracy is miner.mcc is miner.latency_p50_ms is None
    assert result.weights == {0: 65535}
    assert miner.weight == 0


async def test_an_abstention_is_no_error(start: Start, challenges: ChallengeSet):
    [miner] = (await play([start(lambda _: (200, -1.0))], challenges, count=3)).miners
    assert (miner.answered, miner.abstained, miner.errors, miner.mean_reward) == (0, 3, {}, 0.0)


async def test_a_miner_that_is_down_does_not_stop_the_others(start: Start, challenges: ChallengeSet):
    down = Miner(uid=7, url="http://127.0.0.1:1", hotkey=HOTKEY)
    result = await play([down, start(perfect)], challenges, count=5)
    assert result.miners[0].errors == {"cannot connect": 5}
    assert result.miners[1].answered == 5
    assert (result.miners[0].rank, result.miners[1].rank) == (2, 1)


async def test_the_whole_audience_is_asked_at_once(start: Start, challenges: ChallengeSet):
    def slow(image: bytes) -> tuple[int, Any]:
        time.sleep(0.2)
        return perfect(image)

    begun = time.monotonic()
    await play([start(slow, uid=uid) for uid in range(4)], challenges, count=1)
    assert time.monotonic() - begun < 0.5


async def test_steps_go_on_until_every_miner_got_its_challenges(start: Start, challenges: ChallengeSet):
    one = start(perfect)
    miners = [Miner(uid=uid, url=one.url, hotkey=HOTKEY) for uid in range(100, 115)]
    steps: list[int] = []
    result = await play(miners, challenges, count=4, on_step=lambda events: steps.append(len(events)))
    assert steps == [10] * 6
    assert set(Counter(event.uid for event in result.events).values()) == {4}
    assert (result.steps, result.complete) == (6, True)


async def test_among_competitors_a_miner_gets_as_many_challenges_and_the_validator_makes_more(challenges: ChallengeSet):
    others = competitors(99, first_uid=2, seed=0)
    simulation = Simulation([SimulatedMiner(uid=1, accuracy=1.0)], challenges, count=20, seed=0, competitors=others)
    await simulation.run()
    result = simulation.result()
    assert 20 <= result.miners[0].asked <= 21
    assert 190 <= result.steps <= 201
    asked = [one.asked for one in result.competitors]
    assert sum(asked) + result.miners[0].asked == 10 * result.steps
    assert max(asked) - min(asked) <= 1
    assert {event.uid for event in result.events} == {1}
    by_weight = sorted(result.competitors, key=lambda one: -one.weight)
    assert [one.score for one in by_weight] == sorted((one.score for one in result.competitors), reverse=True)
    assert set(result.weights) <= set(range(1, 101))
    assert result.miners[0].pay_share == pytest.approx(result.weights[1] / sum(result.weights.values()))
    assert result.miners[0].rank == 1 + sum(one.score > result.miners[0].score for one in result.competitors)


async def test_challenges_are_drawn_from_the_whole_set_every_time(challenges: ChallengeSet):
    async def order(seed: int) -> list[str]:
        result = await play([SimulatedMiner(uid=1, accuracy=1.0)], challenges, count=240, seed=seed)
        return [event.challenge_id for event in result.events]

    first = await order(1)
    assert first == await order(1)
    assert first != await order(2)
    counts = Counter(first)
    assert set(counts) == {row.challenge_id for row in challenges.rows}
    assert sum((count - 10) ** 2 / 10 for count in counts.values()) < 50  # chi2 of 23 degrees, p = 0.0009
    assert len(set(first[:24])) < 24  # the set is not gone through in an order


async def test_the_pause_is_divided_by_the_time_scale(start: Start, challenges: ChallengeSet):
    begun = time.monotonic()
    await play([start(perfect)], challenges, count=3, time_scale=600)
    assert 0.2 <= time.monotonic() - begun < 0.6


async def test_a_result_survives_json(start: Start, challenges: ChallengeSet):
    result = await play([start(lambda _: (200, float("nan"))), start(perfect, uid=2)], challenges, count=2)
    text = json.dumps(result.model_dump(mode="json"), allow_nan=False)
    again = SimulationResult.model_validate_json(text)
    assert again.miners == result.miners
    assert again.weights == result.weights
    assert all(np.isnan(event.prediction) for event in again.events if event.uid == 1)


async def test_a_cancelled_run_leaves_nothing_running_and_tells_what_it_reached(start: Start, challenges: ChallengeSet):
    def slow(image: bytes) -> tuple[int, Any]:
        time.sleep(0.05)
        return perfect(image)

    before = asyncio.all_tasks()
    simulation = Simulation([start(slow)], challenges, count=30, seed=1, organic_per_step=2.0)
    run = asyncio.create_task(simulation.run(VALIDATOR, time_scale=600))
    while simulation.progress < 2:
        await asyncio.sleep(0.02)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert asyncio.all_tasks() == before
    result = simulation.result()
    assert not result.complete
    assert 2 <= result.miners[0].asked == len(result.events) < 30
    assert result.miners[0].score > 0


async def test_a_picture_that_is_gone_is_one_sentence(start: Start, challenges: ChallengeSet):
    (challenges.root / "3-1.jpg").unlink()
    with pytest.raises(DataError, match="cannot read `3-1.jpg`"):
        await play([start(perfect)], challenges, count=200)


async def test_organic_traffic_is_counted_apart_and_earns_nothing(
    served: Callable[..., Served], challenges: ChallengeSet
):
    miners = [served(perfect, uid=1), served(lambda _: (503, None), uid=2)]
    simulation = Simulation([one.miner for one in miners], challenges, count=40, seed=3, organic_per_step=0.5)
    await simulation.run(VALIDATOR)
    alone = await play([one.miner for one in miners], challenges, count=40, seed=3)
    result = simulation.result()
    for one, miner, without in zip(miners, result.miners, alone.miners, strict=True):
        assert miner.organic is not None
        assert 8 <= miner.organic.asked <= 35  # poisson of 20
        assert len(one.requests) == 40 + miner.organic.asked + 40
        assert (miner.asked, miner.score, miner.errors) == (40, without.score, without.errors)
        assert without.organic is None
    ours, theirs = (miner.organic for miner in result.miners)
    assert (ours.answered, ours.errors) == (ours.asked, {})
    assert (theirs.answered, theirs.errors, theirs.latency_p50_ms) == (0, {"HTTP 503": theirs.asked}, None)
    assert ours.latency_p99_ms > 0


async def test_a_miner_cannot_tell_organic_traffic_apart(served: Callable[..., Served], challenges: ChallengeSet):
    miner = served(perfect)
    await play([miner.miner], challenges, count=30, seed=3)
    scored = len(miner.requests)
    simulation = Simulation([miner.miner], challenges, count=30, seed=3, organic_per_step=1.0)
    await simulation.run(VALIDATOR)
    both = miner.requests[scored:]
    assert len(both) > 45
    constant = ("name", "timeout", "bt_header_dendrite_hotkey", "bt_header_dendrite_uuid", "header_size", "user-agent")
    for name in constant:
        assert len({request.headers[name] for request in both}) == 1
    assert {request.path for request in both} == {"/ImageSynapse"}
    assert len({tuple(request.headers) for request in both}) == 1
    assert len({(*request.body, *request.body["dendrite"], *request.body["axon"]) for request in both}) == 1
    nonces = [int(request.headers["bt_header_dendrite_nonce"]) for request in both]
    assert nonces == sorted(nonces)  # none overtakes another one: a miner would refuse it
    assert simulation.result().miners[0].errors == simulation.result().miners[0].organic.errors == {}


async def test_an_organic_picture_goes_to_three_miners_one_after_another_after_a_plain_transform(
    served: Callable[..., Served], challenges: ChallengeSet
):
    def slow(image: bytes) -> tuple[int, Any]:
        time.sleep(0.02)
        return perfect(image)

    miners = [served(slow, uid=uid) for uid in range(1, 6)]
    simulation = Simulation([one.miner for one in miners], challenges, count=1, seed=8, organic_per_step=1.0)
    await simulation.run(VALIDATOR)
    assert sum(miner.organic.asked for miner in simulation.result().miners) == 3
    sent = sorted(
        (int(request.headers["bt_header_dendrite_nonce"]), request.image) for one in miners for request in one.requests
    )
    [organic] = [image for image, times in Counter(image for _, image in sent).items() if times == 3]
    assert int(organic.split(b"-")[0]) % 4 == 0  # level 0
    at = [nonce for nonce, image in sent if image == organic]
    assert min(after - before for before, after in pairwise(at)) > 0.02e9


async def test_every_pause_is_the_subnet_s_divided_by_the_time_scale(
    challenges: ChallengeSet, monkeypatch: pytest.MonkeyPatch
):
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def count(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", count)
    miners = [SimulatedMiner(uid=uid, accuracy=1.0) for uid in range(1, 6)]
    simulation = Simulation(miners, challenges, count=200, seed=8, organic_per_step=1.0)
    await simulation.run(time_scale=10.0)
    steps = [seconds for seconds in pauses if seconds == 6.0]
    others = sorted(seconds for seconds in pauses if seconds != 6.0)
    assert len(steps) == 199
    tasks = sum(miner.organic.asked for miner in simulation.result().miners) // 3
    assert len(others) == 4 * tasks  # when it comes, and before each of three
    assert 0 <= others[0] < 0.2
    assert 5.5 < others[-1] < 6.0
    short = [seconds for seconds in others if 0.01 <= seconds <= 0.2]
    assert len(short) >= 3 * tasks
    assert sum(short) / len(short) == pytest.approx(0.105, abs=0.01)


@pytest.mark.parametrize(("regime", "route"), [("R0", "/ExtendedImageSynapse"), ("R1", "/ImageSynapse")])
async def test_a_regime_has_its_route_and_its_exponent(
    served: Callable[..., Served], challenges: ChallengeSet, regime: str, route: str
):
    miner = served(lambda image: (200, 0.9))
    simulation = Simulation([miner.miner], challenges, count=40, seed=1, regime=regime)
    await simulation.run(VALIDATOR)
    result = simulation.result()
    assert {request.path for request in miner.requests} == {route}
    assert all(("model_url" in request.body) == (regime == "R0") for request in miner.requests)
    labels = np.array([event.label for event in result.events], dtype=np.uint8)
    cubed = rewards(np.full(40, 0.9), labels)
    expected = np.cbrt(cubed) if regime == "R0" else cubed
    assert [event.reward for event in result.events] == pytest.approx(expected.tolist(), abs=1e-12)
    assert result.regime == regime


async def test_without_a_deck_miners_are_sampled_afresh(challenges: ChallengeSet):
    miners = [SimulatedMiner(uid=uid, accuracy=1.0) for uid in range(1, 31)]
    spread = {}
    for regime in ("R0", "R1"):
        simulation = Simulation(miners, challenges, count=30, seed=1, regime=regime)
        await simulation.run()
        asked = [miner.asked for miner in simulation.result().miners]
        spread[regime] = max(asked) - min(asked)
    assert spread["R1"] <= 1
    assert spread["R0"] > 5


@pytest.mark.parametrize(
    ("regime", "sentence"),
    [
        ("R2", "was drawn for R1, whose pictures are others"),
        ("R3", "was drawn for R1, whose pictures are others"),
        ("R4", "`R4` is halted: its validators send no challenges"),
        ("R9", "regime is `R9`, expected one of"),
    ],
)
async def test_a_regime_with_other_pictures_or_none_is_refused(challenges: ChallengeSet, regime: str, sentence: str):
    with pytest.raises(SettingsError, match=sentence):
        Simulation([SimulatedMiner(uid=1, accuracy=1.0)], challenges, count=1, seed=0, regime=regime)


async def test_the_set_of_a_halted_regime_is_refused(challenges: ChallengeSet):
    with pytest.raises(SettingsError, match="halted"):
        await play([SimulatedMiner(uid=1, accuracy=1.0)], replace(challenges, regime="R4"))


@pytest.mark.parametrize("regime", ["R0", "R1", "R2", "R3"])
async def test_challenges_without_pictures_have_the_shares_of_the_regime(regime: str):
    rows = without_pictures(regime, seed=0).rows
    labels = Counter(row.label for row in rows)
    assert abs(labels[1] / len(rows) - 0.5) < 0.04
    assert {row.level for row in rows} == ({0} if regime == "R3" else {0, 1, 2, 3})
    result = await play([SimulatedMiner(uid=1, accuracy=0.9)], without_pictures(regime, seed=0), count=50)
    assert result.miners[0].asked == 50


async def test_the_same_seed_gives_the_same_network():
    async def scores(seed: int) -> list[float]:
        simulation = Simulation(
            [SimulatedMiner(uid=1, accuracy=0.9)],
            without_pictures("R1", seed=0),
            count=10,
            seed=seed,
            competitors=competitors(20, first_uid=2, seed=seed),
        )
        await simulation.run()
        return [one.score for one in simulation.result().competitors]

    assert await scores(1) == await scores(1)
    assert await scores(1) != await scores(2)


async def test_a_miner_with_an_address_needs_a_key(challenges: ChallengeSet):
    simulation = Simulation([Miner(uid=1, url="http://m", hotkey=HOTKEY)], challenges, count=1, seed=0)
    with pytest.raises(SettingsError, match="no key was given"):
        await simulation.run()


@pytest.mark.parametrize(
    ("miners", "changes"),
    [
        ([], {}),
        ([1, 1], {}),
        ([1], {"count": 0}),
        ([1], {"time_scale": -1}),
        ([1], {"time_scale": float("nan")}),
    ],
)
async def test_a_simulation_without_sense_is_refused(
    challenges: ChallengeSet, miners: list[int], changes: dict[str, Any]
):
    with pytest.raises(SettingsError, match="expected"):
        await play([Miner(uid=uid, url="http://m", hotkey=HOTKEY) for uid in miners], challenges, **changes)


@pytest.mark.parametrize("organic", [-0.1, float("nan"), 1e9])
def test_a_number_of_organic_tasks_without_sense_is_refused(challenges: ChallengeSet, organic: float):
    with pytest.raises(SettingsError, match="expected 0 to 100"):
        Simulation([SimulatedMiner(uid=1, accuracy=1.0)], challenges, count=1, seed=0, organic_per_step=organic)


def test_organic_traffic_needs_plain_pictures(challenges: ChallengeSet):
    turned = replace(challenges, rows=tuple(row for row in challenges.rows if row.level))
    with pytest.raises(SettingsError, match="no challenge of level 0"):
        Simulation([SimulatedMiner(uid=1, accuracy=1.0)], turned, count=1, seed=0, organic_per_step=1)
