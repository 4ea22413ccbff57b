import base64
import json
import struct
from typing import Any

import pytest
from kserve import InferInput, InferRequest
from kserve.errors import InferenceError, InvalidInput

from serving.predictor.wire import images_of, request

PICTURE = bytes(range(128, 256))
JSON = {"content_type": "application/json; charset=utf-8", "header_length": None}


def element(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def binary(raw: bytes, *, shape: list[int]) -> tuple[bytes, int]:
    image = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [image]}).encode()
    return header + raw, len(header)


def body(**fields: Any) -> bytes:
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(PICTURE).decode()]}
    return json.dumps({"inputs": [image]} | fields).encode()


def test_binary_request_keeps_bytes_as_bytes() -> None:
    content, size = binary(2 * element(PICTURE), shape=[2])
    asked = request(content, content_type="application/octet-stream", header_length=str(size))
    assert asked.images == [PICTURE, PICTURE]


def test_kserve_itself_cannot_take_bytes_over_rest_yet() -> None:
    """When this fails, kserve is mended and its own route would do for raw tensors."""
    content, size = binary(element(PICTURE), shape=[1])
    with pytest.raises(InferenceError, match="using UTF-8"):
        InferRequest.from_bytes(content, size, "roadwork")


def test_a_body_that_is_a_picture_is_a_request_for_one() -> None:
    assert request(PICTURE, content_type="image/jpeg", header_length=None).images == [PICTURE]


def test_json_may_come_without_id_and_parameters() -> None:
    asked = request(body(), **JSON)
    assert (asked.images, asked.id, asked.binary) == ([PICTURE], None, False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"parameters": {"binary_data_output": True}}, True),
        ({"parameters": {"binary_data_output": "yes"}}, False),
        ({"outputs": [{"name": "probability", "parameters": {"binary_data": True}}]}, True),
        ({"outputs": [{"name": "probability"}], "parameters": {"binary_data_output": True}}, False),
    ],
)
def test_who_asks_for_bytes_gets_bytes(fields: dict[str, Any], expected: bool) -> None:
    assert request(body(**fields), **JSON).binary is expected


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"id": 5}, "id is a JSON int, expected text"),
        ({"outputs": [{"name": "logit"}]}, "output is 'logit', expected `probability`"),
        ({"outputs": "probability"}, "outputs is a JSON str, expected a list"),
        ({"parameters": []}, None),
        ({"parameters": [1]}, "parameters is a JSON list, expected an object"),
    ],
)
def test_odd_fields_are_one_sentence_or_nothing(fields: dict[str, Any], part: str | None) -> None:
    if part is None:
        assert request(body(**fields), **JSON).images == [PICTURE]
    else:
        with pytest.raises(InvalidInput) as raised:
            request(body(**fields), **JSON)
        assert raised.value.reason == part


RAW = [b"", b"\x01", struct.pack("<I", 99) + b"short", struct.pack("<I", 2**32 - 1), element(PICTURE) + b"\0"]


@pytest.mark.parametrize("raw", RAW)
def test_raw_tensor_that_does_not_fit_its_shape_is_refused(raw: bytes) -> None:
    content, size = binary(raw, shape=[1])
    with pytest.raises(InvalidInput, match="does not hold the 1 elements"):
        request(content, content_type="", header_length=str(size))
    grpc = InferRequest("roadwork", [InferInput("image", [1], "BYTES", [])], raw_inputs=[raw], from_grpc=True)
    with pytest.raises(InvalidInput, match="does not hold the 1 elements"):
        images_of(grpc)
