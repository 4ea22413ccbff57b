"""Whatever comes in, the answer is a 400 with one sentence, or a prediction; never a 5xx."""

import base64
import io
import json
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from streetvision.imaging import encode_jpeg

INFER = "/v2/models/roadwork/infer"
JSON = {"content-type": "application/json"}


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


PIXELS = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)
JPEG = encode_jpeg(PIXELS)
PNG = encoded(Image.fromarray(PIXELS), "PNG")
WEBP = encoded(Image.fromarray(PIXELS), "WEBP")
INFLATED = zlib.compress(bytes(50_000_000), 9)


async def ask(client: httpx.AsyncClient, image: bytes) -> httpx.Response:
    reply = await client.post(INFER, content=image, headers={"content-type": "image/jpeg"})
    return checked(reply)


def checked(reply: httpx.Response) -> httpx.Response:
    assert reply.status_code in {200, 400}, reply.text
    if reply.status_code == 400:
        assert list(reply.json()) == ["error"]
        assert "\n" not in reply.json()["error"]
        assert len(reply.json()["error"]) < 500
    return reply


async def test_a_jpeg_cut_short_at_every_64_bytes_is_refused(client: httpx.AsyncClient) -> None:
    for end in range(0, len(JPEG) - 2, 64):
        assert (await ask(client, JPEG[:end])).status_code == 400


BOMBS = {
    "PNG of 30,000 x 30,000": PNG[:16] + (30_000).to_bytes(4) * 2 + PNG[24:],
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "GIF": encoded(Image.fromarray(PIXELS), "GIF"),
    "TIFF": encoded(Image.fromarray(PIXELS), "TIFF"),
    "GIF in front of a JPEG": b"GIF89a" + JPEG,
    "archive in front of a PNG": b"PK\x03\x04" + PNG,
    "page in front of a JPEG": b"<html>" + JPEG,
    "only the first bytes": JPEG[:3],
    "text inflated": PNG[:33] + chunk(b"zTXt", b"a\0\0" + INFLATED) + PNG[33:],
    "much text inflated": PNG[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9)) * 100 + PNG[33:],
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
async def test_what_is_no_picture_or_a_bomb_is_refused(client: httpx.AsyncClient, data: bytes) -> None:
    assert (await ask(client, data)).status_code == 400


