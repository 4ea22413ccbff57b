import json
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from kserve.model_repository import ModelRepository
from numpy.typing import NDArray

from serving.local import processes
from serving.predictor.dataplane import FixedRepository, PredictorDataPlane
from serving.predictor.model import PredictorModel
from serving.predictor.rest import RestServer
from streetvision.errors import EngineError
from streetvision.inference.classifier import Classifier
from streetvision.inference.model_directory import ModelDirectory
from tests.brightness import SIZE_PX, write_model_directory
from tests.ports import free_ports


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

    def wait_until_ready(self) -> None:
        processes.await_http(f"{self.url}/v2/health/ready", self.process, self.log)


def start(model_dir: Path, log: Path, *options: str) -> Server:
    """Queue of 32 pictures, so that one full request fills it."""
    http_port, grpc_port = free_ports(2)
    arguments = ["--model-dir", model_dir, "--http_port", http_port, "--grpc_port", grpc_port, "--threads", 1]
    command = [*map(str, arguments), "--queue-limit", "32", *options]
    process = processes.start("serving.predictor", command, environment={}, log=log, stay=False)
    return Server(process, http_port, grpc_port, log)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of a model that answers the mean brightness; threshold 0.25."""
    return write_model_directory(tmp_path_factory.mktemp("predictor") / "model")


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
