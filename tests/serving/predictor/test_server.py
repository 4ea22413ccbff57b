import base64
import hashlib
import json
import signal
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serving.predictor.__main__ import main
from serving.predictor.server import Settings
from streetvision.errors import SettingsError
from streetvision.imaging import encode_jpeg

Server = Any  # the one of conftest.py
INFER = "/v2/models/roadwork/infer"


def jpeg(value: int, height: int = 40, width: int = 30) -> bytes:
    return encode_jpeg(np.full((height, width, 3), value, dtype=np.uint8))


def tensor(data: list[Any], **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data} | changes]}


def infer(server: Server, body: Any, **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | options.pop("headers", {})
    return httpx.post(server.url + INFER, content=content, headers=headers, timeout=60, **options)


def infer_base64(server: Server, images: list[bytes]) -> httpx.Response:
    return infer(server, tensor([base64.b64encode(image).decode() for image in images]))


def infer_binary(server: Server, images: list[bytes]) -> httpx.Response:
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    header = tensor([])
    header["inputs"][0] |= {"shape": [len(images)], "parameters": {"binary_data_size": len(raw)}}
    del header["inputs"][0]["data"]
    text = json.dumps(header).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(text))}
    return infer(server, text + raw, headers=headers)


def infer_grpc(server: Server, images: list[bytes], *, raw: bool) -> pb.ModelInferResponse:
    image: dict[str, Any] = {"name": "image", "shape": [len(images)], "datatype": "BYTES"}
    request = pb.ModelInferRequest(model_name="roadwork", id="a-1", inputs=[image])
    if raw:
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(image)) + image for image in images))
    else:
        request.inputs[0].contents.bytes_contents.extend(images)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)


