"""A real edge on a real port, with a predictor that speaks protocol v2 and says what a test tells it to."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from bittensor_wallet import Keypair
from starlette.applications import Starlette

from serving.miner.app import Edge, operator_app, subnet_app
from serving.miner.metagraph import FileMetagraph
from serving.miner.metrics import Metrics
from serving.miner.predictor import PredictorClient
from serving.miner.server import listen, run
from serving.miner.verification import CallerPolicy, Verifier
from streetvision.subnet.protocol import build_request

VALIDATOR = Keypair.create_from_uri("//Alice")
MINER = Keypair.create_from_uri("//Bob")
NO_PERMIT = Keypair.create_from_uri("//Charlie")
LOW_STAKE = Keypair.create_from_uri("//Dave")
STRANGER = Keypair.create_from_uri("//Eve")
PICTURE = b"\xff\xd8 not really a picture: the edge must not care \xff\xd9"


@dataclass
class StandIn:
    """A predictor of protocol v2 whose answers are set by the test."""

    answer: Any = field(default_factory=lambda: {"outputs": [{"name": "probability", "data": [0.77]}]})
    status: int = 200
    delay_s: float = 0.0
    hang_up: int = 0  # how many requests are met by a closed connection
    requests: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    def say(self, *values: float) -> None:
        self.answer = {"outputs": [{"name": "probability", "datatype": "FP32", "shape": [1], "data": list(values)}]}


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


@contextmanager
def running(client: Callable[[], PredictorClient], apps: Callable[[PredictorClient], list[Starlette]]) -> Iterator[Any]:
    """Serves applications from a thread of their own; gives their addresses."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    listeners: list[socket.socket] = []
    started = threading.Event()

    async def main() -> None:
        async with client() as predictor:
            served = [(app, listen("127.0.0.1", 0)) for app in apps(predictor)]
            listeners.extend(listener for _, listener in served)
            started.set()
            await run(*served, stop=stop)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    started.wait(10)
    yield [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


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


@dataclass(frozen=True)
class Miner:
    """One edge under test."""

    validator: Validator
    metrics: Metrics
    operator: str
    metagraph_file: Path
    before: dict[str, float] = field(default_factory=dict)

    def counts(self) -> dict[str, float]:
        lines = [line.rpartition(" ") for line in self.metrics.render().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in lines}

    def counted(self, name: str) -> float:
        """How much a metric grew in this test."""
        return self.counts().get(name, 0.0) - self.before.get(name, 0.0)


@contextmanager
def starting(folder: Path, predictor_url: str, **changes: Any) -> Iterator[Miner]:
    options: dict[str, Any] = {"body_limit_bytes": 100_000, "body_timeout_s": 0.3, "answer_deadline_s": 8.5}
    metagraph_file = write_metagraph(folder)
    policy = CallerPolicy(minimum_stake=100.0)
    verifier = Verifier(MINER.ss58_address, FileMetagraph(metagraph_file), policy=policy)
    metrics = Metrics()

    def apps(client: PredictorClient) -> list[Starlette]:
        edge = Edge(verifier, client, metrics, **(options | changes))
        return [subnet_app(edge), operator_app(metrics, client)]

    with running(lambda: PredictorClient(predictor_url, model_name="roadwork"), apps) as (url, operator):
        validator = Validator(url)
        with validator.client:
            yield Miner(validator, metrics, operator, metagraph_file)


@pytest.fixture(scope="module")
def shared_miner(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Miner]:
    with starting(tmp_path_factory.mktemp("miner"), stand_in.url) as miner:
        yield miner


@pytest.fixture
def miner(shared_miner: Miner, predictor: StandIn) -> Miner:
    """The module's miner, whose metrics count from here."""
    return replace(shared_miner, before=shared_miner.counts())


@pytest.fixture
def start_miner(predictor: StandIn, tmp_path: Path) -> Iterator[Callable[..., Miner]]:
    """Starts miners of a test's own."""
    with ExitStack() as stack:

        def start(predictor_url: str = predictor.url, **changes: Any) -> Miner:
            return stack.enter_context(starting(tmp_path, predictor_url, **changes))

        yield start
