import base64
import json
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from bittensor_wallet import Keypair

from streetvision.subnet import btauth

# Fixtures come from the conftest.py beside this file.
ALICE = Keypair.create_from_uri("//Alice")
MINER = Keypair.create_from_uri("//Bob")
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
        ("POST", "/ImageSynapse?a=b"),
        ("OPTIONS", "/ImageSynapse"),
    ],
)
def test_nothing_else_is_served(miner: Any, method: str, path: str):
    reply = miner.validator.client.request(method, miner.validator.url + path)
    assert reply.status_code == 404
    assert "nothing is served" in reply.json()["message"]
    assert miner.refused("not_found") == 1


def refused(miner: Any, reply: httpx.Response, status: int, reason: str, predictor: Any) -> bool:
    """The reply is a refusal, it was counted under its reason, and the predictor was left alone."""
    assert reply.status_code == status, reply.text
    assert reply.json()["message"]
    assert reply.headers["connection"] == "close"
    assert miner.refused(reason) == 1
    assert predictor.requests == []
    assert miner.journal.accepted == []
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
    assert refused(miner, miner.validator.ask(receiver=other), 401, "other_receiver", predictor)


def test_what_the_axon_header_says_does_not_matter_where_the_signature_is_for_us(miner: Any):
    headers, body = miner.validator.request()
    headers["bt_header_axon_hotkey"] = ALICE.ss58_address
    assert miner.validator.send(headers, body).status_code == 200
    del headers["bt_header_axon_hotkey"]
    headers = miner.validator.request()[0]
    del headers["bt_header_axon_hotkey"]
    assert miner.validator.send(headers, body).status_code == 200


@pytest.mark.parametrize("field", ["nonce", "uuid"])
def test_a_signed_field_cannot_be_changed(miner: Any, predictor: Any, field: str):
    headers, body = miner.validator.request()
    headers[f"bt_header_dendrite_{field}"] = str(time.time_ns())
    assert refused(miner, miner.validator.send(headers, body), 401, "bad_signature", predictor)


def test_a_replay_is_refused(miner: Any, predictor: Any):
    request = miner.validator.request()
    assert miner.validator.send(*request).status_code == 200
    predictor.requests.clear()
    miner.journal.accepted.clear()
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


def test_a_chunked_body_over_the_limit_is_refused(miner: Any, predictor: Any):
    headers, body = miner.validator.request(image=bytes(80_000))

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    reply = miner.validator.client.post(miner.validator.url + "/ImageSynapse", headers=headers, content=chunks())
    assert refused(miner, reply, 413, "too_large", predictor)


@contextmanager
def half_sent(
    miner: Any, *, length: int, headers: dict[str, str] | None = None, **changes: Any
) -> Iterator[socket.socket]:
    """A connection on which the headers were sent, and 50 bytes of a body of the declared length."""
    host, port = miner.validator.url.removeprefix("http://").split(":")
    signed, body = miner.validator.request(**changes)
    headers = headers or signed
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


# --- a signature that covers the body


def btauth_request(miner: Any, *, length: int, keypair: Keypair = ALICE) -> tuple[dict[str, str], bytes]:
    body = json.dumps({"name": "ImageSynapse", "image": base64.b64encode(bytes(length)).decode()}).encode()
    headers = btauth.build_headers(
        body,
        target="/ImageSynapse",
        sender=keypair.ss58_address,
        receiver=MINER.ss58_address,
        nonce_ns=time.time_ns(),
        sign=keypair.sign,
    )
    return headers, body


@pytest.mark.parametrize("length", [10, 70_000])
def test_its_body_is_read_before_the_signature_is_checked(miner: Any, predictor: Any, length: int):
    headers, body = btauth_request(miner, length=length)
    assert miner.validator.send(headers, body[:-1] + b" }").status_code == 401
    assert miner.validator.send(headers, body).json()["prediction"] == 0.77
    assert predictor.pictures() == [bytes(length)]
    [accepted] = miner.journal.accepted
    assert (accepted.wire, accepted.unauthenticated_body) == ("btauth/1", False)
    assert miner.counted("streetvision_miner_unauthenticated_bodies_total") == 0


