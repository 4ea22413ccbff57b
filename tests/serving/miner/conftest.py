"""A real edge on a real port, with a predictor that speaks protocol v2 and says what a test tells it to."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from bittensor_wallet import Keyfile, Keypair

from serving.miner.app import Accepted, Edge, Finished
from serving.miner.forward import Forward
from serving.miner.http_server import Limits
from serving.miner.metagraph import FileMetagraph
from serving.miner.metrics import Metrics
from serving.miner.nonces import LocalNonces, NonceStore
from serving.miner.predictor import Predictor
from serving.miner.server import MinerServer, listen
from serving.miner.settings import PREFIX
from serving.miner.verification import CallerPolicy, Verifier
from streetvision.subnet.protocol import build_request

VALIDATOR = Keypair.create_from_uri("//Alice")
MINER = Keypair.create_from_uri("//Bob")
NO_PERMIT = Keypair.create_from_uri("//Charlie")
LOW_STAKE = Keypair.create_from_uri("//Dave")
STRANGER = Keypair.create_from_uri("//Eve")
PICTURE = b"\xff\xd8 not really a picture: the edge must not care \xff\xd9"


def v2(*values: float) -> dict[str, Any]:
    output = {"name": "probability", "datatype": "FP32", "shape": [len(values)], "data": list(values)}
    return {"model_name": "roadwork", "model_version": "0123456789ab", "outputs": [output]}


@dataclass
class StandIn:
    """A predictor of protocol v2 whose answers are set by the test."""

    answer: Any = field(default_factory=lambda: v2(0.77))
    status: int = 200
    delay_s: float = 0.0
    hang_up: int = 0  # how many requests are met by a closed connection
    requests: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    def pictures(self) -> list[bytes]:
        """What it was asked about."""
        return [base64.b64decode(body["inputs"][0]["data"][0]) for _, body in self.requests]

    def say(self, *values: float) -> None:
        self.answer = v2(*values)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # a reply in one packet

        def do_GET(self) -> None:
            self.reply({"ready": stand_in.status == 200})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            stand_in.requests.append((self.path, json.loads(body)))
            time.sleep(stand_in.delay_s)
            if stand_in.hang_up:
                stand_in.hang_up -= 1
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.reply(stand_in.answer)

        def reply(self, value: Any) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(stand_in.status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield stand_in
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def predictor(stand_in: StandIn) -> StandIn:
    """The stand-in as if it were new."""
    fresh = StandIn(url=stand_in.url)
    vars(stand_in).update(vars(fresh))
    return stand_in


def write_metagraph(folder: Path) -> Path:
    callers = [(VALIDATOR, 5000.0, True), (MINER, 1.0, False), (NO_PERMIT, 9000.0, False), (LOW_STAKE, 10.0, True)]
    neurons = [
        {"uid": uid, "hotkey": key.ss58_address, "stake": stake, "permit": permit, "ip": "127.0.0.1", "port": 8091}
        for uid, (key, stake, permit) in enumerate(callers)
    ]
    file = folder / "metagraph.json"
    file.write_text(json.dumps(neurons))
    return file


class Validator:
    """Signs requests to one edge and sends them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(trust_env=False, timeout=20)

    def request(self, *, keypair: Keypair = VALIDATOR, image: bytes = PICTURE, **changes: Any) -> Any:
        arguments: dict[str, Any] = {
            "route": "/ImageSynapse",
            "sender": keypair.ss58_address,
            "receiver": MINER.ss58_address,
            "uuid": "a session",
            "nonce_ns": time.time_ns(),
            "sign": keypair.sign,
            "host": "127.0.0.1",
            "port": 8091,
        }
        return build_request(image, **(arguments | changes))

    def send(self, headers: dict[str, str], body: bytes, *, route: str = "/ImageSynapse") -> httpx.Response:
        return self.client.post(self.url + route, headers=headers, content=body)

    def ask(self, **changes: Any) -> httpx.Response:
        return self.send(*self.request(**changes), route=changes.get("route", "/ImageSynapse"))


def counts(text: str) -> dict[str, float]:
    """The values of metrics in Prometheus' text format."""
    lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


@dataclass
class Journal:
    """What the edge writes down."""

    accepted: list[Accepted] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    delay_s: float = 0.0

    async def accept(self, record: Accepted) -> None:
        await asyncio.sleep(self.delay_s)
        self.accepted.append(record)

    def finish(self, record: Finished) -> None:
        self.finished.append(record)


@dataclass(frozen=True)
class Miner:
    """One edge under test."""

    validator: Validator
    metrics: Metrics
    operator: str
    metagraph_file: Path
    journal: Journal
    edge: Edge
    verifier: Verifier
    server: MinerServer
    stop: Callable[[], None]
    before: dict[str, float] = field(default_factory=dict)

    def counts(self) -> dict[str, float]:
        return counts(self.metrics.render().decode())

    def counted(self, name: str) -> float:
        """How much a metric grew in this test."""
        return self.counts().get(name, 0.0) - self.before.get(name, 0.0)

    def refused(self, reason: str) -> float:
        """How many requests were refused for that reason in this test."""
        return self.counted(f'streetvision_miner_refused_total{{reason="{reason}"}}')


