import base64
import hashlib
import json
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serving.predictor import server as module
from serving.predictor.__main__ import main
from streetvision.imaging import encode_jpeg
from tests.ports import free_port

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


def infer_grpc(server: Server, images: list[bytes], *, raw: bool, timeout_s: float = 60) -> pb.ModelInferResponse:
    image: dict[str, Any] = {"name": "image", "shape": [len(images)], "datatype": "BYTES"}
    request = pb.ModelInferRequest(model_name="roadwork", id="a-1", inputs=[image])
    if raw:
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(image)) + image for image in images))
    else:
        request.inputs[0].contents.bytes_contents.extend(images)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=timeout_s)


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


@pytest.mark.parametrize("length", ["9", "-1", "x", "9999999", "9" * 5000])
def test_wrong_header_length_of_a_binary_request_is_a_400(server: Server, length: str) -> None:
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": length}
    assert infer(server, b'{"inputs": []}' * 20, headers=headers).status_code == 400


def test_other_requests_get_a_status_that_fits(server: Server) -> None:
    v1 = httpx.post(f"{server.url}/v1/models/roadwork:predict", json={"instances": ["aGVsbG8="]})
    assert (v1.status_code, "protocol v1 is not spoken" in v1.text) == (400, True)
    assert infer(server, b"zzz", headers={"content-type": "text/plain"}).status_code == 400
    assert httpx.post(f"{server.url}/v2/models/other/infer", json=tensor([])).status_code == 404
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_configure_logs", lambda level: None)  # this process keeps its own
    options = ["--model-dir", tmp_path, "--http_port", free_port(), "--enable_grpc", "false"]
    assert run_main(monkeypatch, *options) == 2
    assert capsys.readouterr().err.startswith(f"error: `config.json` is missing: `{tmp_path}`\nhint: ")


def metric(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    values = [
        line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(f"streetvision_predictor_{name} ")
    ]
    return float(values[0]) if values else 0.0


def await_metric(server: Server, name: str, value: float) -> None:
    deadline = time.monotonic() + 10
    while metric(server, name) != value:
        assert time.monotonic() < deadline, f"{name} is {metric(server, name)}, expected {value}"
        time.sleep(0.005)


def resident(server: Server) -> int:
    """Bytes of memory of the process."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def send_head(server: Server, *fields: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.http_port), timeout=20)
    head = [f"POST {INFER} HTTP/1.1", "host: predictor", "content-type: application/json", *fields, "", ""]
    connection.sendall("\r\n".join(head).encode())
    return connection


def test_a_client_that_hangs_up_is_not_inferred(server: Server) -> None:
    slow = [jpeg(9, 2000, 1990)] * 31  # about a second of decoding
    body = json.dumps(tensor([base64.b64encode(jpeg(1)).decode()])).encode()
    with ThreadPoolExecutor(1) as pool:
        left = metric(server, 'images_total{outcome="left"}')
        reply = pool.submit(infer_grpc, server, slow, raw=False)
        await_metric(server, "pending_images", 31)
        with send_head(server, f"content-length: {len(body)}") as connection:
            connection.sendall(body)
            await_metric(server, "pending_images", 32)
        await_metric(server, "pending_images", 31)  # at once, not when its turn would have come
        assert not reply.done()
        assert metric(server, 'images_total{outcome="left"}') == left + 1
        with pytest.raises(grpc.RpcError):  # nor one whose deadline is over
            infer_grpc(server, [jpeg(1)], raw=False, timeout_s=0.05)
        await_metric(server, 'images_total{outcome="left"}', left + 2)
        assert reply.result().outputs[0].shape == [31]


def test_200_megabytes_are_refused_unread_and_cost_no_memory(server: Server) -> None:
    before = resident(server)
    with send_head(server, "content-length: 200000000") as connection:
        assert b" 413 " in connection.recv(1000)  # nothing of the body is sent yet
    with send_head(server, "content-length: 200000000") as connection:
        try:
            for _ in range(200):
                connection.sendall(bytes(1_000_000))
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused long before the end
        else:
            pytest.fail("200 MB were read")
    with send_head(server, "transfer-encoding: chunked") as connection:
        for _ in range(100):
            connection.sendall(b"1\r\n \r\n" * 10_000)
        connection.sendall(b"0\r\n\r\n")
        assert b" 400 " in connection.recv(1000)  # a million spaces are no JSON
    assert resident(server) - before < 50_000_000
    assert infer_base64(server, [jpeg(1)]).status_code == 200


def test_grpc_takes_a_message_of_20_megabytes_and_refuses_one_beyond_the_limit(server: Server) -> None:
    for size, code in (
        (20_000_000, grpc.StatusCode.INVALID_ARGUMENT),
        (21_000_000, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            infer_grpc(server, [bytes(size)], raw=True)
        assert raised.value.code() is code


@pytest.mark.slow  # starts a server of its own
def test_health_answers_while_64_clients_hammer(own_server: Callable[..., Server]) -> None:
    server = own_server("--queue-limit", "64")
    body, stop = json.dumps(tensor([base64.b64encode(jpeg(1, 1000, 1000)).decode()])).encode(), threading.Event()
    statuses: set[int] = set()

    def hammer() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                headers = {"content-type": "application/json"}
                statuses.add(client.post(server.url + INFER, content=body, headers=headers).status_code)

    threads = [threading.Thread(target=hammer) for _ in range(64)]
    for thread in threads:
        thread.start()
    took_s: list[float] = []
    with httpx.Client() as client:
        for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/roadwork/ready"] * 100:
            begun_s = time.monotonic()
            assert client.get(server.url + path).status_code == 200
            took_s.append(time.monotonic() - begun_s)
    stop.set()
    for thread in threads:
        thread.join()
    assert statuses == {200}
    assert sorted(took_s)[-3] < 1.0  # the 99th of a hundred; a kubelet waits one second


@pytest.mark.slow  # starts a server of its own
def test_sigterm_answers_what_is_in_flight_and_leaves_no_process(own_server: Callable[..., Server]) -> None:
    server = own_server()
    idle = httpx.Client()  # kept-alive connections must not delay the end
    idle.get(f"{server.url}/v2/health/live")
    statuses: list[int] = []
    slow = [jpeg(9, 2000, 1990)] * 16
    request = threading.Thread(target=lambda: statuses.append(infer_base64(server, slow).status_code))
    request.start()
    await_metric(server, "pending_images", 16)
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=20) == 0
    assert time.monotonic() - started < 8
    request.join()
    idle.close()
    assert statuses == [200]
    assert server.events()[-1]["event"] == "stopped"


@pytest.mark.slow  # starts a server of its own
def test_while_it_drains_it_is_unready_and_still_answers(own_server: Callable[..., Server]) -> None:
    server = own_server("--drain-s", "2")
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 1.5
    while httpx.get(f"{server.url}/v2/models/roadwork/ready").status_code == 200:
        assert time.monotonic() < deadline
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
    assert infer_base64(server, [jpeg(1)]).status_code == 200
    assert infer_grpc(server, [jpeg(1)], raw=True).outputs[0].shape == [1]
    assert server.process.wait(timeout=10) == 0


@pytest.mark.slow  # starts a server of its own
def test_it_listens_only_where_it_is_told_to(server: Server, own_server: Callable[..., Server]) -> None:
    own = own_server("--host", "127.0.0.1")
    for port in (server.http_port, server.grpc_port):
        socket.create_connection(("127.0.0.2", port), timeout=5).close()
    for port in (own.http_port, own.grpc_port):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)
