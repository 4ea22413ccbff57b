"""Open Inference Protocol v2 as this predictor speaks it: encoded pictures in, one probability each out.

A BYTES element is base64 text where it comes in JSON and the untouched picture where it comes as bytes: by gRPC, behind
the JSON header of REST's binary tensor extension, or as a body that is nothing but one picture.

Source: kserve/kserve docs/predict-api/v2 and python/kserve/kserve/protocol @ v0.21.0
"""

import binascii
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import orjson
import pybase64
from kserve import InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from numpy.typing import NDArray

from streetvision.inference.engine import INPUT_NAME, OUTPUT_NAME

MAX_IMAGES = 32
HEADER_LENGTH = "inference-header-content-length"
_EXPECTED = f"application/json, image/jpeg, image/png or image/webp, or any with the field {HEADER_LENGTH}"


@dataclass(frozen=True, slots=True)
class Request:
    """What a REST request asks.

    Attributes:
        images: 1 to 32 encoded pictures.
        id: comes back in the reply.
        binary: whether the probabilities are to come as bytes behind the reply's JSON.
    """

    images: list[bytes]
    id: str | None = None
    binary: bool = False


def request(body: bytes, *, content_type: str, header_length: str | None) -> Request:
    """The request of a REST body, in whichever of its three forms.

    Args:
        body: JSON, JSON and a raw tensor, or one picture.
        content_type: of the HTTP header, in lower case.
        header_length: value of the header Inference-Header-Content-Length, where it came.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    if header_length is not None:
        size = int(header_length) if header_length.isdecimal() and len(header_length) <= 10 else -1
        if not 0 <= size <= len(body):
            raise InvalidInput(f"{HEADER_LENGTH} is `{header_length:.20}`, expected 0 to {len(body)}")
        return _json_request(body[:size], raw=body[size:])
    if content_type.startswith("image/"):
        return Request([body])
    if content_type.partition(";")[0].strip() != "application/json":
        raise InvalidInput(f"content-type is `{content_type:.80}`, expected {_EXPECTED}")
    return _json_request(body)


def _json_request(text: bytes, *, raw: bytes = b"") -> Request:
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as err:
        raise InvalidInput(f"request is no JSON: {err}") from err
    fields = _fields(body, "request")
    names = [_fields(tensor, "input").get("name") for tensor in _sequence(fields.get("inputs"), "inputs")]
    if names != [INPUT_NAME]:
        raise InvalidInput(f"inputs are {names!s:.200}, expected one named `{INPUT_NAME}`")
    tensor = fields["inputs"][0]
    count = _count(tensor.get("datatype"), tensor.get("shape"))
    data = tensor.get("data")
    elements = _elements(raw, count) if data is None else _sequence(data, "data")
    if len(elements) != count:
        raise InvalidInput(_misfit(count))
    identity = fields.get("id")
    if not isinstance(identity, str | None):
        raise InvalidInput(f"id is a JSON {type(identity).__name__}, expected text")
    return Request([_picture(*element) for element in enumerate(elements)], identity, _wants_binary(fields))


def _wants_binary(fields: dict[str, Any]) -> bool:
    """What the requested output says, else what the whole request says; as in KServe."""
    outputs = [_fields(output, "output") for output in _sequence(fields.get("outputs") or [], "outputs")]
    for output in outputs:
        if output.get("name") != OUTPUT_NAME:
            raise InvalidInput(f"output is {output.get('name')!r:.100}, expected `{OUTPUT_NAME}`")
    asked = _fields((outputs[0] if outputs else fields).get("parameters") or {}, "parameters")
    return asked.get("binary_data" if outputs else "binary_data_output") is True


def _fields(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} is a JSON {type(value).__name__}, expected an object")
    return cast(dict[str, Any], value)


def _sequence(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{name} is a JSON {type(value).__name__}, expected a list")
    return cast(list[Any], value)


def _count(datatype: object, shape: object) -> int:
    if not isinstance(datatype, str) or datatype.upper() != "BYTES":
        raise InvalidInput(f"input `{INPUT_NAME}` has datatype `{datatype!s:.40}`, expected `BYTES`")
    match shape:
        case [int(count)] if 1 <= count <= MAX_IMAGES and count is not True:
            return count
        case _:
            raise InvalidInput(
                f"input `{INPUT_NAME}` has shape {shape!s:.100}, expected [N] with N from 1 to {MAX_IMAGES}"
            )


def _misfit(count: int) -> str:
    return f"input `{INPUT_NAME}` does not hold the {count} elements of its shape"


def _elements(raw: bytes, count: int) -> list[bytes]:
    """The elements of a raw BYTES tensor: each its length in 4 bytes, then itself."""
    elements: list[bytes] = []
    position = 0
    while position < len(raw) and len(elements) < count:
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        elements.append(raw[start:position])
    if position != len(raw) or len(elements) != count:
        raise InvalidInput(_misfit(count))
    return elements


def _picture(index: int, element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if not isinstance(element, str):
        raise InvalidInput(f"image {index} is a JSON {type(element).__name__}, expected base64 text")
    try:
        return pybase64.b64decode(element, validate=True)
    except (binascii.Error, ValueError) as err:  # the latter for characters beyond ASCII
        raise InvalidInput(f"image {index} is no base64 text: {err}") from err


def reply(
    asked: Request, probability: NDArray[np.float32], *, model_name: str, model_version: str
) -> tuple[bytes, int | None]:
    """The reply's body, byte for byte as KServe writes it, and the length of its JSON where raw data follow."""
    identity = asked.id or str(uuid.uuid4())
    output: dict[str, Any] = {"name": OUTPUT_NAME, "shape": [len(probability)], "datatype": "FP32"}
    if asked.binary:
        raw = probability.tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
        head = orjson.dumps(
            {"id": identity, "model_name": model_name, "model_version": model_version, "outputs": [output]}
        )
        return head + raw, len(head)
    output |= {"parameters": None, "data": probability.tolist()}
    return (
        orjson.dumps(
            {
                "model_name": model_name,
                "model_version": model_version,
                "id": identity,
                "parameters": None,
                "outputs": [output],
            }
        ),
        None,
    )


def images_of(asked: InferRequest) -> list[bytes]:
    """The 1 to 32 encoded pictures of a request that KServe has parsed.

    Raises:
        InvalidInput: one sentence on what is wrong with name, datatype, shape or an element.
    """
    names = [tensor.name for tensor in asked.inputs]
    if names != [INPUT_NAME]:
        raise InvalidInput(f"inputs are {names!s:.200}, expected one named `{INPUT_NAME}`")
    tensor = asked.inputs[0]
    count = _count(tensor.datatype, tensor.shape)
    try:
        elements: Sequence[Any] = tensor.as_numpy().tolist()
    except (ValueError, struct.error) as err:
        raise InvalidInput(_misfit(count)) from err
    return [_picture(*element) for element in enumerate(elements)]


def response_to(asked: InferRequest, probability: NDArray[np.float32], *, version: str) -> InferResponse:
    """The answer in the form the request asked for, carrying the model's version."""
    output = InferOutput(OUTPUT_NAME, [len(probability)], "FP32")
    output.set_data_from_numpy(probability, binary_data=asked.use_binary_outputs)
    return InferResponse(
        response_id=asked.id or str(uuid.uuid4()),
        model_name=asked.model_name,
        model_version=version,
        infer_outputs=[output],
        use_binary_outputs=asked.use_binary_outputs,
        requested_outputs=asked.request_outputs,
    )
