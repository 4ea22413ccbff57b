import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Keypair
from hypothesis import given
from hypothesis import strategies as st

from streetvision.errors import WireError
from streetvision.subnet.protocol import (
    EMPTY_BODY_HASH,
    NO_ANSWER,
    ROUTES,
    WINDOW,
    SignedHeaders,
    build_request,
    parse_headers,
    parse_reply,
    reply_body,
    reply_headers,
    served_prediction,
)

SECOND = 1_000_000_000
NOW_NS = 1_795_343_571_765_456_882
ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")
FACTS = json.loads((Path(__file__).parents[2] / "data" / "subnet" / "wire_facts.json").read_text())


def request(**changes: Any) -> tuple[dict[str, str], bytes]:
    arguments: dict[str, Any] = {
        "route": ROUTES[0],
        "sender": ALICE.ss58_address,
        "receiver": BOB.ss58_address,
        "uuid": "11f401f0-e660-11f1-8d56-02fc00000001",
        "nonce_ns": NOW_NS,
        "sign": ALICE.sign,
        "host": "127.0.0.1",
        "port": 56447,
    }
    return build_request(b"\xff\xd8picture", **(arguments | changes))


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


# --- the captured exchange


def captured_headers() -> dict[str, str]:
    headers = dict(FACTS["request"]["headers"])
    text = (
        f"{headers['bt_header_dendrite_nonce']}.{ALICE.ss58_address}.{BOB.ss58_address}."
        f"{headers['bt_header_dendrite_uuid']}.{EMPTY_BODY_HASH}"
    )
    # The record abridges these two.
    return headers | {
        "bt_header_dendrite_signature": "0x" + ALICE.sign(text.encode()).hex(),
        "computed_body_hash": EMPTY_BODY_HASH,
    }


def test_the_hash_of_a_body_without_hashed_fields_is_the_captured_one():
    assert EMPTY_BODY_HASH.startswith(FACTS["request"]["headers"]["computed_body_hash"].removesuffix("..."))


def test_a_captured_request_is_parsed_and_its_signature_holds():
    headers = parse_headers(captured_headers())
    assert headers.hotkey == ALICE.ss58_address
    assert headers.nonce_ns == 1795343571765456882
    assert Keypair(ss58_address=headers.hotkey).verify(headers.signed_text(BOB.ss58_address), headers.signature)


def test_a_built_request_has_the_captured_headers():
    headers, _ = request()
    captured = captured_headers()
    assert set(headers) - {"content-type"} == set(captured)
    variable = {"header_size", "total_size", "bt_header_dendrite_ip", "bt_header_dendrite_signature"}
    assert {name: headers[name] for name in set(captured) - variable} == {
        name: captured[name] for name in set(captured) - variable
    }


@pytest.mark.parametrize(("route", "extra"), [(ROUTES[0], set[str]()), (ROUTES[1], {"model_url"})])
def test_a_built_body_has_the_captured_fields(route: str, extra: set[str]):
    body = json.loads(request(route=route)[1])
    assert set(body) == set(FACTS["body_keys"]) | extra
    assert set(body["dendrite"]) == set(body["axon"]) == set(FACTS["body_terminal_keys"])


def test_a_reply_has_the_captured_status_headers_and_no_picture():
    headers = reply_headers("ImageSynapse", process_time_s=0.001)
    of_the_server = {"Date", "Server", "Content-Length", "Content-Type"}
    assert set(headers) == set(FACTS["response_headers"]) - of_the_server
    for name in ("name", "bt_header_axon_status_code", "bt_header_axon_status_message"):
        assert headers[name] == FACTS["response_headers"][name]
    body = json.loads(reply_body("ImageSynapse", 0.77))
    assert body == {"name": "ImageSynapse", "testnet_label": -1, "image": "", "prediction": 0.77}


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"0.7"', "string_0.7"),
        ("true", "true"),
        ("null", "null"),
        ("NaN", "nan"),
        ("Infinity", "inf"),
        ("1.7", "1.7"),
        ("1", "int1"),
        ('"text"', "text"),
        ("[0.5]", "list"),
    ],
)
def test_a_validator_records_an_odd_reply_as_a_dendrite_does(value: str, key: str):
    recorded = parse_reply(f'{{"prediction": {value}, "other": 1}}'.encode())
    expected = float(FACTS["dendrite_accepts"][key][0])
    assert recorded == expected or (math.isnan(recorded) and math.isnan(expected))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"text", b"null", b"\xff", b"[" * 100_000])
