import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from kserve.model_repository import ModelRepository
from numpy.typing import NDArray
from onnx import TensorProto, helper

from serving.predictor.dataplane import FixedRepository, PredictorDataPlane
from serving.predictor.model import PredictorModel
from serving.predictor.rest import RestServer
from streetvision.errors import EngineError
from streetvision.inference.classifier import Classifier
from streetvision.inference.model_directory import ModelDirectory, write_config

SIZE_PX = 32


@dataclass
class Server:
    """A predictor in a process of its own."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    log: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.http_port}"

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_until_ready(self, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=1).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        pytest.fail(f"predictor is not ready: {self.log.read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(model_dir: Path, log: Path, *options: str) -> Server:
    """Queue of 32 pictures, so that one full request fills it."""
    http_port, grpc_port = free_ports(2)
    arguments = ["--model-dir", model_dir, "--http_port", http_port, "--grpc_port", grpc_port, "--threads", 1]
    command = [sys.executable, "-m", "serving.predictor", *map(str, arguments), "--queue-limit", "32", *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    return Server(process, http_port, grpc_port, log)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of a model that answers the mean brightness; threshold 0.25."""
    path = tmp_path_factory.mktemp("model")
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "full"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("full", TensorProto.FLOAT, [], [255.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path / "model.onnx")
    write_config(
        path,
        preset="brightness",
        input_size_px=SIZE_PX,
        threshold=0.25,
        temperature=1.0,
        data_version="d" * 64,
        code_version="c" * 64,
        git_sha="",
    )
    return path


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    server = start(model_dir, tmp_path_factory.mktemp("log") / "predictor.log")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def own_server(model_dir: Path, tmp_path: Path) -> Generator[Callable[..., Server]]:
    """Starts a predictor that the test may end."""
    started: list[Server] = []

    def own(*options: str) -> Server:
        started.append(start(model_dir, tmp_path / "predictor.log", *options))
        started[-1].wait_until_ready()
        return started[-1]

    yield own
    for server in started:
        server.process.kill()
        server.process.wait()


class ScriptedEngine:
    """An engine that waits for `released`, fails if told so, and else answers the mean brightness."""

    size_px = SIZE_PX
    batch_sizes = (8,)

    def __init__(self) -> None:
        self.released = threading.Event()
        self.released.set()
        self.failing = False
        self.batches: list[int] = []

    def warm_up(self) -> None:
        self.predict(np.zeros((1, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        self.released.wait(20)
        if self.failing:
            raise EngineError("engine answered nan for picture 0")
        return (batch.mean(axis=(1, 2, 3)) / 255).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted", "provider": "none", "precision": "fp64", "fallback_reason": "there is no other"}


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    engine = ScriptedEngine()
    yield engine
    engine.released.set()


@pytest.fixture
def model(engine: ScriptedEngine, model_dir: Path) -> Iterator[PredictorModel]:
    """A model with room for 32 pictures, ready."""
    classifier = Classifier(ModelDirectory.open(model_dir), engine)
    model = PredictorModel("roadwork", classifier, decode_workers=2, decode_limit_s=1.0, queue_limit=32)
    model.load()
    engine.batches.clear()
    yield model
    engine.released.set()
    model.close()


def application(model: PredictorModel) -> Any:
    repository = ModelRepository()
    repository.update(model)
    rest = RestServer(model, PredictorDataPlane(repository), FixedRepository(repository), body_limit=1 << 20)
    rest.create_application()
    return rest.config.app


@pytest.fixture
async def client(model: PredictorModel) -> Any:
    """Asks the whole application around `model`, without sockets."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(application(model)), base_url="http://predictor"
    ) as client:
        yield client


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]
