import asyncio
import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bittensor_wallet import Keypair

from streetvision.challenge_set import Challenge, ChallengeSet
from streetvision.errors import SettingsError
from streetvision.simulation import Miner, SimulationResult, simulate
from streetvision.subnet.protocol import parse_headers
from streetvision.subnet.reward import rewards

VALIDATOR = Keypair.create_from_uri("//Alice")
HOTKEY = Keypair.create_from_uri("//Bob").ss58_address

Answer = Callable[[str], tuple[int, Any]]


@pytest.fixture
def challenges(tmp_path: Path) -> ChallengeSet:
    rows: list[Challenge] = []
    for index in range(24):
        name = f"{index}-{index % 2}.jpg"
        (tmp_path / name).write_bytes(name.encode())
        rows.append(
            Challenge(
                challenge_id=f"set/{index}",
                file=name,
                image=name,
                label=index % 2,
                source=("real", "t2i", "i2i")[index % 3],
                level=index % 4,
                group=str(index),
                image_sha256="",
            )
        )
    return ChallengeSet(tmp_path, "v1", "R1", 0, "data", tuple(rows))


@pytest.fixture
def start() -> Iterator[Callable[..., Miner]]:
    """Starts miners that check signatures and answer what a function says about the picture's text."""
    with ExitStack() as stack:

        def start(answer: Answer, *, uid: int = 1) -> Miner:
            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"
                wbufsize = 1 << 16  # a reply in one packet

                def do_POST(self) -> None:
                    body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                    signed = parse_headers({name.lower(): value for name, value in self.headers.items()})
                    verified = Keypair(signed.hotkey).verify(signed.signed_text(HOTKEY), signed.signature)
                    fresh = abs(time.time_ns() - signed.nonce_ns) < 5 * 10**9
                    status, value = (
                        answer(base64.b64decode(body["image"]).decode()) if verified and fresh else (401, None)
                    )
                    reply = json.dumps({"prediction": value}).encode()
                    self.send_response(status if self.path == "/ImageSynapse" else 404)
                    self.send_header("content-length", str(len(reply)))
                    self.end_headers()
                    self.wfile.write(reply)

                def log_message(self, format: str, *args: Any) -> None:
                    pass

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return Miner(uid=uid, url=f"http://127.0.0.1:{server.server_port}", hotkey=HOTKEY)

        yield start


def truth(name: str) -> float:
    return 0.9 if name.split("-")[1].startswith("1") else 0.1


def perfect(name: str) -> tuple[int, Any]:
    return 200, truth(name)


async def play(miners: list[Miner], challenges: ChallengeSet, **changes: Any) -> SimulationResult:
    options: dict[str, Any] = {"count": 30, "seed": 1, "time_scale": 0}
    return await simulate(miners, challenges, VALIDATOR, **(options | changes))


async def test_a_perfect_miner_earns_what_the_replay_says(start: Callable[..., Miner], challenges: ChallengeSet):
    result = await play([start(perfect)], challenges, count=130)
    [miner] = result.miners
    assert (miner.answered, miner.abstained, miner.errors) == (130, 0, {})
    assert miner.accuracy == miner.mcc == 1.0
    predictions = np.array([event.prediction for event in result.events])
    labels = np.array([event.label for event in result.events], dtype=np.uint8)
    expected = rewards(predictions, labels)
    assert [event.reward for event in result.events] == expected.tolist()
    assert miner.mean_reward == pytest.approx(expected.mean())
    assert miner.mean_reward_after_burn_in == pytest.approx(1.0)
    score = 0.0
    for reward in expected:
        score = 0.05 * reward + 0.95 * score
    assert miner.score == pytest.approx(score, abs=1e-5)
    assert miner.latency_p50_ms is not None
    assert miner.latency_p99_ms is not None
    assert 0 < miner.latency_p50_ms <= miner.latency_p99_ms < 1000


async def test_tables_add_up(start: Callable[..., Miner], challenges: ChallengeSet):
    result = await play([start(lambda name: (200, truth(name) if int(name.split("-")[0]) % 4 else -1.0))], challenges)
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
async def test_what_is_no_answer_earns_nothing(
    start: Callable[..., Miner], challenges: ChallengeSet, answer: Answer, error: str
):
    result = await play([start(answer)], challenges, count=2, timeout_s=0.2)
    [miner] = result.miners
    assert (miner.answered, miner.abstained, miner.errors) == (0, 0, {error: 2})
    assert (miner.mean_reward, miner.score) == (0.0, 0.0)
    assert miner.accuracy is miner.mcc is miner.latency_p50_ms is None