def test_every_transport_gives_the_same_answers_in_order(server: Server, model_dir: Path) -> None:
    images = [jpeg(value) for value in (51, 102, 255)]
    expected = pytest.approx([0.4, 0.6, 1.0])
    version = hashlib.sha256((model_dir / "model.onnx").read_bytes()).hexdigest()[:12]
    for reply in (infer_base64(server, images), infer_binary(server, images)):
        assert reply.status_code == 200
        answer = reply.json()
        assert answer["model_version"] == version
        (output,) = answer["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("probability", "FP32", [3])
        assert output["data"] == expected
    contents = infer_grpc(server, images, raw=False)
    assert list(contents.outputs[0].contents.fp32_contents) == expected
    assert (contents.model_version, contents.id) == (version, "a-1")
    raw = infer_grpc(server, images, raw=True)
    assert np.frombuffer(raw.raw_output_contents[0], dtype="<f4").tolist() == expected


def test_a_request_may_hold_32_pictures(server: Server) -> None:
    values = range(0, 250, 8)
    assert len(values) == 32
    data = infer_base64(server, [jpeg(value) for value in values]).json()["outputs"][0]["data"]
    assert data == sorted(data)
    assert len(data) == 32


BAD_PICTURES = {
    "text": b"hello",
    "nothing": b"",
    "truncated": jpeg(7)[:200],
    "gif": b"GIF89a" + bytes(40),
    "not UTF-8": bytes(range(128, 256)),
}


@pytest.mark.parametrize("data", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_bad_picture_is_a_400_with_one_sentence(server: Server, data: bytes) -> None:
    for reply in (infer_base64(server, [jpeg(1), data]), infer_binary(server, [jpeg(1), data])):
        assert reply.status_code == 400
        sentence = reply.json()["error"]
        assert sentence.startswith("image 1: ")
        assert "\n" not in sentence
    for raw in (False, True):
        with pytest.raises(grpc.RpcError) as raised:
            infer_grpc(server, [jpeg(1), data], raw=raw)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert raised.value.details() == sentence


TEXT = base64.b64encode(jpeg(9)).decode()
MALFORMED: dict[str, tuple[Any, str]] = {
    "another name": (tensor([TEXT], name="picture"), "inputs are ['picture'], expected one named `image`"),
    "two tensors": ({"inputs": tensor([TEXT])["inputs"] * 2}, "expected one named `image`"),
    "no tensor": ({"inputs": []}, "inputs are [], expected one named `image`"),
    "another datatype": (tensor([TEXT], datatype="FP32"), "datatype `FP32`, expected `BYTES`"),
    "no picture": (tensor([]), "shape [0], expected [N] with N from 1 to 32"),
    "too many pictures": (tensor([TEXT] * 33), "shape [33], expected [N] with N from 1 to 32"),
    "two dimensions": (tensor([TEXT], shape=[1, 1]), "shape [1, 1], expected [N]"),
    "fewer than the shape": (tensor([TEXT], shape=[2]), "does not hold the 2 elements of its shape"),
    "nested": (tensor([[TEXT], TEXT]), "image 0 is a JSON list, expected base64 text"),
    "number": (tensor([5]), "image 0 is a JSON int, expected base64 text"),
    "no base64": (tensor([TEXT, "aé"]), "image 1 is no base64 text"),
    "no JSON": (b'{"inputs":', "request is unusable"),
    "no inputs": ({"instances": [1]}, "request is unusable"),
}


@pytest.mark.parametrize(("body", "part"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_is_a_400_with_one_sentence(server: Server, body: Any, part: str) -> None:
    reply = infer(server, body)
    assert reply.status_code == 400
    assert part in reply.json()["error"]
    assert "\n" not in reply.json()["error"]


@pytest.mark.parametrize("length", ["9", "-1", "x", "9999999", "9" * 5000])
def test_wrong_header_length_of_a_binary_request_is_a_400(server: Server, length: str) -> None:
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": length}
    assert infer(server, b'{"inputs": []}' * 20, headers=headers).status_code == 400


def test_other_requests_get_a_status_that_fits(server: Server) -> None:
    v1 = httpx.post(f"{server.url}/v1/models/roadwork:predict", json={"instances": [TEXT]})
    assert (v1.status_code, "protocol v1 is not spoken" in v1.text) == (400, True)
    assert infer(server, b"zzz", headers={"content-type": "text/plain"}).status_code == 400
    assert httpx.post(f"{server.url}/v2/models/other/infer", json=tensor([TEXT])).status_code == 404
    for verb in ("load", "unload"):
        assert httpx.post(f"{server.url}/v2/repository/models/roadwork/{verb}").status_code == 400
    assert infer_base64(server, [jpeg(1)]).status_code == 200


def test_metadata_names_tensors_and_version(server: Server, model_dir: Path) -> None:
    metadata = httpx.get(f"{server.url}/v2/models/roadwork").json()
    assert metadata == {
        "name": "roadwork",
        "versions": [hashlib.sha256((model_dir / "model.onnx").read_bytes()).hexdigest()[:12]],
        "platform": "onnx",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1]}],
    }
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ModelMetadata(pb.ModelMetadataRequest(name="roadwork")).inputs[0].name == "image"
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="roadwork")).ready


def test_health_answers_and_further_pictures_are_refused_while_the_queue_is_full(server: Server) -> None:
    slow = [jpeg(9, 2000, 1990)] * 32  # about a second of decoding
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(infer_grpc, server, slow, raw=False)
        while "streetvision_predictor_pending_images 32.0" not in httpx.get(f"{server.url}/metrics").text:
            assert not reply.done()
        busy = infer_base64(server, [jpeg(1)])
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        assert httpx.get(f"{server.url}/v2/models/roadwork/ready").status_code == 200
        assert not reply.done()
        with pytest.raises(grpc.RpcError) as raised:
            infer_grpc(server, [jpeg(1)], raw=False)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reply.result().outputs[0].shape == [32]
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert busy.json()["error"] == "32 pictures are waiting, expected at most 32"