@contextmanager
def starting(
    folder: Path,
    predictor_url: str,
    *,
    nonces: NonceStore | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
    drain_s: float = 0.0,
    **changes: Any,
) -> Iterator[Miner]:
    """A miner in a thread of its own; `changes` are those of `Edge` and `Limits`."""
    limits = {"body_timeout_s": 0.3, "head_timeout_s": 0.5} | changes
    limits = {name: limits.pop(name) for name in [one.name for one in fields(Limits)] if name in limits}
    options = {"body_limit_bytes": 100_000, "answer_deadline_s": 8.5}
    options |= {name: value for name, value in changes.items() if name in options}
    metagraph_file = write_metagraph(folder)
    policy = CallerPolicy(minimum_stake=100.0)
    nonces = nonces or LocalNonces(folder / "nonces")
    verifier = Verifier([MINER.ss58_address], FileMetagraph(metagraph_file), nonces, policy=policy, clock_ns=clock_ns)
    metrics, journal = Metrics(), Journal()
    loop, stop = uvloop.new_event_loop(), asyncio.Event()
    started = threading.Event()
    made: list[Any] = []

    async def main() -> None:
        async with Forward(Predictor(predictor_url, model_name="roadwork"), observe=metrics.attempted) as forward:
            edge = Edge(verifier, forward, metrics, journal=journal, **options)
            ready = {"predictor": forward.ready}
            server = MinerServer(
                edge, metrics, nonces, ready=ready, hotkeys=lambda: verifier.receivers, limits=Limits(**limits)
            )
            public, private = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
            made.extend([edge, server, *(f"http://127.0.0.1:{one.getsockname()[1]}" for one in (public, private))])
            started.set()
            await server.run(public, private, stop=stop, drain_s=drain_s)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    started.wait(10)
    edge, server, url, operator = made
    validator = Validator(url)

    def ask_to_stop() -> None:
        loop.call_soon_threadsafe(stop.set)

    with validator.client:
        yield Miner(validator, metrics, operator, metagraph_file, journal, edge, verifier, server, ask_to_stop)
    ask_to_stop()
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def shared_miner(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Miner]:
    with starting(tmp_path_factory.mktemp("miner"), stand_in.url) as miner:
        yield miner


@pytest.fixture
def miner(shared_miner: Miner, predictor: StandIn) -> Miner:
    """The module's miner, whose metrics and journal count from here."""
    shared_miner.journal.accepted.clear()
    shared_miner.journal.finished.clear()
    return replace(shared_miner, before=shared_miner.counts())


@pytest.fixture
def start_miner(predictor: StandIn, tmp_path: Path) -> Iterator[Callable[..., Miner]]:
    """Starts miners of a test's own."""
    with ExitStack() as stack:

        def start(predictor_url: str = predictor.url, **changes: Any) -> Miner:
            return stack.enter_context(starting(tmp_path, predictor_url, **changes))

        yield start


# --- the miner as a process


@dataclass(frozen=True)
class Process:
    """`python -m serving.miner` with the key //Bob, and what it said when it started."""

    popen: "subprocess.Popen[bytes]"
    log: Path
    started: dict[str, Any]
    validator: Validator

    @property
    def operator(self) -> str:
        return f"http://127.0.0.1:{self.started['metrics_port']}"

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def counts(self) -> dict[str, float]:
        return counts(httpx.get(f"{self.operator}/metrics", trust_env=False).text)

    def refused(self) -> dict[str, float]:
        """How many requests were refused, by reason."""
        mark = 'streetvision_miner_refused_total{reason="'
        return {name[len(mark) : -2]: value for name, value in self.counts().items() if name.startswith(mark)}

    def memory_mb(self) -> float:
        """What it has resident now."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self, *, timeout_s: float = 15.0) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout_s)


def process_environment(folder: Path, predictor_url: str, **changes: str) -> dict[str, str]:
    """The environment of a miner whose key is //Bob, and whose callers are those of `write_metagraph`."""
    file = folder / "wallets" / "miner" / "hotkeys" / "default"
    if not file.exists():
        file.parent.mkdir(parents=True)
        Keyfile(str(file)).set_keypair(MINER, encrypt=False, overwrite=False)
    settings = {
        "WALLET_PATH": str(folder / "wallets"),
        "WALLET_NAME": "miner",
        "HOTKEY_NAME": "default",
        "NETWORK": "mock",
        "METAGRAPH_FILE": str(write_metagraph(folder)),
        "PREDICTOR_URL": predictor_url,
        "HOST": "127.0.0.1",
        "PORT": "0",
        "METRICS_PORT": "0",
        "MINIMUM_STAKE": "100",
    }
    settings = {name: value for name, value in (settings | changes).items() if value is not None}
    return dict(os.environ) | {PREFIX + name: value for name, value in settings.items()}


@contextmanager
def running(folder: Path, env: dict[str, str]) -> Iterator[Process]:
    log = folder / f"miner-{time.monotonic_ns()}.log"
    with log.open("wb") as stderr:
        popen = subprocess.Popen([sys.executable, "-W", "error", "-m", "serving.miner"], env=env, stderr=stderr)
    try:
        deadline = time.monotonic() + 20
        while b'"started"' not in log.read_bytes():
            assert popen.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        started = next(json.loads(line) for line in log.read_text().splitlines() if '"started"' in line)
        validator = Validator(f"http://127.0.0.1:{started['port']}")
        with validator.client:
            yield Process(popen, log, started, validator)
    finally:
        popen.kill()
        popen.wait()


@pytest.fixture
def miner_environment(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Makes the environment of a miner process."""

    def make(predictor_url: str = "http://127.0.0.1:1", **changes: str) -> dict[str, str]:
        return process_environment(tmp_path, predictor_url, **changes)

    return make


@pytest.fixture
def start_process(predictor: StandIn, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts miner processes of a test's own."""
    with ExitStack() as stack:

        def start(**changes: str) -> Process:
            return stack.enter_context(running(tmp_path, process_environment(tmp_path, predictor.url, **changes)))

        yield start


@pytest.fixture(scope="module")
def shared_process(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A miner process that all tests of a module may attack."""
    folder = tmp_path_factory.mktemp("process")
    with running(folder, process_environment(folder, stand_in.url)) as process:
        yield process
