import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Keypair

from serving.miner.metagraph import Neuron
from serving.miner.nonces import LocalNonces
from serving.miner.verification import CallerPolicy, Verifier
from streetvision.errors import WireError
from streetvision.subnet import btauth
from streetvision.subnet.protocol import EMPTY_BODY_HASH, build_request

SECOND = 1_000_000_000
NOW_NS = 1_795_343_571_765_456_882
ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")
EVE = Keypair.create_from_uri("//Eve")
EDWARD = Keypair.create_from_uri("//Edward", crypto_type=0)  # an ed25519 key
FACTS = json.loads((Path(__file__).parents[2] / "data" / "subnet" / "wire_facts.json").read_text())


class Registered:
    """A metagraph of the callers here."""

    def neuron(self, hotkey: str) -> Neuron | None:
        known = {ALICE.ss58_address: (5000.0, True), EDWARD.ss58_address: (5000.0, True)}
        if hotkey not in known:
            return None
        stake, permit = known[hotkey]
        return Neuron(uid=7, hotkey=hotkey, stake=stake, permit=permit, ip="127.0.0.1", port=0)

    def registered(self, hotkey: str) -> bool:
        return hotkey == BOB.ss58_address


@dataclass
class Clock:
    now_ns: int = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


@dataclass(frozen=True)
class Head:
    """The head of a request, as the verifier sees it."""

    headers: Mapping[str, str]
    target: str = "/ImageSynapse"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def verifier_at(clock: Clock, **changes: Any) -> Verifier:
    # An edge that has run for a minute, or it would take nothing from before.
    nonces = LocalNonces(clock_ns=lambda: NOW_NS - 60 * SECOND)
    options: dict[str, Any] = {"receivers": [BOB.ss58_address], "clock_ns": clock}
    options |= changes
    return Verifier(options.pop("receivers"), Registered(), nonces, **options)


@pytest.fixture
def verifier(clock: Clock) -> Verifier:
    return verifier_at(clock)


async def admit(verifier: Verifier, head: Head, body: bytes = b"") -> str:
    """What becomes of a request: who called, or the reason of the refusal."""
    try:
        claim = verifier.claim(head)
        await verifier.prove(claim, head, body)
    except WireError as err:
        return f"{err.status} {err.reason}"
    return claim.caller.hotkey


# --- the captured exchange, with its clock


def captured(**changes: str) -> Head:
    headers = FACTS["request"]["headers"] | changes
    fields = [headers[f"bt_header_{name}"] for name in ("dendrite_nonce", "dendrite_hotkey", "axon_hotkey")]
    text = ".".join([*fields, headers["bt_header_dendrite_uuid"], EMPTY_BODY_HASH])
    # The record abridges these two.
    return Head(
        headers
        | {
            "bt_header_dendrite_signature": "0x" + ALICE.sign(text.encode()).hex(),
            "computed_body_hash": EMPTY_BODY_HASH,
        }
    )


async def test_the_captured_request_is_admitted_at_its_time(verifier: Verifier, clock: Clock):
    clock.now_ns = int(FACTS["request"]["headers"]["bt_header_dendrite_nonce"])
    assert await admit(verifier, captured()) == ALICE.ss58_address


@pytest.mark.parametrize(
    ("age_s", "key", "outcome"),
    [
        (12, "nonce_12s_old_first_contact", ALICE.ss58_address),
        (14, "nonce_14s_old_first_contact", "401 stale_nonce"),
    ],
)
async def test_first_nonces_are_as_old_as_the_stock_axon_allows(
    verifier: Verifier, clock: Clock, age_s: int, key: str, outcome: str
):
    clock.now_ns = int(FACTS["request"]["headers"]["bt_header_dendrite_nonce"]) + age_s * SECOND
    assert await admit(verifier, captured()) == outcome
    assert FACTS[key][0] == (200 if outcome == ALICE.ss58_address else 401)


