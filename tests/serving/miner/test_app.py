import base64
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from bittensor_wallet import Keypair

# Fixtures come from the conftest.py beside this file.
ALICE = Keypair.create_from_uri("//Alice")
WIRE_NAMES = ["/ImageSynapse", "/ExtendedImageSynapse"]


@pytest.mark.parametrize("route", WIRE_NAMES)
def test_a_signed_challenge_is_answered_with_the_prediction(miner: Any, predictor: Any, route: str):
    reply = miner.validator.ask(route=route)
    assert reply.status_code == 200
    assert reply.json() == {"name": route[1:], "testnet_label": -1, "image": "", "prediction": 0.77}
    assert reply.headers["bt_header_axon_status_code"] == "200"
    assert float(reply.headers["bt_header_axon_process_time"]) < 1


def test_the_predictor_gets_the_picture_untouched(miner: Any, predictor: Any):
    image = bytes(range(256)) * 20
    miner.validator.ask(image=image)
    [(path, body)] = predictor.requests
    assert path == "/v2/models/roadwork/infer"
    [tensor] = body["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("image", "BYTES", [1])
    assert base64.b64decode(tensor["data"][0]) == image


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ImageSynapse"),
        ("POST", "/Synapse"),
        ("POST", "/"),
        ("GET", "/"),
        ("POST", "/ImageSynapse/"),
        ("POST", "/imagesynapse"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("OPTIONS", "/ImageSynapse"),
    ],
)
def test_nothing_else_is_served(miner: Any, method: str, path: str):
    reply = miner.validator.client.request(method, miner.validator.url + path)
    assert reply.status_code == 404
    assert "nothing is served" in reply.json()["message"]


def refused(miner: Any, reply: httpx.Response, status: int, reason: str, predictor: Any) -> bool:
    """The reply is a refusal, it was counted under its reason, and the predictor was left alone."""
    assert reply.status_code == status, reply.text
    assert reply.json()["message"]
    assert miner.counted(f'streetvision_miner_refused_total{{reason="{reason}"}}') == 1
    assert predictor.requests == []
    return True


def test_an_unsigned_request_is_refused(miner: Any, predictor: Any):
    headers, body = miner.validator.request()
    del headers["bt_header_dendrite_signature"]
    assert refused(miner, miner.validator.send(headers, body), 401, "unsigned", predictor)


def test_a_request_without_any_header_is_unsigned(miner: Any, predictor: Any):
    assert refused(miner, miner.validator.send({}, b"{}"), 401, "unsigned", predictor)


@pytest.mark.parametrize("uri", ["//Bob", "//Eve"])
def test_a_signature_of_another_key_is_refused(miner: Any, predictor: Any, uri: str):
    reply = miner.validator.ask(sign=Keypair.create_from_uri(uri).sign)
    assert refused(miner, reply, 401, "bad_signature", predictor)


def test_a_request_meant_for_another_miner_is_refused(miner: Any, predictor: Any):
    other = Keypair.create_from_uri("//Ferdie").ss58_address
    assert refused(miner, miner.validator.ask(receiver=other), 401, "bad_signature", predictor)


@pytest.mark.parametrize("field", ["nonce", "uuid"])
def test_a_signed_field_cannot_be_changed(miner: Any, predictor: Any, field: str):
    headers, body = miner.validator.request()
    headers[f"bt_header_dendrite_{field}"] = str(time.time_ns())
    assert refused(miner, miner.validator.send(headers, body), 401, "bad_signature", predictor)


def test_a_replay_is_refused(miner: Any, predictor: Any):
    request = miner.validator.request()
    assert miner.validator.send(*request).status_code == 200
    predictor.requests.clear()
    assert refused(miner, miner.validator.send(*request), 401, "replay", predictor)


@pytest.mark.parametrize(("age_s", "reason"), [(14, "stale_nonce"), (60, "stale_nonce"), (-3, "future_nonce")])
def test_a_nonce_of_another_time_is_refused(miner: Any, predictor: Any, age_s: int, reason: str):
    reply = miner.validator.ask(nonce_ns=time.time_ns() - age_s * 10**9, timeout_s=1e6)
    assert refused(miner, reply, 401, reason, predictor)


