"""Predictors for the miner's tests: scripted ones that misbehave, and real ones in processes of their own."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.brightness import write_model_directory
from tests.ports import free_ports


@dataclass(frozen=True)
class Say:
    """What a scripted predictor does with one request: it waits, writes bytes and perhaps hangs up."""

    data: bytes = b""
    after_s: float = 0.0
    hang_up: bool = False


def reply(value: Any, *, status: int = 200, headers: str = "") -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return f"HTTP/1.1 {status} Text\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def v2(value: Any, **changes: Any) -> dict[str, Any]:
    """A reply of protocol v2 with one value."""
    output = {"name": "probability", "datatype": "FP32", "shape": [1], "data": [value]}
    output |= {name: changes.pop(name) for name in list(changes) if name in output}
    return {"model_name": "roadwork", "model_version": "abc", "id": "1", "outputs": [output]} | changes


def good(value: float = 0.77, *, after_s: float = 0.0) -> Say:
    return Say(reply(v2(value)), after_s)


HANG = Say(after_s=3600.0)
HANG_UP = Say(hang_up=True)
BREAK_OFF = Say(reply(v2(0.77))[:-20], hang_up=True)
GARBAGE = Say(reply(v2(float("nan"))))
FAIL = Say(reply({"error": "engine failed"}, status=500))
BUSY = Say(reply({"error": "too many"}, status=503, headers="retry-after: 0\r\n"))
REFUSE = Say(reply({"error": "no picture"}, status=400))


@dataclass
class Scripted:
    """A predictor that does with one request after the other what its script says; the last line repeats."""

    script: list[Say]
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0
    lost: int = 0
    """Connections that the other side closed while it waited."""
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((line for line in head.lower().split("\r\n") if line.startswith("content-length:")), ":0")
        body = await reader.readexactly(int(length.split(":")[1]))
        say = self.script[min(len(self.requests), len(self.script) - 1)]
        self.requests.append((head, body))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait([leaving], timeout=say.after_s)
        if leaving.done():
            self.lost += 1
            return False
        leaving.cancel()
        await asyncio.wait([leaving])
        writer.write(say.data)
        return not say.hang_up


@asynccontextmanager
async def scripted(*script: Say) -> AsyncIterator[Scripted]:
    predictor = Scripted(list(script))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await predictor.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    predictor.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield predictor
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def channel_model(folder: Path, channel: int) -> Path:
    """A model directory whose model says how bright one channel of a picture is: above a quarter is roadwork."""
    return write_model_directory(folder, channels=[channel])


# A process that has imported all that a predictor needs, and whose children serve: a dead one is replaced at once.
_SUPERVISOR = """
import os, sys
from serving.predictor.server import serve
from serving.predictor.settings import Settings
while True:
    child = os.fork()
    if not child:
        serve(Settings.from_arguments(sys.argv[1:]))
        break
    print(child, flush=True)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
"""


@dataclass
class Process:
    """A real predictor that comes back after its end, as in a pod."""

    supervisor: "subprocess.Popen[str]"
    port: int
    grpc_port: int
    log: Path
    pid: int = 0

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"
        self._read_pid()

    def _read_pid(self) -> None:
        assert self.supervisor.stdout is not None
        self.pid = int(self.supervisor.stdout.readline() or pytest.fail(self.log.read_text()[-2000:]))

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s and self.supervisor.poll() is None:
            try:
                if httpx.get(f"{self.url}/v2/health/ready", timeout=1, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.01)
        pytest.fail(f"predictor is not ready: {self.log.read_text()[-2000:]}")

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kills it, and returns when its successor is about to start."""
        os.kill(self.pid, signal.SIGKILL)
        self._read_pid()

    def stop(self) -> None:
        self.supervisor.kill()
        self.supervisor.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self.supervisor.stdout is not None:
            self.supervisor.stdout.close()


def start(model_dir: Path, log: Path, *options: object) -> Process:
    port, grpc_port = free_ports(2)
    given = ["--model-dir", model_dir, "--http_port", port, "--grpc_port", grpc_port, "--host", "127.0.0.1"]
    command = [sys.executable, "-c", _SUPERVISOR, *map(str, [*given, "--threads", 1, *options])]
    with log.open("wb") as file:
        supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
    return Process(supervisor, port, grpc_port, log)
