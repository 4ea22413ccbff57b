"""Open Inference Protocol v2 as this predictor speaks it: encoded pictures in, one probability each out.

A BYTES element is base64 text where it comes in JSON and the untouched picture where it comes as bytes, by gRPC or
behind the JSON header of REST's binary tensor extension.
"""

import binascii
import struct
import uuid
from typing import Any

import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import RequestedOutput
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from streetvision.inference.engine import INPUT_NAME, OUTPUT_NAME

MAX_IMAGES = 32


def images_of(request: InferRequest) -> list[bytes]:
    """The 1 to 32 encoded pictures of a request.

    Raises:
        InvalidInput: one sentence on what is wrong with name, datatype, shape or an element.
    """
    names = [tensor.name for tensor in request.inputs]
    if names != [INPUT_NAME]:
        raise InvalidInput(f"inputs are {names}, expected one named `{INPUT_NAME}`")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"input `{INPUT_NAME}` has datatype `{tensor.datatype}`, expected `BYTES`")
    if len(tensor.shape) != 1 or not 1 <= tensor.shape[0] <= MAX_IMAGES:
        raise InvalidInput(f"input `{INPUT_NAME}` has shape {tensor.shape}, expected [N] with N from 1 to {MAX_IMAGES}")
    try:
        elements: list[Any] = tensor.as_numpy().tolist()
    except (ValueError, struct.error) as err:
        raise InvalidInput(f"input `{INPUT_NAME}` does not hold the {tensor.shape[0]} elements of its shape") from err
    return [_encoded_image(index, element) for index, element in enumerate(elements)]


def _encoded_image(index: int, element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if not isinstance(element, str):
        raise InvalidInput(f"image {index} is a JSON {type(element).__name__}, expected base64 text")
    try:
        return binascii.a2b_base64(element, strict_mode=True)
    except ValueError as err:  # binascii.Error, or characters beyond ASCII
        raise InvalidInput(f"image {index} is no base64 text: {err}") from err


def response_to(request: InferRequest, probability: NDArray[np.float32], *, version: str) -> InferResponse:
    """The answer in the form the request asked for, carrying the model's version."""
    output = InferOutput(OUTPUT_NAME, [len(probability)], "FP32")
    output.set_data_from_numpy(probability, binary_data=request.use_binary_outputs)
    return InferResponse(
        response_id=request.id or str(uuid.uuid4()),
        model_name=request.model_name,
        model_version=version,
        infer_outputs=[output],
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] | None = None


class _Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None


class _Header(BaseModel):
    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[_Tensor]
    outputs: list[_Output] | None = None


def binary_request(body: bytes, header_length: str, model_name: str) -> InferRequest:
    """The request of REST's binary tensor extension, its bytes kept as bytes.

    kserve 0.21.0 turns them into JSON strings, which fails for all that is not UTF-8, so for every picture.

    Args:
        body: a JSON header, then the raw tensor.
        header_length: value of the header field Inference-Header-Content-Length.
        model_name: from the path.

    Raises:
        InvalidInput: the JSON header cannot be read or lists more than one tensor.

    Source: kserve/kserve python/kserve/kserve/protocol/infer_type.py @ v0.21.0
    """
    size = int(header_length) if header_length.isdecimal() and len(header_length) <= 10 else -1
    if not 0 <= size <= len(body):
        raise InvalidInput(f"Inference-Header-Content-Length is `{header_length:.20}`, expected 0 to {len(body)}")
    try:
        header = _Header.model_validate_json(body[:size])
    except ValidationError as err:
        raise InvalidInput(f"JSON header is unusable: {first_problem(err)}") from err
    if len(header.inputs) != 1:
        raise InvalidInput(f"request has {len(header.inputs)} inputs, expected one named `{INPUT_NAME}`")
    tensor = header.inputs[0]
    return InferRequest(
        model_name,
        [InferInput(tensor.name, tensor.shape, tensor.datatype, tensor.data or [])],
        request_id=header.id,
        raw_inputs=None if tensor.data else [body[size:]],
        parameters=header.parameters,
        request_outputs=[RequestedOutput(output.name, output.parameters) for output in header.outputs]
        if header.outputs
        else None,
    )


def first_problem(err: ValidationError) -> str:
    """The first thing pydantic found, in one line."""
    problem = err.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"`{where}`: {problem['msg']}" if where else problem["msg"]