async def test_an_abstention_is_no_error(start: Callable[..., Miner], challenges: ChallengeSet):
    [miner] = (await play([start(lambda _: (200, -1.0))], challenges, count=3)).miners
    assert (miner.answered, miner.abstained, miner.errors, miner.mean_reward) == (0, 3, {}, 0.0)


async def test_a_miner_that_is_down_does_not_stop_the_others(start: Callable[..., Miner], challenges: ChallengeSet):
    down = Miner(uid=7, url="http://127.0.0.1:1", hotkey=HOTKEY)
    result = await play([down, start(perfect)], challenges, count=5)
    assert result.miners[0].errors == {"ConnectError": 5}
    assert result.miners[1].answered == 5


async def test_the_whole_audience_is_asked_at_once(start: Callable[..., Miner], challenges: ChallengeSet):
    def slow(name: str) -> tuple[int, Any]:
        time.sleep(0.2)
        return perfect(name)

    begun = time.monotonic()
    await play([start(slow, uid=uid) for uid in range(4)], challenges, count=1)
    assert time.monotonic() - begun < 0.5


async def test_a_deck_of_many_miners_is_dealt_evenly(start: Callable[..., Miner], challenges: ChallengeSet):
    one = start(perfect)
    miners = [Miner(uid=uid, url=one.url, hotkey=HOTKEY) for uid in range(100, 115)]
    steps: list[int] = []
    result = await play(miners, challenges, count=6, on_step=lambda events: steps.append(len(events)))
    assert steps == [10] * 6
    assert set(Counter(event.uid for event in result.events).values()) == {4}


async def test_the_order_is_seeded_and_begins_anew_when_the_set_is_used_up(
    start: Callable[..., Miner], challenges: ChallengeSet
):
    miner = start(perfect)

    async def order(seed: int) -> list[str]:
        return [event.challenge_id for event in (await play([miner], challenges, count=48, seed=seed)).events]

    first = await order(1)
    assert first == await order(1)
    assert first != await order(2)
    assert len(set(first[:24])) == len(set(first[24:])) == 24
    assert first[:24] != first[24:]


async def test_the_pause_is_divided_by_the_time_scale(start: Callable[..., Miner], challenges: ChallengeSet):
    begun = time.monotonic()
    await play([start(perfect)], challenges, count=3, time_scale=600)
    assert 0.2 <= time.monotonic() - begun < 0.6


async def test_a_result_survives_json(start: Callable[..., Miner], challenges: ChallengeSet):
    result = await play([start(lambda _: (200, float("nan"))), start(perfect, uid=2)], challenges, count=2)
    text = json.dumps(result.model_dump(mode="json"), allow_nan=False)
    again = SimulationResult.model_validate_json(text)
    assert again.miners == result.miners
    assert all(np.isnan(event.prediction) for event in again.events if event.uid == 1)


async def test_a_cancelled_run_leaves_nothing_running(start: Callable[..., Miner], challenges: ChallengeSet):
    def slow(name: str) -> tuple[int, Any]:
        time.sleep(0.1)
        return perfect(name)

    before = asyncio.all_tasks()
    run = asyncio.create_task(play([start(slow)], challenges))
    await asyncio.sleep(0.15)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("miners", "changes"),
    [
        ([], {}),
        ([1, 1], {}),
        ([1], {"count": 0}),
        ([1], {"time_scale": -1}),
    ],
)
async def test_a_simulation_without_sense_is_refused(
    challenges: ChallengeSet, miners: list[int], changes: dict[str, Any]
):
    with pytest.raises(SettingsError, match="expected"):
        await play([Miner(uid=uid, url="http://m", hotkey=HOTKEY) for uid in miners], challenges, **changes)


def test_a_miner_is_parsed_from_a_command_line():
    assert Miner.parse(f"http://127.0.0.1:8091/={HOTKEY}", uid=3) == Miner(
        uid=3, url="http://127.0.0.1:8091", hotkey=HOTKEY
    )


@pytest.mark.parametrize("text", ["", HOTKEY, f"127.0.0.1:8091={HOTKEY}", "http://m:1=5Grw", f"http://={HOTKEY}"])
def test_a_miner_of_another_form_is_refused(text: str):
    with pytest.raises(SettingsError, match="expected URL=HOTKEY"):
        Miner.parse(text, uid=0)