def test_metrics_tell_times_outcomes_and_the_model(server: Server) -> None:
    infer_base64(server, [jpeg(1)])
    infer_base64(server, [b"x"])
    text = httpx.get(f"{server.url}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["streetvision_predictor_decode_seconds_count"]) >= 2
    assert float(values["streetvision_predictor_engine_seconds_count"]) >= 1
    assert float(values['streetvision_predictor_images_total{outcome="ok"}']) >= 1
    assert float(values['streetvision_predictor_images_total{outcome="refused"}']) >= 1
    assert values["streetvision_predictor_pending_images"] == "0.0"
    assert any('engine="onnx"' in name and 'model_version="' in name for name in values)
    assert 'request_predict_seconds_count{model_name="roadwork"}' in values


def test_logs_are_json_lines_without_a_line_for_each_request(server: Server) -> None:
    before = len(server.events())
    for _ in range(3):
        httpx.get(f"{server.url}/v2/health/ready")
        infer_base64(server, [jpeg(1)])
        infer_base64(server, [b"x"])
        infer_grpc(server, [jpeg(1)], raw=False)
    events = server.events()
    assert len(events) == before
    (ready,) = [event for event in events if event["event"] == "model ready"]
    assert ready["engine"] == "onnx"
    assert len(ready["model_version"]) == 12
    assert not [event for event in events if event["level"] in {"warning", "error"}]


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["predictor", *map(str, arguments)])
    return main()


@pytest.mark.parametrize("option", ["--http_port", "--grpc_port"])
def test_port_in_use_is_one_sentence_and_code_2(
    server: Server, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    used = server.http_port if option == "--http_port" else server.grpc_port  # gRPC by itself would share its port
    assert run_main(monkeypatch, "--model-dir", model_dir, option, used) == 2
    expected = f"error: port {used} cannot be opened: Address already in use\nhint: choose others"
    assert capsys.readouterr().err.startswith(expected)


def test_unusable_model_directory_is_one_sentence_and_code_2(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model-dir", tmp_path, "--http_port", free_port, "--enable_grpc", "false"]
    assert run_main(monkeypatch, *options) == 2
    assert capsys.readouterr().err.startswith(f"error: `config.json` is missing: `{tmp_path}`\nhint: ")


@pytest.mark.slow  # starts a server of its own
def test_sigterm_answers_what_is_in_flight_and_leaves_no_process(own_server: Server) -> None:
    own_server.wait_until_ready()
    idle = httpx.Client()  # kept-alive connections must not delay the end
    idle.get(f"{own_server.url}/v2/health/live")
    statuses: list[int] = []
    slow = [jpeg(9, 2000, 1990)] * 16
    request = threading.Thread(target=lambda: statuses.append(infer_base64(own_server, slow).status_code))
    request.start()
    while "streetvision_predictor_pending_images 16.0" not in idle.get(f"{own_server.url}/metrics").text:
        assert request.is_alive()
    started = time.monotonic()
    own_server.process.send_signal(signal.SIGTERM)
    assert own_server.process.wait(timeout=20) == 0
    assert time.monotonic() - started < 8
    request.join()
    idle.close()
    assert statuses == [200]
    assert own_server.events()[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--http_port", "0"], "option --http_port: "),
        (["--workers", "2"], "option --workers: "),
        (["--engine", "magic"], "option --engine: "),
        (["--decode-limit-px", "40000001"], "option --decode_limit_px: "),
        (["--threads", "0"], "option --threads: "),
    ],
)
def test_option_out_of_range_is_one_sentence(arguments: list[str], part: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_arguments(arguments)
    assert raised.value.message.startswith(part)
    assert "\n" not in raised.value.message


def test_defaults_are_what_a_cluster_expects() -> None:
    settings = Settings.from_arguments([])
    assert (settings.model_dir, settings.model_name) == (Path("/mnt/models"), "roadwork")
    assert (settings.http_port, settings.grpc_port, settings.enable_grpc) == (8080, 8081, True)
