"""Our route and KServe's, in one application without sockets."""

import asyncio
import base64
import json
import struct
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import kserve.model_server
import numpy as np
import pytest
from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer

from serving.predictor import rest
from serving.predictor.metrics import IMAGES
from serving.predictor.model import PredictorModel
from serving.predictor.rest import InferRoute
from streetvision.imaging import encode_jpeg

Engine = Any  # the one of conftest.py
INFER = "/v2/models/roadwork/infer"
JSON = {"content-type": "application/json"}


def jpeg(value: int) -> bytes:
    return encode_jpeg(np.full((40, 30, 3), value, dtype=np.uint8))


def text(value: int) -> str:
    return base64.b64encode(jpeg(value)).decode()


def tensor(data: list[Any], **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data} | changes]}


@pytest.fixture(scope="module")
def repository() -> ModelRepository:
    return ModelRepository()


@pytest.fixture(scope="module")
def stock_application(repository: ModelRepository) -> Iterator[Any]:
    """KServe's application with its own route and data plane, as ModelServer builds it."""
    server = RESTServer(
        "kserve.model_server:app", DataPlane(repository), ModelRepositoryExtension(repository), http_port=8080
    )
    server.create_application()
    return kserve.model_server.app


@pytest.fixture
async def stock(
    model: PredictorModel, repository: ModelRepository, stock_application: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """KServe's route to the same model."""
    repository.update(model)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stock_application), base_url="http://stock") as client:
        yield client


GOOD: dict[str, dict[str, Any]] = {
    "one picture": tensor([text(9)]),
    "three pictures": tensor([text(9), text(200), text(77)]),
    "32 pictures": tensor([text(value) for value in range(100, 132)]),
    "an id": tensor([text(9)]) | {"id": 'a "quoted" ü'},
    "an empty id": tensor([text(9)]) | {"id": ""},
    "parameters": tensor([text(9)], parameters={"x": 1}) | {"parameters": {"y": "z"}},
    "the output named": tensor([text(9)]) | {"outputs": [{"name": "probability"}]},
    "the datatype in lower case": tensor([text(9)], datatype="bytes"),
    "bytes asked for": tensor([text(9), text(8)]) | {"parameters": {"binary_data_output": True}, "id": "a-1"},
    "bytes asked of the output": tensor([text(9)])
    | {"outputs": [{"name": "probability", "parameters": {"binary_data": True}}]},
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD.keys())
@pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")
async def test_a_reply_is_the_one_of_kserve_to_the_byte(
    client: httpx.AsyncClient, stock: httpx.AsyncClient, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=7))
    ours, theirs = [await asker.post(INFER, json=body) for asker in (client, stock)]
    assert (ours.status_code, theirs.status_code) == (200, 200)
    assert ours.content == theirs.content
    length = "inference-header-content-length"
    assert ours.headers.get(length) == theirs.headers.get(length)
    if length not in ours.headers:
        assert ours.headers.raw == theirs.headers.raw