def test_a_reply_without_prediction_is_no_answer(body: bytes):
    assert parse_reply(body) == NO_ANSWER


# --- headers


def test_a_built_request_is_parsed_again():
    headers, body = request()
    assert parse_headers(headers) == SignedHeaders(
        hotkey=ALICE.ss58_address,
        uuid="11f401f0-e660-11f1-8d56-02fc00000001",
        nonce_ns=NOW_NS,
        signature=parse_headers(headers).signature,
    )
    assert base64.b64decode(json.loads(body)["image"]) == b"\xff\xd8picture"


@pytest.mark.parametrize("field", ["hotkey", "signature", "nonce", "uuid"])
def test_a_request_without_a_signed_field_is_unsigned(field: str):
    with pytest.raises(WireError, match=f"bt_header_dendrite_{field}` is missing") as raised:
        parse_headers(without(request()[0], f"bt_header_dendrite_{field}"))
    assert (raised.value.status, raised.value.reason) == (401, "unsigned")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bt_header_dendrite_nonce", "-5"),
        ("bt_header_dendrite_nonce", "1e9"),
        ("bt_header_dendrite_nonce", "9" * 5000),
        ("bt_header_dendrite_nonce", "٣"),
        ("bt_header_dendrite_signature", "0xzz"),
        ("bt_header_dendrite_signature", "0x1234"),
        ("bt_header_dendrite_hotkey", "a" * 65),
        ("bt_header_dendrite_hotkey", "not an address"),
        ("bt_header_dendrite_uuid", "u" * 65),
        ("computed_body_hash", "a" * 64),
    ],
)
def test_a_malformed_header_is_named(name: str, value: str):
    with pytest.raises(WireError, match=r"header|signature") as raised:
        parse_headers(request()[0] | {name: value})
    assert raised.value.status == 400


@given(st.dictionaries(st.sampled_from(sorted(request()[0])), st.text(max_size=80)))
def test_headers_are_parsed_or_refused_and_nothing_else(changes: dict[str, str]):
    try:
        parse_headers(request()[0] | changes)
    except WireError as err:
        assert err.status in (400, 401)


# --- nonces


@pytest.mark.parametrize("age_s", [12.9, 0, -2])
def test_a_nonce_of_our_time_is_taken(age_s: float):
    WINDOW.check(NOW_NS - int(age_s * SECOND), now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("age_s", "reason", "message"),
    [
        (13, "stale_nonce", r"13\.0 s old, expected less than 13 s"),
        (60, "stale_nonce", r"60\.0 s old"),
        (-2.5, "future_nonce", r"2\.5 s ahead of this clock, expected at most 2 s"),
        (-31_536_000, "future_nonce", r"31536000\.0 s ahead"),
    ],
)
def test_a_nonce_of_another_time_is_refused(age_s: float, reason: str, message: str):
    with pytest.raises(WireError, match=message) as raised:
        WINDOW.check(NOW_NS - int(age_s * SECOND), now_ns=NOW_NS)
    assert (raised.value.status, raised.value.reason) == (401, reason)


# --- replies


@given(st.floats(allow_nan=False))
def test_what_is_served_lies_in_the_unit_interval_or_is_no_answer(prediction: float):
    served = served_prediction(prediction)
    assert 0 <= served <= 1 or served == prediction == NO_ANSWER


def test_a_nan_is_never_served():
    with pytest.raises(WireError, match="NaN") as raised:
        reply_body("ImageSynapse", math.nan)
    assert raised.value.status == 500
