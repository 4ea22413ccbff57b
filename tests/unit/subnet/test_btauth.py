import hashlib
from typing import Any

import pytest
from bittensor_wallet import Keypair
from hypothesis import given
from hypothesis import strategies as st

from streetvision.errors import WireError
from streetvision.subnet.btauth import WINDOW, SignedHeaders, build_headers, is_used, parse_headers

NOW_NS = 1_795_343_571_765_456_882
ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")
BODY = b'{"image": "/9j/"}'


def request(**changes: Any) -> dict[str, str]:
    arguments: dict[str, Any] = {
        "target": "/ImageSynapse",
        "sender": ALICE.ss58_address,
        "receiver": BOB.ss58_address,
        "nonce_ns": NOW_NS,
        "sign": ALICE.sign,
    }
    return build_headers(BODY, **(arguments | changes))


def test_the_signed_text_is_that_of_the_specification():
    signed = SignedHeaders(hotkey="sender", receiver="receiver", nonce_ns=7, scheme="sr25519", signature=b"")
    assert signed.signed_text(target="/a?b", body=BODY).decode().split("\n") == [
        *("btauth/1", "sr25519", "POST", "/a?b", hashlib.sha256(BODY).hexdigest(), "7", "sender", "receiver")
    ]


def test_a_built_request_is_parsed_again_and_its_signature_holds_for_that_body_alone():
    signed = parse_headers(request())
    assert (signed.hotkey, signed.receiver) == (ALICE.ss58_address, BOB.ss58_address)
    assert (signed.nonce_ns, signed.scheme) == (NOW_NS, "sr25519")
    text = signed.signed_text(target="/ImageSynapse", body=BODY)
    assert ALICE.verify(text, signed.signature)
    assert not ALICE.verify(signed.signed_text(target="/ImageSynapse", body=BODY + b" "), signed.signature)


@pytest.mark.parametrize("written", ["ed25519", "0", " ED25519 "])
def test_another_kind_of_key_is_named_in_a_header(written: str):
    headers = request(scheme="ed25519")
    assert headers["x-bittensor-crypto"] == "ed25519"
    assert parse_headers(headers | {"x-bittensor-crypto": written}).scheme == "ed25519"
    assert "x-bittensor-crypto" not in request()


@pytest.mark.parametrize("field", ["version", "hotkey", "receiver", "nonce", "signature"])
def test_a_request_without_a_signed_field_is_unsigned(field: str):
    headers = request()
    del headers[f"x-bittensor-{field}"]
    assert is_used(headers)
    with pytest.raises(WireError, match=f"x-bittensor-{field}` is missing") as raised:
        parse_headers(headers)
    assert (raised.value.status, raised.value.reason) == (401, "unsigned")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "2"),
        ("hotkey", "a" * 65),
        ("hotkey", "not an address"),
        ("receiver", "-"),
        ("nonce", "-5"),
        ("nonce", "9" * 5000),
        ("nonce", "٣"),
        ("signature", "0xzz"),
        ("signature", "0x1234"),
        ("crypto", "rsa"),
        ("crypto", ""),
    ],
)
def test_a_malformed_header_is_named(field: str, value: str):
    with pytest.raises(WireError, match=r"header|signature") as raised:
        parse_headers(request() | {f"x-bittensor-{field}": value})
    assert raised.value.status == 400


@given(st.dictionaries(st.sampled_from([*request(), "x-bittensor-crypto"]), st.text(max_size=80)))
def test_headers_are_parsed_or_refused_and_nothing_else(changes: dict[str, str]):
    try:
        parse_headers(request() | changes)
    except WireError as err:
        assert err.status in (400, 401)


def test_the_window_is_that_of_the_specification():
    assert (WINDOW.age_s, WINDOW.ahead_s) == (10, 2)
