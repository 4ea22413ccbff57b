"""The predictor beside stock KServe: one call without sockets, and the ways to send a picture."""

import asyncio
import base64
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from fastapi.exceptions import FastAPIDeprecationWarning
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server
from kserve.model_repository import ModelRepository
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve.protocol.rest.server import RESTServer

from serving.predictor.dataplane import FixedRepository, PredictorDataPlane
from serving.predictor.model import PredictorModel
from serving.predictor.rest import RestServer
from streetvision.imaging import encode_jpeg
from tests.bench.measure import Figure
from tests.bench.peers.ours import classifier
from tests.bench.pictures import street
from tests.bench.servers import Running, server

INFER = "/v2/models/roadwork/infer"
READY = "/v2/models/roadwork/ready"


def v2(images: list[bytes]) -> bytes:
    data = [base64.b64encode(image).decode() for image in images]
    image = {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}
    return json.dumps({"inputs": [image]}).encode()


def predictor(repeat: int) -> Iterator[Figure]:
    """One V2 request through each application, both with a model that is a constant."""
    body = v2([encode_jpeg(street(224))])
    taken = asyncio.run(_calls({"ours": _our_application(), "stock": _stock_application()}, body, rounds=20 * repeat))
    ours, stock = (statistics.median(taken[name]) for name in ("ours", "stock"))
    yield Figure("one V2 call without sockets", "us", 1e6 * ours, None, 20 * repeat)
    yield Figure("  stock KServe", "us", 1e6 * stock, None, 20 * repeat)
    yield Figure("  as a share of stock KServe", "", ours / stock, 0.4, 20 * repeat)


async def _calls(applications: dict[str, Any], body: bytes, *, rounds: int, calls: int = 25) -> dict[str, list[float]]:
    """Seconds a call, in rounds that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in applications}
    for _ in range(rounds):
        for name, application in applications.items():
            begun_s = time.perf_counter()
            for _ in range(calls):
                await _call(application, body)
            taken[name].append((time.perf_counter() - begun_s) / calls)
    return taken


async def _call(application: Callable[..., Awaitable[None]], body: bytes) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": INFER,
        "raw_path": INFER.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    stays = asyncio.get_running_loop().create_future()

    async def receive() -> dict[str, Any]:
        return next(messages, None) or await stays

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    await application(scope, receive, send)


class _Constant(Model):
    def __init__(self) -> None:
        super().__init__("roadwork")
        self.load()

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        pictures = [base64.b64decode(text) for text in payload.inputs[0].data]
        output = InferOutput("probability", [len(pictures)], "FP32", data=[0.4] * len(pictures))
        return InferResponse(payload.id or "1", payload.model_name, [output])


def _stock_application() -> Any:
    """KServe's application as its ModelServer builds it; what it logs goes nowhere, but is written."""
    warnings.simplefilter("ignore", FastAPIDeprecationWarning)
    with contextlib.redirect_stderr(Path(os.devnull).open("w")):  # it stays open for its log
        whole = ModelServer(enable_grpc=False)
        whole.register_model(_Constant())
        RESTServer(
            "kserve.model_server:app", whole.dataplane, whole.model_repository_extension, 8080
        ).create_application()
    return model_server.app


def _our_application() -> Any:
    model = PredictorModel("roadwork", classifier(), decode_workers=2, decode_limit_s=1.0, queue_limit=128)

    async def constant(images: list[bytes]) -> Any:
        return np.full(len(images), 0.4, dtype=np.float32)

    model.answer = constant
    repository = ModelRepository()
    repository.update(model)
    rest = RestServer(model, PredictorDataPlane(repository), FixedRepository(repository), body_limit=1 << 26)
    rest.create_application()
    return rest.config.app


def transports(repeat: int) -> Iterator[Figure]:
    """The ways to send one picture, with an engine that takes no time: what half of the answers take, and the CPU."""
    picture = encode_jpeg(street(224))
    seen: dict[str, list[tuple[float, float]]] = {"base64 in JSON": [], "the picture alone": [], "gRPC": []}
    command = (sys.executable, "-m", "tests.bench.peers.ours", "--http_port={port}", "--instant")
    with tempfile.TemporaryDirectory() as name, server(command, READY) as running:
        (Path(name) / "json").write_bytes(v2([picture]))
        (Path(name) / "jpeg").write_bytes(picture)
        for _ in range(repeat):
            for way, file, kind in (
                ("base64 in JSON", "json", "application/json"),
                ("the picture alone", "jpeg", "image/jpeg"),
            ):
                begun_s = running.cpu_s()
                load = running.load(INFER, Path(name) / file, connections=1, seconds=3, kind=kind)
                seen[way].append((load.p50_ms, 1000 * (running.cpu_s() - begun_s) / (load.rps * 3)))
            seen["gRPC"].append(_grpc(running, picture))
    for way, measured in seen.items():
        p50_ms, cpu_ms = (statistics.median(column) for column in zip(*measured, strict=True))
        yield Figure(f"one picture by {way}", "ms", p50_ms, None, repeat)
        yield Figure("  CPU of the server", "ms", cpu_ms, None, repeat)


def _grpc(running: Running, picture: bytes, *, count: int = 500) -> tuple[float, float]:
    image: dict[str, Any] = {"name": "image", "shape": [1], "datatype": "BYTES"}
    request = pb.ModelInferRequest(model_name="roadwork", inputs=[image])
    request.raw_input_contents.append(len(picture).to_bytes(4, "little") + picture)
    taken_s = []
    with grpc.insecure_channel(f"127.0.0.1:{running.port + 1}") as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        infer(request)
        cpu_s = running.cpu_s()
        for _ in range(count):
            begun_s = time.perf_counter()
            infer(request)
            taken_s.append(time.perf_counter() - begun_s)
    return 1000 * statistics.median(taken_s), 1000 * (running.cpu_s() - cpu_s) / count