REFUSED: dict[str, dict[str, Any]] = {
    "another name": tensor([text(9)], name="picture"),
    "two tensors": {"inputs": tensor([text(9)])["inputs"] * 2},
    "no tensor": {"inputs": []},
    "another datatype": tensor([text(9)], datatype="FP32"),
    "no picture": tensor([]),
    "too many pictures": tensor([text(9)] * 33),
    "two dimensions": tensor([text(9)], shape=[1, 1]),
    "fewer than the shape": tensor([text(9)], shape=[2]),
    "a number": tensor([5]),
    "no base64": tensor([text(9), "aé"]),
    "cut base64": tensor([text(9)[:-3]]),
    "no picture behind base64": tensor([text(9), "aGVsbG8="]),
    "a cut picture": tensor([base64.b64encode(jpeg(9)[:300]).decode()]),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
async def test_a_refusal_is_the_one_of_kserve_to_the_byte(
    client: httpx.AsyncClient, stock: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    before = IMAGES.labels("refused")._value.get()
    ours, theirs = [await asker.post(INFER, json=body) for asker in (client, stock)]
    assert (ours.status_code, theirs.status_code) == (400, 400)
    assert ours.content == theirs.content
    assert ours.headers.raw == theirs.headers.raw
    assert IMAGES.labels("refused")._value.get() >= before + 2


async def test_another_model_and_a_full_queue_are_as_in_kserve(
    client: httpx.AsyncClient, stock: httpx.AsyncClient, engine: Engine
) -> None:
    other = [await asker.post("/v2/models/other/infer", json=GOOD["one picture"]) for asker in (client, stock)]
    assert [reply.status_code for reply in other] == [404, 404]
    assert other[0].content == other[1].content
    engine.released.clear()
    filling = asyncio.create_task(client.post(INFER, json=GOOD["32 pictures"]))
    await asyncio.sleep(0.1)
    busy = [await asker.post(INFER, json=GOOD["one picture"]) for asker in (client, stock)]
    assert [reply.status_code for reply in busy] == [503, 503]
    assert busy[0].content == busy[1].content
    assert busy[0].headers["retry-after"] == "1"
    engine.released.set()
    assert (await filling).status_code == 200


async def test_a_picture_alone_is_a_body(client: httpx.AsyncClient) -> None:
    for kind in ("image/jpeg", "image/png", "IMAGE/JPEG; q=1"):  # what it is, its own first bytes say
        reply = await client.post(INFER, content=jpeg(51), headers={"content-type": kind})
        assert reply.json()["outputs"][0]["data"] == pytest.approx([0.4])
    refused = await client.post(INFER, content=b"<svg/>", headers={"content-type": "image/svg+xml"})
    assert (refused.status_code, refused.json()) == (
        400,
        {"error": "image 0: 6 bytes are no JPEG, PNG or WebP picture"},
    )


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_an_unknown_kind_of_body_is_told_what_is_known(client: httpx.AsyncClient, kind: str | None) -> None:
    reply = await client.post(INFER, content=b"{}", headers={"content-type": kind} if kind else {})
    assert reply.status_code == 400
    assert "expected application/json, image/jpeg, image/png or image/webp" in reply.json()["error"]


async def test_a_failing_engine_is_a_500_with_one_sentence(client: httpx.AsyncClient, engine: Engine) -> None:
    engine.failing = True
    reply = await client.post(INFER, json=GOOD["one picture"])
    assert (reply.status_code, reply.json()) == (500, {"error": "engine answered nan for picture 0"})


class Asked:
    """A client by hand: what it has sent so far, and what it got."""

    def __init__(self, *, headers: dict[str, str], path: str = INFER) -> None:
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "path_params": {"model_name": "roadwork"},
            "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        }
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.received = 0
        self.sent: list[dict[str, Any]] = []

    def say(self, body: bytes, *, more: bool = False) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> dict[str, Any]:
        message = await self.messages.get()
        self.received += len(message.get("body", b""))
        return message

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def ask(self, application: Any) -> asyncio.Task[None]:
        return asyncio.create_task(application(self.scope, self.receive, self.send))


@pytest.fixture
def route(model: PredictorModel) -> InferRoute:
    return InferRoute(model, body_limit=100_000)


async def test_who_hangs_up_before_his_turn_is_not_inferred(
    route: InferRoute, model: PredictorModel, engine: Engine
) -> None:
    engine.released.clear()
    first = asyncio.create_task(model.answer([jpeg(1)]))
    await asyncio.sleep(0.1)  # the engine is at it
    before = IMAGES.labels("left")._value.get()
    gone, stays = Asked(headers=JSON), Asked(headers=JSON)
    for asked in (gone, stays):
        asked.say(json.dumps(GOOD["three pictures"]).encode())
    tasks = [asked.ask(route) for asked in (gone, stays)]
    await asyncio.sleep(0.1)  # both are decoded
    gone.leave()
    assert tasks[0] in (await asyncio.wait(tasks[:1], timeout=5))[0]  # and the engine is not free yet
    assert gone.sent == []
    engine.released.set()
    await asyncio.gather(first, tasks[1])
    assert engine.batches == [1, 3]
    assert stays.sent[0]["status"] == 200
    assert IMAGES.labels("left")._value.get() == before + 3


async def test_who_hangs_up_while_sending_is_dropped(route: InferRoute, engine: Engine) -> None:
    asked = Asked(headers=JSON)
    asked.say(b'{"inputs": [', more=True)
    asked.leave()
    await asked.ask(route)
    assert asked.sent == engine.batches == []


async def test_a_server_that_stops_is_no_client_that_left(route: InferRoute, engine: Engine) -> None:
    engine.released.clear()
    asked = Asked(headers=JSON)
    asked.say(json.dumps(GOOD["one picture"]).encode())
    task = asked.ask(route)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_declared_body_beyond_the_limit_is_refused_unread(route: InferRoute) -> None:
    asked = Asked(headers=JSON | {"content-length": "200000000"})
    asked.say(bytes(1000), more=True)
    with pytest.raises(rest.BodyTooLarge, match="body is too large, expected at most 100000 bytes"):
        await asked.ask(route)
    assert asked.received == 0


async def test_a_body_of_unknown_length_is_read_up_to_the_limit(route: InferRoute) -> None:
    asked = Asked(headers=JSON)
    for _ in range(1000):
        asked.say(bytes(1000), more=True)
    with pytest.raises(rest.BodyTooLarge):
        await asked.ask(route)
    assert asked.received == 101_000


async def test_all_bodies_together_have_a_limit_and_room_again_afterwards(route: InferRoute) -> None:
    slow = [Asked(headers=JSON) for _ in range(5)]
    for asked in slow:
        asked.say(bytes(90_000), more=True)
    tasks = [asked.ask(route) for asked in slow]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(rest.BusyPredictor, match="requests hold 450000 bytes, expected at most 400000"):
        await tasks[4]
    for asked in slow[:4]:
        asked.leave()
    await asyncio.gather(*tasks[:4])
    asked = Asked(headers=JSON)
    asked.say(json.dumps(GOOD["32 pictures"]).encode())
    await asked.ask(route)
    assert asked.sent[0]["status"] == 200


async def test_413_is_one_sentence_and_ends_the_connection(client: httpx.AsyncClient) -> None:
    before = IMAGES.labels("refused")._value.get()
    reply = await client.post(INFER, content=bytes((1 << 20) + 1), headers=JSON)
    assert (reply.status_code, reply.headers["connection"]) == (413, "close")
    assert reply.json() == {"error": "body is too large, expected at most 1048576 bytes"}
    assert IMAGES.labels("refused")._value.get() == before + 1


@pytest.mark.parametrize(
    "path",
    ["/v1/models/roadwork:predict", "/v2/models/roadwork/versions/1/infer", "/v2/repository/models/roadwork/load", "/"],
)
async def test_no_other_endpoint_buffers_a_large_body(client: httpx.AsyncClient, path: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:  # without an end
            yield bytes(100)

    assert (await client.post(path, content=bytes(70_000))).status_code == 413
    assert (await client.post(path, content=chunks())).status_code == 413


async def test_protocol_v1_is_refused_in_one_sentence(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/models/roadwork:predict", json={"instances": [text(9)]})
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("protocol v1 is not spoken at /v1/models/roadwork:predict, expected POST")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/1/infer"), ("GET", "/x/ready"), ("GET", "/1"), ("POST", "/%0A/infer")]
)
async def test_a_version_in_the_path_is_a_quiet_404(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, method: str, path: str
) -> None:
    reply = await client.request(method, f"/v2/models/roadwork/versions{path}", json=GOOD["one picture"])
    assert reply.status_code == 404
    assert reply.json()["error"].startswith("no version is served by itself, expected `/v2/models/{name}` without")
    assert not [record for record in caplog.records if record.name != "httpx"]


async def test_another_method_is_a_405(client: httpx.AsyncClient) -> None:
    assert (await client.get(INFER)).status_code == 405


def binary_body(images: list[bytes]) -> tuple[bytes, dict[str, str]]:
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    head = json.dumps(
        {"inputs": [{"name": "image", "shape": [len(images)], "datatype": "BYTES", "parameters": {}}]}
    ).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}


async def test_the_binary_form_gives_the_reply_of_the_json_form(client: httpx.AsyncClient) -> None:
    content, headers = binary_body([jpeg(9), jpeg(200), jpeg(77)])
    ours = await client.post(INFER, content=content, headers=headers)
    theirs = await client.post(INFER, json=GOOD["three pictures"])
    assert ours.json()["outputs"] == theirs.json()["outputs"]