def test_a_forged_request_does_not_use_up_the_nonce(miner: Any):
    headers, body = miner.validator.request()
    assert miner.validator.send(headers | {"bt_header_dendrite_signature": "0x" + "00" * 64}, body).status_code == 401
    assert miner.validator.send(headers, body).status_code == 200


@pytest.mark.parametrize(
    ("uri", "reason"), [("//Eve", "unregistered"), ("//Charlie", "no_permit"), ("//Dave", "low_stake")]
)
def test_a_caller_who_may_not_ask_is_refused(miner: Any, predictor: Any, uri: str, reason: str):
    assert refused(miner, miner.validator.ask(keypair=Keypair.create_from_uri(uri)), 403, reason, predictor)


def test_an_address_that_is_none_is_a_stranger(miner: Any, predictor: Any):
    assert refused(miner, miner.validator.ask(sender="5Grw"), 403, "unregistered", predictor)


def test_a_body_over_the_limit_is_refused(miner: Any, predictor: Any):
    reply = miner.validator.ask(image=bytes(80_000))
    assert refused(miner, reply, 413, "too_large", predictor)
    assert reply.headers["connection"] == "close"


def test_a_chunked_body_over_the_limit_is_refused(miner: Any, predictor: Any):
    headers, body = miner.validator.request(image=bytes(80_000))

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    reply = miner.validator.client.post(miner.validator.url + "/ImageSynapse", headers=headers, content=chunks())
    assert refused(miner, reply, 413, "too_large", predictor)


@contextmanager
def half_sent(miner: Any, *, length: int, **changes: Any) -> Iterator[socket.socket]:
    """A connection on which the headers were sent, and 50 bytes of a body of the declared length."""
    host, port = miner.validator.url.removeprefix("http://").split(":")
    headers, body = miner.validator.request(**changes)
    head = f"POST /ImageSynapse HTTP/1.1\r\nhost: miner\r\ncontent-length: {length}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(head.encode() + body[:50])
        yield connection


@pytest.mark.parametrize(
    ("length", "changes", "status"), [(90_000, {"sender": "5Grw"}, 403), (200_000_000, {}, 413), (90_000, {}, 408)]
)
def test_a_body_is_waited_for_neither_in_vain_nor_long(miner: Any, length: int, changes: Any, status: int):
    with half_sent(miner, length=length, **changes) as connection:
        assert connection.recv(100).startswith(f"HTTP/1.1 {status}".encode())


def test_a_caller_who_hangs_up_harms_nobody(miner: Any):
    with half_sent(miner, length=90_000):
        pass
    assert miner.validator.ask().status_code == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"{", "bad_json"), (b"{}", "no_image"), (b'{"image": "$$$$"}', "bad_base64"), (b"[" * 50_000, "bad_json")],
)
def test_a_body_without_a_picture_is_refused(miner: Any, predictor: Any, body: bytes, reason: str):
    headers, _ = miner.validator.request()
    assert refused(miner, miner.validator.send(headers, body), 400, reason, predictor)


# --- when the predictor has no answer


def challenges_counted(miner: Any, outcome: str) -> float:
    labels = f'outcome="{outcome}",validator="{ALICE.ss58_address}"'
    return miner.counted(f"streetvision_miner_challenges_total{{{labels}}}")


def abstains(miner: Any, caplog: pytest.LogCaptureFixture, **changes: Any) -> str:
    """The reason that the miner logged for its -1."""
    with caplog.at_level(logging.WARNING):
        reply = miner.validator.ask(**changes)
    assert reply.status_code == 200
    assert reply.json()["prediction"] == -1.0
    [record] = [record for record in caplog.records if record.name == "serving.miner.app"]
    assert (
        miner.counted(f'streetvision_miner_challenges_total{{outcome="abstained",validator="{ALICE.ss58_address}"}}')
        == 1
    )
    return str(vars(record).get("streetvision_fields", {}).get("reason", record.getMessage()))