ODD = {
    "65,500 x 1": encoded(Image.new("RGB", (65_500, 1)), "JPEG"),
    "one pixel": encoded(Image.new("1", (1, 1)), "PNG"),
    "JPEG in front of an archive": JPEG + b"PK\x05\x06" + bytes(18),
    "PNG in front of a page": PNG + b"<script>",
    "colour profile inflated": PNG[:33] + chunk(b"iCCP", b"a\0\0" + INFLATED[:1000]) + PNG[33:],
    "four colours": encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "16 bit": encoded(Image.new("I;16", (40, 30), 30_000), "PNG"),
    "alpha": encoded(Image.fromarray(PIXELS).convert("LA"), "PNG"),
    "palette": encoded(Image.fromarray(PIXELS).convert("P"), "PNG"),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
async def test_what_is_merely_odd_is_answered(client: httpx.AsyncClient, data: bytes) -> None:
    assert (await ask(client, data)).status_code == 200


TEXT = base64.b64encode(JPEG).decode()
IMAGE = json.dumps({"name": "image", "shape": [1], "datatype": "BYTES", "data": [TEXT]}, separators=(",", ":"))
BODIES = {
    "nothing": b"",
    "deep": b"[" * 100_000,
    "deep and closed": b'{"inputs":' * 5_000 + b"1" + b"}" * 5_000,
    "NaN": b'{"inputs": [{"name": "image", "shape": [NaN]}]}',
    "infinity": b'{"inputs": [{"name": "image", "shape": [1e999], "datatype": "BYTES", "data": ["x"]}]}',
    "a number of 5,000 digits": b'{"inputs": %s}' % (b"9" * 5_000),
    "no UTF-8": b'{"inputs": "\xff\xfe"}',
    "half a surrogate": b'{"inputs": [{"name": "\\ud800"}]}',
    "a fractional shape": f'{{"inputs":[{IMAGE}]}}'.replace("[1]", "[1.5]").encode(),
    "a true shape": f'{{"inputs":[{IMAGE}]}}'.replace("[1]", "[true]").encode(),
    "a vast shape": f'{{"inputs":[{IMAGE}]}}'.replace("[1]", "[99999999999999999999]").encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_malformed_body_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    assert checked(await client.post(INFER, content=body, headers=JSON)).status_code == 400


async def test_of_a_key_that_comes_twice_the_last_counts(client: httpx.AsyncClient) -> None:
    body = f'{{"inputs":[],"inputs":[{IMAGE}]}}'.encode()
    assert checked(await client.post(INFER, content=body, headers=JSON)).status_code == 200


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore:Invalid APNG")
@given(
    st.sampled_from([JPEG, PNG, WEBP]),
    st.integers(0, 200),
    st.binary(max_size=64),
    st.booleans(),
)
async def test_altered_pictures_are_answered_or_refused(
    client: httpx.AsyncClient, picture: bytes, start: int, noise: bytes, inserted: bool
) -> None:
    await ask(client, picture[:start] + noise + picture[start + (0 if inserted else len(noise)) :])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just(TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("image") | JSON_VALUES,
        "shape": st.just([1]) | st.lists(st.integers(-2, 40), max_size=2) | JSON_VALUES,
        "datatype": st.just("BYTES") | JSON_VALUES,
        "data": st.just([TEXT]) | st.lists(st.text(max_size=9), max_size=3) | JSON_VALUES,
        "parameters": JSON_VALUES,
    },
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=5) | JSON_VALUES,
        "inputs": st.lists(TENSORS | JSON_VALUES, max_size=2) | JSON_VALUES,
        "outputs": st.just([{"name": "probability", "parameters": {"binary_data": True}}]) | JSON_VALUES,
        "parameters": st.just({"binary_data_output": True}) | JSON_VALUES,
    },
)


@pytest.mark.fuzz
@given(REQUESTS | JSON_VALUES)
async def test_json_of_any_shape_is_answered_or_refused(client: httpx.AsyncClient, body: object) -> None:
    try:
        content = json.dumps(body).encode()
    except UnicodeEncodeError:
        return
    checked(await client.post(INFER, content=content, headers=JSON))


@pytest.mark.fuzz
@given(
    st.binary(max_size=200),
    st.text("0123456789-+x", max_size=6),
    st.lists(st.binary(max_size=20), max_size=3),
    st.integers(-1, 4),
)
async def test_raw_tensors_of_any_shape_are_answered_or_refused(
    client: httpx.AsyncClient, noise: bytes, length: str, elements: list[bytes], count: int
) -> None:
    image = {"name": "image", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": 7}}
    head = json.dumps({"inputs": [image]}).encode()
    raw = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    for content, header in ((noise, length), (head + raw, str(len(head))), (head + raw + noise, str(len(head)))):
        checked(await client.post(INFER, content=content, headers={"inference-header-content-length": header}))


@pytest.mark.fuzz
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    st.sampled_from(
        ["", "/v2", "/v2/models", "/v2/models/roadwork", "/v2/models/roadwork/versions/1/infer", "/v1/models/roadwork"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?%"), max_size=8),
    st.binary(max_size=30),
    st.sampled_from(["application/json", "application/cloudevents+json", "text/plain", ""]),
)
async def test_no_other_endpoint_fails(
    client: httpx.AsyncClient, method: str, path: str, rest: str, content: bytes, kind: str
) -> None:
    reply = await client.request(method, path + "/" + rest, content=content, headers={"content-type": kind})
    assert reply.status_code < 500, reply.text