async def test_the_captured_replay_is_refused_as_by_the_stock_axon(verifier: Verifier):
    outcomes = [await admit(verifier, captured()) for _ in FACTS["replay_same_nonce"]]
    assert outcomes == [ALICE.ss58_address, "401 replay"]
    assert [status for status, _ in FACTS["replay_same_nonce"]] == [200, 401]


async def test_the_unsigned_request_that_the_old_axon_took_is_refused(verifier: Verifier):
    headers = dict(captured().headers)
    del headers["bt_header_dendrite_signature"]
    assert await admit(verifier, Head(headers)) == "401 unsigned"
    assert FACTS["unsigned_request"][0] == 200


async def test_what_a_request_says_of_its_timeout_is_ignored(verifier: Verifier, clock: Clock):
    clock.now_ns += 60 * SECOND
    assert await admit(verifier, captured(timeout="1000000.0")) == "401 stale_nonce"


async def test_a_nonce_of_next_year_is_refused(verifier: Verifier):
    nonce = str(NOW_NS + 365 * 86_400 * SECOND)
    assert await admit(verifier, captured(bt_header_dendrite_nonce=nonce)) == "401 future_nonce"


async def test_a_refused_nonce_can_still_be_used_when_its_time_comes(verifier: Verifier, clock: Clock):
    ahead = captured(bt_header_dendrite_nonce=str(NOW_NS + 5 * SECOND))
    assert await admit(verifier, ahead) == "401 future_nonce"
    clock.now_ns += 5 * SECOND
    assert await admit(verifier, ahead) == ALICE.ss58_address


async def test_a_nonce_is_never_taken_twice_however_long_the_replay_waits(verifier: Verifier, clock: Clock):
    ahead = captured(bt_header_dendrite_nonce=str(NOW_NS + 2 * SECOND))
    assert await admit(verifier, ahead) == ALICE.ss58_address
    for later_s in (0, 1, 5, 14, 15, 16, 3600):
        clock.now_ns = NOW_NS + later_s * SECOND
        assert (await admit(verifier, ahead)).startswith("401 ")


# --- who may ask


@pytest.mark.parametrize(
    ("policy", "sender", "outcome"),
    [
        (CallerPolicy(), EVE, "403 unregistered"),
        (CallerPolicy(minimum_stake=5000.0), ALICE, ALICE.ss58_address),
        (CallerPolicy(minimum_stake=5000.1), ALICE, "403 low_stake"),
    ],
)
async def test_callers_are_judged_by_the_policy(clock: Clock, policy: CallerPolicy, sender: Keypair, outcome: str):
    head = legacy(sender=sender.ss58_address, sign=sender.sign)
    assert await admit(verifier_at(clock, policy=policy), head) == outcome


def legacy(**changes: Any) -> Head:
    arguments: dict[str, Any] = {
        "route": "/ImageSynapse",
        "sender": ALICE.ss58_address,
        "receiver": BOB.ss58_address,
        "uuid": "a session",
        "nonce_ns": NOW_NS,
        "sign": ALICE.sign,
        "host": "127.0.0.1",
        "port": 8091,
    }
    return Head(build_request(b"picture", **(arguments | changes))[0])


async def test_every_session_of_a_caller_has_nonces_of_its_own(verifier: Verifier):
    assert await admit(verifier, legacy(uuid="one")) == ALICE.ss58_address
    assert await admit(verifier, legacy(uuid="two", nonce_ns=NOW_NS - 1)) == ALICE.ss58_address
    assert await admit(verifier, legacy(uuid="one", nonce_ns=NOW_NS - 1)) == "401 replay"


async def test_while_a_key_is_rotated_both_are_ours(clock: Clock):
    new = Keypair.create_from_uri("//Bob//next").ss58_address
    verifier = verifier_at(clock, receivers=[new, BOB.ss58_address])
    for number, receiver in enumerate((BOB.ss58_address, new)):
        assert await admit(verifier, legacy(receiver=receiver, nonce_ns=NOW_NS + number)) == ALICE.ss58_address
    assert await admit(verifier, legacy(receiver=EVE.ss58_address)) == "401 other_receiver"