@pytest.mark.parametrize(
    "answer",
    [
        {"outputs": [{"name": "probability", "data": [float("nan")]}]},
        {"outputs": [{"name": "probability", "data": [1.7]}]},
        {"outputs": [{"name": "probability", "data": [-1.0]}]},
        {"outputs": [{"name": "probability", "data": []}]},
        {"outputs": [{"name": "probability", "data": [0.2, 0.3]}]},
        {"outputs": [{"name": "probability", "data": None}]},
        {"outputs": [{"name": "other", "data": [0.2]}]},
        {"outputs": {}},
        {},
        [],
        b"no json",
    ],
)
def test_it_abstains_when_the_predictor_answers_nonsense(
    miner: Any, predictor: Any, caplog: pytest.LogCaptureFixture, answer: Any
):
    predictor.answer = answer
    assert "predictor answered" in abstains(miner, caplog)


@pytest.mark.parametrize("status", [400, 500, 503])
def test_it_abstains_when_the_predictor_refuses(
    miner: Any, predictor: Any, caplog: pytest.LogCaptureFixture, status: int
):
    predictor.status = status
    assert f"predictor answered {status}" in abstains(miner, caplog)


def test_it_abstains_when_the_predictor_is_down(start_miner: Callable[..., Any], caplog: pytest.LogCaptureFixture):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    miner = start_miner(predictor_url=f"http://127.0.0.1:{port}")
    assert "out of reach" in abstains(miner, caplog)


def test_it_abstains_in_time_when_the_predictor_is_slow(
    start_miner: Callable[..., Any], predictor: Any, caplog: pytest.LogCaptureFixture
):
    miner = start_miner(answer_deadline_s=0.2)
    predictor.delay_s = 0.6
    start = time.monotonic()
    assert "did not answer in time" in abstains(miner, caplog)
    assert time.monotonic() - start < 0.5


def test_it_asks_again_when_the_predictor_has_closed_the_connection(miner: Any, predictor: Any):
    assert miner.validator.ask().json()["prediction"] == 0.77
    predictor.hang_up = 1
    assert miner.validator.ask().json()["prediction"] == 0.77


@pytest.mark.parametrize("probability", [0.0, 0.4999, 1.0])
def test_a_probability_passes_unchanged(miner: Any, predictor: Any, probability: float):
    predictor.say(probability)
    assert miner.validator.ask().json()["prediction"] == probability


# --- the operator's port


def test_health_follows_the_predictor(miner: Any, predictor: Any):
    assert httpx.get(miner.operator + "/health/live").status_code == 200
    assert httpx.get(miner.operator + "/health/ready").status_code == 200
    predictor.status = 503
    assert httpx.get(miner.operator + "/health/live").status_code == 200
    assert httpx.get(miner.operator + "/health/ready").status_code == 503


def test_metrics_count_challenges_by_validator(miner: Any):
    miner.validator.ask()
    assert (
        miner.counted(f'streetvision_miner_challenges_total{{outcome="answered",validator="{ALICE.ss58_address}"}}')
        == 1
    )
    text = httpx.get(miner.operator + "/metrics").text
    assert "streetvision_miner_answer_seconds_bucket" in text
    last = next(line for line in text.splitlines() if line.startswith("streetvision_miner_last_challenge"))
    assert time.time() - float(last.split()[1]) < 5


# --- the metagraph


def test_a_caller_who_registers_is_answered_at_once(start_miner: Callable[..., Any]):
    miner = start_miner()
    eve = Keypair.create_from_uri("//Eve")
    assert miner.validator.ask(keypair=eve).status_code == 403
    neurons = json.loads(miner.metagraph_file.read_text())
    neurons.append(neurons[0] | {"uid": 9, "hotkey": eve.ss58_address})
    miner.metagraph_file.write_text(json.dumps(neurons))
    assert miner.validator.ask(keypair=eve).status_code == 200


def test_a_broken_metagraph_keeps_the_last_good_one(start_miner: Callable[..., Any], caplog: pytest.LogCaptureFixture):
    miner = start_miner()
    miner.metagraph_file.write_text("{")
    with caplog.at_level(logging.ERROR):
        assert miner.validator.ask().status_code == 200
        assert miner.validator.ask().status_code == 200
    assert [record.getMessage() for record in caplog.records] == ["metagraph_unreadable"]
    miner.metagraph_file.unlink()
    assert miner.validator.ask().status_code == 200
