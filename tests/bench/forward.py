"""What it costs to ask a predictor: our client and form against others, and answers while a shadow hangs."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import orjson
import pybase64
import uvloop
from grpc import aio
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages

from serving.miner.forward import Forward
from serving.miner.predictor import Predictor
from serving.miner.shadow import Shadow
from streetvision.imaging import encode_jpeg
from tests.bench.measure import Figure, cpu_s
from tests.bench.pictures import street
from tests.serving.miner.predictors import HANG, Process, channel_model, scripted, start

MODEL = "roadwork"
PATH = f"/v2/models/{MODEL}/infer"
ASKED = 100  # times a round

Way = Callable[[bytes], Awaitable[float]]


@dataclass
class Cost:
    """Of one question: CPU as the mean of a round, and every time it took."""

    client_s: list[float] = field(default_factory=list)
    server_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    def quantile_ms(self, share: float) -> float:
        return 1e3 * sorted(self.took_s)[int(share * len(self.took_s))]

    @property
    def cpu_s(self) -> list[float]:
        return [client + server for client, server in zip(self.client_s, self.server_s, strict=True)]


def forward(repeat: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = start(channel_model(folder / "model", 0), folder / "log")
        try:
            process.wait_until_ready()
            rounds = 4 * repeat
            costs = uvloop.run(_ask_in_turn(process, rounds))
        finally:
            process.stop()
    ours, alone = costs["ours"], costs["predictor"]
    yield Figure("one picture asked about, the miner's CPU", "ms", 1e3 * statistics.median(ours.client_s), None, rounds)
    yield Figure("  the predictor's CPU", "ms", 1e3 * statistics.median(ours.server_s), None, rounds)
    yield Figure("  p50", "ms", ours.quantile_ms(0.5), None, rounds)
    for peer, client_budget, budget in [("httpx", 0.5, 0.9), ("gRPC", None, 1.0), ("binary tensor", None, None)]:
        client = _ratio(alone.client_s, costs[peer].client_s)
        both = _ratio(alone.cpu_s, costs[peer].cpu_s)
        yield Figure(f"  the client's CPU as a share of {peer}'s", "", client, client_budget, rounds)
        yield Figure(f"  CPU of both as a share of {peer}'s", "", both, budget, rounds)
    with_retries = _ratio(ours.cpu_s, alone.cpu_s)
    yield Figure("  CPU of both, with everything around one question", "", with_retries, 1.25, rounds)
    hanging = costs["shadow hangs"].quantile_ms(0.99) / ours.quantile_ms(0.99)
    yield Figure("p99 of answers while the shadow hangs", "", hanging, 1.25, rounds)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


async def _ask_in_turn(process: Process, rounds: int) -> dict[str, Cost]:
    """One way after the other in every round, and back in the next."""
    image = encode_jpeg(street(224))
    async with _ways(process) as ways:
        answers = {name: round(await way(image), 6) for name, way in ways.items()}
        assert len(set(answers.values())) == 1, answers
        costs = {name: Cost() for name in ways}
        for number in range(rounds):
            for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
                await _round(way, image, process.pid, costs[name])
    return costs


async def _round(way: Way, image: bytes, pid: int, cost: Cost) -> None:
    server_s, client_s = cpu_s(pid), time.process_time()
    for _ in range(ASKED):
        begun_s = time.perf_counter()
        await way(image)
        cost.took_s.append(time.perf_counter() - begun_s)
    cost.client_s.append((time.process_time() - client_s) / ASKED)
    cost.server_s.append((cpu_s(pid) - server_s) / ASKED)


@asynccontextmanager
async def _ways(process: Process) -> AsyncIterator[dict[str, Way]]:
    now_s = asyncio.get_running_loop().time
    async with (
        scripted(HANG) as silent,
        Predictor(process.url, model_name=MODEL) as predictor,
        Forward(Predictor(process.url, model_name=MODEL)) as ours,
        Forward(
            Predictor(process.url, model_name=MODEL),
            shadow=Shadow(Predictor(silent.url, model_name=MODEL), lambda _: None),
        ) as shadowed,
        httpx.AsyncClient(base_url=process.url, trust_env=False, timeout=None) as http,
        aiohttp.ClientSession(process.url) as session,
        aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel,
    ):
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelInferResponse.FromString,
        )

        async def by_forward(image: bytes) -> float:
            return (await ours.predict(image, deadline_s=now_s() + 8.5)).prediction

        async def by_shadowed(image: bytes) -> float:
            prediction = (await shadowed.predict(image, deadline_s=now_s() + 8.5)).prediction
            shadowed.after("request", image)
            return prediction

        async def by_predictor(image: bytes) -> float:
            return (await predictor.ask(image)).probability

        async def by_httpx(image: bytes) -> float:
            body = {"inputs": [_tensor(data=[pybase64.b64encode(image).decode()])]}
            reply = await http.post(PATH, content=orjson.dumps(body), headers={"content-type": "application/json"})
            return _probability(reply.content)

        async def by_binary_tensor(image: bytes) -> float:
            head = orjson.dumps({"inputs": [_tensor(parameters={"binary_data_size": len(image) + 4})]})
            headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
            async with session.post(PATH, data=head + _element(image), headers=headers) as reply:
                return _probability(await reply.read())

        async def by_grpc(image: bytes) -> float:
            request = messages.ModelInferRequest(model_name=MODEL, raw_input_contents=[_element(image)])
            request.inputs.add(**_tensor())
            reply = await infer(request)
            return float(np.frombuffer(reply.raw_output_contents[0], np.float32)[0])

        yield {
            "ours": by_forward,
            "shadow hangs": by_shadowed,
            "predictor": by_predictor,
            "httpx": by_httpx,
            "binary tensor": by_binary_tensor,
            "gRPC": by_grpc,
        }


def _tensor(**rest: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [1]} | rest


def _element(image: bytes) -> bytes:
    return len(image).to_bytes(4, "little") + image


def _probability(body: bytes) -> float:
    return orjson.loads(body)["outputs"][0]["data"][0]