@pytest.mark.parametrize(("length", "uri", "status"), [(90_000, "//Eve", 403), (10**8, "//Alice", 413)])
def test_its_body_is_not_waited_for_where_the_headers_say_enough(miner: Any, length: int, uri: str, status: int):
    headers, _ = btauth_request(miner, length=10, keypair=Keypair.create_from_uri(uri))
    with half_sent(miner, length=length, headers=headers) as connection:
        assert connection.recv(100).startswith(f"HTTP/1.1 {status}".encode())


# --- what is written down


def test_an_accepted_challenge_is_written_down_once_and_so_is_its_answer(miner: Any):
    image = b"a picture"
    miner.validator.ask(image=image)
    [accepted], [finished] = miner.journal.accepted, miner.journal.finished
    assert (accepted.validator, accepted.uid, accepted.route) == (ALICE.ss58_address, 0, "/ImageSynapse")
    assert (accepted.image, accepted.wire, accepted.unauthenticated_body) == (image, "legacy", True)
    assert abs(accepted.time_ns - time.time_ns()) < 5e9
    assert finished.request_id == accepted.request_id
    assert (finished.prediction, finished.answered_by, finished.reason) == (0.77, "primary", "")
    assert finished.parts_ms.keys() == {"verify", "receive", "primary"}
    assert finished.latency_ms >= sum(finished.parts_ms.values())
    assert miner.counted("streetvision_miner_unauthenticated_bodies_total") == 1


def test_the_predictor_works_while_the_challenge_is_written_down(start_miner: Callable[..., Any], predictor: Any):
    miner = start_miner()
    miner.validator.ask()
    miner.journal.delay_s = predictor.delay_s = 0.2
    begun = time.monotonic()
    assert miner.validator.ask().json()["prediction"] == 0.77
    assert 0.2 <= time.monotonic() - begun < 0.35


# --- when the predictor has no answer


def challenges_counted(miner: Any, outcome: str) -> float:
    labels = f'outcome="{outcome}",validator="{ALICE.ss58_address}"'
    return miner.counted(f"streetvision_miner_challenges_total{{{labels}}}")


def abstains(miner: Any, caplog: pytest.LogCaptureFixture) -> bool:
    """The miner answers -1, and says why in its log, its journal and its metrics."""
    with caplog.at_level(logging.WARNING):
        reply = miner.validator.ask()
    assert reply.status_code == 200
    assert reply.json()["prediction"] == -1.0
    [record] = [record for record in caplog.records if record.name == "serving.miner.app"]
    [finished] = miner.journal.finished
    reason = vars(record)["streetvision_fields"]["reason"]
    assert (finished.prediction, finished.answered_by, finished.reason) == (-1.0, "", reason)
    assert miner.counted(f'streetvision_miner_abstained_total{{reason="{reason}"}}') == 1
    return challenges_counted(miner, "abstained") == 1


@pytest.mark.parametrize("answer", [{"outputs": {}}, b"no json"])
def test_it_abstains_when_the_predictor_answers_nonsense(
    miner: Any, predictor: Any, caplog: pytest.LogCaptureFixture, answer: Any
):
    predictor.answer = answer
    assert abstains(miner, caplog)


@pytest.mark.parametrize("values", [[float("nan")], [1.7], [-1.0], [0.5], [], [0.2, 0.3]])
def test_it_abstains_when_the_predictor_answers_no_usable_probability(
    miner: Any, predictor: Any, caplog: pytest.LogCaptureFixture, values: list[float]
):
    predictor.say(*values)
    assert abstains(miner, caplog)


@pytest.mark.parametrize("status", [400, 500, 503])
def test_it_abstains_when_the_predictor_refuses(
    miner: Any, predictor: Any, caplog: pytest.LogCaptureFixture, status: int
):
    predictor.status = status
    assert abstains(miner, caplog)


def test_it_abstains_when_the_predictor_is_down(start_miner: Callable[..., Any], caplog: pytest.LogCaptureFixture):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert abstains(start_miner(predictor_url=f"http://127.0.0.1:{port}"), caplog)


