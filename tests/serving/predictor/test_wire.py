import json
import struct

import pytest
from kserve import InferInput, InferRequest
from kserve.errors import InferenceError, InvalidInput

from serving.predictor.wire import binary_request, images_of

PICTURE = bytes(range(128, 256))


def binary(raw: bytes, *, shape: list[int]) -> tuple[bytes, int]:
    image = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [image]}).encode()
    return header + raw, len(header)


def test_binary_request_keeps_bytes_as_bytes() -> None:
    body, size = binary(2 * (struct.pack("<I", len(PICTURE)) + PICTURE), shape=[2])
    assert images_of(binary_request(body, str(size), "roadwork")) == [PICTURE, PICTURE]


def test_kserve_itself_cannot_take_bytes_over_rest_yet() -> None:
    """When this fails, kserve is mended and `binary_request` can go."""
    body, size = binary(struct.pack("<I", len(PICTURE)) + PICTURE, shape=[1])
    with pytest.raises(InferenceError, match="using UTF-8"):
        InferRequest.from_bytes(body, size, "roadwork")


@pytest.mark.parametrize("raw", [b"", b"\x01", struct.pack("<I", 99) + b"short", struct.pack("<I", 2**32 - 1)])
def test_raw_tensor_that_does_not_fit_its_shape_is_refused(raw: bytes) -> None:
    body, size = binary(raw, shape=[1])
    with pytest.raises(InvalidInput, match="does not hold the 1 elements"):
        images_of(binary_request(body, str(size), "roadwork"))
    grpc = InferRequest("roadwork", [InferInput("image", [1], "BYTES", [])], raw_inputs=[raw], from_grpc=True)
    with pytest.raises(InvalidInput, match="does not hold the 1 elements"):
        images_of(grpc)
