import asyncio
import base64
import contextlib
import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.miner.predictor import Answer, AskError, Predictor, _answer
from tests.ports import unused_url
from tests.serving.miner.predictors import (
    BREAK_OFF,
    BUSY,
    HANG,
    HANG_UP,
    Say,
    Scripted,
    good,
    reply,
    scripted,
    v2,
)

PICTURE = bytes(range(256)) * 40


@asynccontextmanager
async def asking(*script: Say) -> AsyncIterator[tuple[Predictor, Scripted]]:
    async with scripted(*script) as server, Predictor(server.url, model_name="roadwork") as predictor:
        yield predictor, server


async def failure(*script: Say) -> AskError:
    async with asking(*script) as (predictor, _):
        with pytest.raises(AskError) as caught:
            await predictor.ask(PICTURE)
    return caught.value


async def test_the_picture_goes_untouched_as_one_v2_bytes_element():
    async with asking(good(0.77)) as (predictor, server):
        assert await predictor.ask(PICTURE) == Answer(0.77, "abc")
    [(head, body)] = server.requests
    assert head.startswith("POST /v2/models/roadwork/infer HTTP/1.1\r\n")
    [tensor] = json.loads(body)["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("image", "BYTES", [1])
    assert base64.b64decode(tensor["data"][0], validate=True) == PICTURE


async def test_connections_are_kept_alive_unless_a_fresh_one_is_wanted():
    async with asking(good()) as (predictor, server):
        for _ in range(3):
            await predictor.ask(PICTURE)
        assert server.connections == 1
        await predictor.ask(PICTURE, fresh=True)
        await predictor.ask(PICTURE)
        assert server.connections == 2


async def test_a_connection_that_the_server_has_closed_is_replaced():
    async with asking(Say(reply(v2(0.77)), hang_up=True)) as (predictor, server):
        for _ in range(3):
            await predictor.ask(PICTURE)
            await asyncio.sleep(0.01)
        assert server.connections == 3


@pytest.mark.parametrize("value", [0, 1, 0.0, 0.4999999, 0.5000001, 1.0])
async def test_a_probability_passes_unchanged(value: float):
    async with asking(Say(reply(v2(value)))) as (predictor, _):
        assert (await predictor.ask(PICTURE)).probability == value


@pytest.mark.parametrize("version", [None, 7])
async def test_a_server_need_not_tell_its_version(version: Any):
    async with asking(Say(reply(v2(0.77, model_version=version)))) as (predictor, _):
        assert (await predictor.ask(PICTURE)).model_version == ""


GARBAGE = {
    "half": v2(0.5),
    "too large": v2(1.7),
    "negative": v2(-0.1),
    "no answer": v2(-1),
    "nan": v2(math.nan),
    "infinite": v2(math.inf),
    "enormous": v2(10**400),
    "text": v2("0.7"),
    "null": v2(None),
    "true": v2(True),
    "list in the list": v2([0.7]),
    "two values": v2(0.7, data=[0.7, 0.7]),
    "no value": v2(0.7, data=[]),
    "data no list": v2(0.7, data=0.7),
    "two rows": v2(0.7, shape=[2]),
    "a column": v2(0.7, shape=[1, 1]),
    "doubles": v2(0.7, datatype="FP64"),
    "other output": v2(0.7, name="logit"),
    "other model": v2(0.7, model_name="birds"),
    "no outputs": v2(0.7, outputs=[]),
    "two outputs": v2(0.7, outputs=v2(0.7)["outputs"] * 2),
    "a list": [0.7],
    "a number": 0.7,
    "nothing": b"",
    "a page": b"<html>welcome</html>",
    "no UTF-8": b'"\xff"',
    "deep": b"[" * 30_000,
    "too long": b" " * 70_000,
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_no_answer(body: Any):
    error = await failure(Say(reply(body)))
    assert error.reason == "unusable_answer"
    assert error.blames_predictor
    assert len(error.message) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(value=JSON, field=st.sampled_from(["data", "shape", "name", "datatype", "outputs", "model_name"]))
def test_whatever_is_taken_for_an_answer_is_a_probability(value: Any, field: str):
    for body in (v2(value), v2(0.7, **{field: value}), value):
        with contextlib.suppress(AskError):
            answer = _answer(json.dumps(body).encode(), "roadwork")
            assert 0 <= answer.probability <= 1
            assert answer.probability != 0.5


async def test_a_reply_without_an_end_is_not_waited_for():
    endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 2000
    error = await asyncio.wait_for(failure(Say(endless)), timeout=2)
    assert (error.reason, error.message) == ("unusable_answer", "its reply has more than 65536 bytes")


async def test_what_speaks_no_http_is_told():
    assert (await failure(Say(b"220 mail.example ESMTP\r\n"))).reason == "unusable_answer"


async def test_a_redirect_is_not_followed():
    error = await failure(Say(reply(b"", status=307, headers="location: http://127.0.0.1:1/\r\n")))
    assert error.reason == "failed"


@pytest.mark.parametrize(
    ("status", "headers", "reason", "blames"),
    [
        (400, "", "refused", False),
        (413, "", "refused", False),
        (404, "", "failed", True),
        (500, "", "failed", True),
        (502, "", "failed", True),
        (503, "", "failed", True),
        (503, "retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n", "failed", True),
        (503, "retry-after: 3\r\n", "busy", False),
        (204, "", "failed", True),
    ],
)
async def test_a_status_says_whose_fault_it_is(status: int, headers: str, reason: str, blames: bool):
    body = b"" if status == 204 else {"error": "so it is"}
    error = await failure(Say(reply(body, status=status, headers=headers)))
    assert (error.reason, error.blames_predictor) == (reason, blames)
    assert str(status) in error.message


async def test_a_busy_predictor_says_when_to_come_back():
    assert (await failure(Say(reply({}, status=503, headers="Retry-After: 3\r\n")))).retry_after_s == 3
    assert (await failure(BUSY)).retry_after_s == 0


@pytest.mark.parametrize("say", [HANG_UP, BREAK_OFF], ids=["hung up", "broken off"])
async def test_a_connection_that_ends_too_early_is_told(say: Say):
    assert (await failure(say)).reason == "unreachable"


async def test_where_nobody_listens_is_told():
    async with Predictor(unused_url(), model_name="roadwork") as predictor:
        with pytest.raises(AskError, match="out of reach") as caught:
            await predictor.ask(PICTURE)
        assert caught.value.reason == "unreachable"
        assert not await predictor.ready(timeout_s=1)


async def test_a_name_that_nobody_knows_is_told():
    async with Predictor("http://predictor.invalid", model_name="roadwork") as predictor:
        with pytest.raises(AskError) as caught:
            await predictor.ask(PICTURE)
    assert caught.value.reason == "unreachable"


async def test_giving_up_hangs_up():
    async with asking(HANG) as (predictor, server):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await predictor.ask(PICTURE)
        await asyncio.sleep(0.02)
        assert server.lost == 1


@pytest.mark.parametrize(
    ("say", "ready"),
    [(Say(reply({"ready": True})), True), (Say(reply({"ready": False}, status=503)), False), (HANG, False)],
    ids=["ready", "not ready", "silent"],
)
async def test_readiness_is_the_models(say: Say, ready: bool):
    async with asking(say) as (predictor, server):
        assert await predictor.ready(timeout_s=0.1) is ready
    assert server.requests[0][0].startswith("GET /v2/models/roadwork/ready HTTP/1.1\r\n")


def test_asking_loads_nothing_that_decodes_pictures_or_is_large():
    code = "import sys, serving.miner.forward, serving.miner.shadow; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    large = {"PIL", "cv2", "simplejpeg", "numpy", "onnxruntime", "torch", "kserve", "grpc", "pyarrow", "pandas"}
    assert "aiohttp" in loaded
    assert not large & set(loaded)