@pytest.mark.parametrize("sender", [ALICE.ss58_address[:-1], "5Grw", "a", "0" * 64])
async def test_an_address_that_is_none_is_a_stranger(verifier: Verifier, sender: str):
    assert await admit(verifier, legacy(sender=sender)) == "403 unregistered"


# --- btauth/1

BODY = b'{"image": "/9j/"}'


def btauth_head(**changes: Any) -> Head:
    arguments: dict[str, Any] = {
        "target": "/ImageSynapse",
        "sender": ALICE.ss58_address,
        "receiver": BOB.ss58_address,
        "nonce_ns": NOW_NS,
        "sign": ALICE.sign,
    }
    arguments |= changes
    return Head(btauth.build_headers(BODY, **arguments), arguments["target"])


async def test_a_signature_over_the_body_is_admitted(verifier: Verifier):
    assert await admit(verifier, btauth_head(), BODY) == ALICE.ss58_address
    assert verifier.claim(btauth_head()).covers_body
    assert not verifier.claim(legacy()).covers_body


async def test_a_caller_with_another_kind_of_key_is_admitted(verifier: Verifier):
    head = btauth_head(sender=EDWARD.ss58_address, sign=EDWARD.sign, scheme="ed25519")
    assert await admit(verifier, head, BODY) == EDWARD.ss58_address
    lying = btauth_head(sender=EDWARD.ss58_address, sign=EDWARD.sign, nonce_ns=NOW_NS + 1)
    assert await admit(verifier, lying, BODY) == "401 bad_signature"


async def test_a_swapped_body_is_refused_and_the_true_one_still_taken(verifier: Verifier):
    assert await admit(verifier, btauth_head(), BODY + b" ") == "401 bad_signature"
    assert await admit(verifier, btauth_head(), BODY) == ALICE.ss58_address


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"receiver": EVE.ss58_address}, "401 other_receiver"),
        ({"sender": EVE.ss58_address, "sign": EVE.sign}, "403 unregistered"),
        ({"sign": EVE.sign}, "401 bad_signature"),
        ({"nonce_ns": NOW_NS - 10 * SECOND}, "401 stale_nonce"),
        ({"nonce_ns": NOW_NS + 3 * SECOND}, "401 future_nonce"),
    ],
)
async def test_what_is_not_for_us_or_not_of_now_is_refused(verifier: Verifier, changes: dict[str, Any], outcome: str):
    assert await admit(verifier, btauth_head(**changes), BODY) == outcome


async def test_what_headers_alone_tell_is_refused_before_the_body_is_read(verifier: Verifier):
    for changes in ({"receiver": EVE.ss58_address}, {"nonce_ns": NOW_NS - 60 * SECOND}):
        with pytest.raises(WireError):
            verifier.claim(btauth_head(**changes))


async def test_its_nonces_are_taken_once_but_in_any_order(verifier: Verifier):
    for nonce_ns in (NOW_NS, NOW_NS - 1, NOW_NS + 1):
        assert await admit(verifier, btauth_head(nonce_ns=nonce_ns), BODY) == ALICE.ss58_address
    for nonce_ns in (NOW_NS, NOW_NS - 1):
        assert await admit(verifier, btauth_head(nonce_ns=nonce_ns), BODY) == "401 replay"


async def test_another_route_is_another_request(verifier: Verifier):
    head = btauth_head(target="/ExtendedImageSynapse")
    assert await admit(verifier, Head(head.headers, "/ImageSynapse"), BODY) == "401 bad_signature"


# --- our own registration


async def test_who_is_not_registered_answers_nobody(clock: Clock):
    outcome = await admit(verifier_at(clock, receivers=[EVE.ss58_address]), legacy(receiver=EVE.ss58_address))
    assert outcome == "503 not_registered"