def test_it_abstains_in_time_when_the_predictor_is_slow(
    start_miner: Callable[..., Any], predictor: Any, caplog: pytest.LogCaptureFixture
):
    miner = start_miner(answer_deadline_s=0.2)
    predictor.delay_s = 0.6
    start = time.monotonic()
    assert abstains(miner, caplog)
    assert time.monotonic() - start < 0.5


class Broken:
    """A way to the predictors that breaks its promise."""

    def __init__(self, prediction: float | None) -> None:
        self.prediction = prediction
        self.kept: list[bytes] = []

    async def predict(self, image: bytes, *, deadline_s: float) -> Any:
        if self.prediction is None:
            raise RuntimeError("never raises, it said")
        return SimpleNamespace(
            prediction=self.prediction, answered_by="primary", reason="", parts_ms={}, model_version=""
        )

    def after(self, request_id: str, image: bytes) -> None:
        self.kept.append(image)


@pytest.mark.parametrize("prediction", [None, float("nan"), float("inf"), -0.1, 1.1, 0.5])
def test_nothing_unusable_leaves_the_miner_whatever_the_way_to_the_predictors_does(
    start_miner: Callable[..., Any], prediction: float | None, monkeypatch: pytest.MonkeyPatch
):
    miner = start_miner()
    monkeypatch.setattr(miner.edge, "_forward", Broken(prediction))
    reply = miner.validator.ask()
    assert (reply.status_code, reply.json()["prediction"]) == (200, -1.0)


@pytest.mark.parametrize(("prediction", "pictures"), [(0.7, 1), (float("nan"), 0), (None, 0)])
def test_only_a_picture_that_was_answered_is_shown_to_the_challenger(
    start_miner: Callable[..., Any], prediction: float | None, pictures: int, monkeypatch: pytest.MonkeyPatch
):
    miner = start_miner()
    forward = Broken(prediction)
    monkeypatch.setattr(miner.edge, "_forward", forward)
    assert miner.validator.ask().status_code == 200
    assert len(forward.kept) == pictures


@pytest.mark.parametrize("method", ["accept", "finish"])
def test_a_journal_that_breaks_its_promise_costs_no_answer(
    start_miner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, method: str
):
    miner = start_miner()
    monkeypatch.setattr(miner.journal, method, lambda _record: 1 / 0)
    assert miner.validator.ask().json()["prediction"] == 0.77


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
    not_ready = httpx.get(miner.operator + "/health/ready")
    assert not_ready.status_code == 503
    assert not_ready.json() == {
        "ready": False,
        "hotkeys": [MINER.ss58_address],
        "accepting": True,
        "predictor": False,
    }


def test_metrics_count_challenges_by_validator_and_say_where_the_time_went(miner: Any):
    miner.validator.ask()
    assert challenges_counted(miner, "answered") == 1
    for part in ("verify", "receive", "primary"):
        assert miner.counted(f'streetvision_miner_part_seconds_count{{part="{part}"}}') == 1
    found = miner.counts()
    assert time.time() - found["streetvision_miner_last_challenge_timestamp_seconds"] < 5
    assert 0 <= found["streetvision_miner_last_challenge_age_seconds"] < 5
    assert found["streetvision_miner_nonce_sessions"] >= 1
    assert found["streetvision_miner_bodies_bytes"] == 0
    assert found["streetvision_miner_connections"] == 1


def test_before_the_first_challenge_nothing_is_made_up(start_miner: Callable[..., Any]):
    found = start_miner().counts()
    assert found["streetvision_miner_last_challenge_timestamp_seconds"] == 0
    assert math.isnan(found["streetvision_miner_last_challenge_age_seconds"])


@pytest.mark.parametrize(("method", "path"), [("POST", "/metrics"), ("GET", "/"), ("POST", "/ImageSynapse")])
def test_the_operators_port_serves_nothing_else(miner: Any, method: str, path: str):
    assert httpx.request(method, miner.operator + path).status_code == 404


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
