"""What a validator records of miners, good and bad."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from bittensor_wallet import Keypair

from streetvision.subnet.dendrite import Answer, Dendrite
from streetvision.subnet.protocol import parse_headers

HOTKEY = Keypair.create_from_uri("//Bob").ss58_address
Reply = Callable[[dict[str, str]], tuple[int, bytes]]


async def ask(reply: Reply, *, times: int = 1, timeout_s: float = 5.0) -> list[Answer]:
    """The answers to so many requests at once."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().splitlines()[1:]
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
                await reader.readexactly(int(headers["content-length"]))
                await asyncio.sleep(0.01)
                status, body = reply(headers)
                if status:
                    writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                    await writer.drain()
                else:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Dendrite(Keypair.create_from_uri("//Alice"), route="/ImageSynapse", timeout_s=timeout_s) as one:
        return await asyncio.gather(*(one.ask(url, HOTKEY, b"picture") for _ in range(times)))


def says(value: Any) -> Reply:
    return lambda _: (200, json.dumps({"prediction": value}).encode())


@pytest.mark.parametrize(
    ("reply", "prediction", "error"),
    [
        (says(0.77), 0.77, ""),
        (says("0.7"), 0.7, ""),
        (says(-1), -1.0, ""),
        (says(None), -1.0, ""),
        (says(1.7), 1.7, "prediction outside [0, 1]"),
        (lambda _: (200, b"no json"), -1.0, ""),
        (lambda _: (403, b'{"prediction": 0.9}'), -1.0, "HTTP 403"),
        (lambda _: (302, b""), -1.0, "HTTP 302"),
        (lambda _: (0, b""), -1.0, "connection broke: RemoteProtocolError"),
    ],
)
async def test_what_is_recorded(reply: Reply, prediction: float, error: str):
    [answer] = await ask(reply)
    assert (answer.prediction, answer.error) == (prediction, error)
    assert answer.latency_ms > 0


async def test_a_miner_that_takes_too_long_is_given_up():
    def slow(_: dict[str, str]) -> tuple[int, bytes]:
        time.sleep(0.15)
        return 200, b"{}"

    [answer] = await ask(slow, timeout_s=0.05)
    assert (answer.prediction, answer.error) == (-1.0, "timeout")


async def test_nobody_there_is_said():
    async with Dendrite(Keypair.create_from_uri("//Alice"), route="/ImageSynapse", timeout_s=1) as dendrite:
        answer = await dendrite.ask("http://127.0.0.1:1", HOTKEY, b"")
    assert (answer.prediction, answer.error) == (-1.0, "cannot connect")


async def test_requests_at_the_same_time_reach_a_miner_in_the_order_of_their_nonces():
    nonces: list[int] = []

    def note(headers: dict[str, str]) -> tuple[int, bytes]:
        nonces.append(parse_headers(headers).nonce_ns)
        return 200, b'{"prediction": 0.5}'

    answers = await ask(note, times=12)
    assert [answer.prediction for answer in answers] == [0.5] * 12
    assert nonces == sorted(nonces)
    assert max(answer.latency_ms for answer in answers) < 100  # waiting for one's turn is not the miner's latency
