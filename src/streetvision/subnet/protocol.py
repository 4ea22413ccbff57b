"""The legacy wire format between a validator and a miner: headers, signature text, nonces, bodies.

Its signature covers the caller, the receiver and the time, but not the picture.

Source: natixnetwork/streetvision-subnet natix/protocol.py @ 28a1755; axon and dendrite of bittensor 9.12.2 and 10.5.0
"""

import base64
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from streetvision.errors import WireError
from streetvision.subnet.regimes import NO_ANSWER, TIMEOUT_S

# The second name is the class of regime R0, which old validators keep calling.
ROUTES = ("/ImageSynapse", "/ExtendedImageSynapse")
# The message class declares no hashed fields, so the hash is always that of nothing: pictures are not authenticated.
EMPTY_BODY_HASH = hashlib.sha3_256(b"").hexdigest()
# The version that bittensor 9.12.2 sends.
DENDRITE_VERSION = 9_012_002

_SIGNATURE_BYTES = 64
_UUID_LENGTH = 64
_HOTKEY_LENGTH = 64
_TERMINAL_KEYS = (
    "status_code",
    "status_message",
    "process_time",
    "ip",
    "port",
    "version",
    "nonce",
    "uuid",
    "hotkey",
    "signature",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHeaders:
    """What the headers of one request claim; nothing of it is proven before the signature is verified."""

    hotkey: str
    uuid: str
    nonce_ns: int
    signature: bytes

    def signed_text(self, receiver: str) -> bytes:
        """The text a validator signs to call the miner with the hotkey `receiver`."""
        return f"{self.nonce_ns}.{self.hotkey}.{receiver}.{self.uuid}.{EMPTY_BODY_HASH}".encode()


def parse_headers(headers: Mapping[str, str]) -> SignedHeaders:
    """The signed headers of a request, well-formed but not verified.

    Args:
        headers: names in lower case, as an HTTP server hands them over.

    Raises:
        WireError: 401 where a signed field is missing, 400 where one is malformed.
    """
    hotkey = _required(headers, "hotkey")
    signature = _required(headers, "signature")
    nonce = _required(headers, "nonce")
    uuid = _required(headers, "uuid")
    if len(hotkey) > _HOTKEY_LENGTH or not (hotkey.isascii() and hotkey.isalnum()):
        raise WireError("header `bt_header_dendrite_hotkey` is no ss58 address")
    if len(uuid) > _UUID_LENGTH or not uuid.isascii():
        raise WireError(f"header `bt_header_dendrite_uuid` is no ASCII text of up to {_UUID_LENGTH} characters")
    if not (nonce.isascii() and nonce.isdigit() and len(nonce) < 20):
        raise WireError("header `bt_header_dendrite_nonce` is no number of nanoseconds")
    body_hash = headers.get("computed_body_hash", EMPTY_BODY_HASH)
    if body_hash != EMPTY_BODY_HASH:
        raise WireError("header `computed_body_hash` is not the hash of an empty text, and no field is hashed")
    try:
        raw = bytes.fromhex(signature.removeprefix("0x"))
    except ValueError as err:
        raise WireError("header `bt_header_dendrite_signature` is no hexadecimal text") from err
    if len(raw) != _SIGNATURE_BYTES:
        raise WireError(f"signature has {len(raw)} bytes, expected {_SIGNATURE_BYTES}")
    return SignedHeaders(hotkey=hotkey, uuid=uuid, nonce_ns=int(nonce), signature=raw)


def _required(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(f"bt_header_dendrite_{name}")
    if not value:
        raise WireError(f"header `bt_header_dendrite_{name}` is missing", status=401, reason="unsigned")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class NonceWindow:
    """The ages at which a nonce is taken.

    Attributes:
        age_s: a nonce must be younger. What the caller says in its own `timeout` header is not signed, and ignored.
        ahead_s: how far ahead of our clock it may be: enough for clocks kept by NTP. A nonce from the far future would
            stay replayable until its time comes, whatever is remembered or forgotten here.
    """

    age_s: float
    ahead_s: float

    def check(self, nonce_ns: int, *, now_ns: int) -> None:
        """Returns if a nonce is of our time.

        Raises:
            WireError: 401, it is too old or too far ahead.
        """
        age_s = (now_ns - nonce_ns) / 1e9
        if age_s >= self.age_s:
            raise WireError(
                f"nonce is {age_s:.1f} s old, expected less than {self.age_s:g} s", status=401, reason="stale_nonce"
            )
        if -age_s > self.ahead_s:
            raise WireError(
                f"nonce is {-age_s:.1f} s ahead of this clock, expected at most {self.ahead_s:g} s",
                status=401,
                reason="future_nonce",
            )


# The stock axon takes a first nonce that is as old as the timeout and four seconds.
WINDOW = NonceWindow(age_s=TIMEOUT_S + 4.0, ahead_s=2.0)


def build_request(
    image: bytes,
    *,
    route: str,
    sender: str,
    receiver: str,
    uuid: str,
    nonce_ns: int,
    sign: Callable[[bytes], bytes],
    host: str,
    port: int,
    timeout_s: float = TIMEOUT_S,
) -> tuple[dict[str, str], bytes]:
    """The headers and the JSON body that a validator sends with one picture.

    Args:
        image: one encoded picture.
        route: one of `ROUTES`.
        sender: the validator's hotkey as ss58 address.
        receiver: the miner's.
        uuid: the validator's session.
        nonce_ns: now, in nanoseconds; it must grow within a session.
        sign: makes the sr25519 signature of a text with the validator's key.
        host: address of the miner.
        port: port of the miner.
        timeout_s: what the validator claims to wait.
    """
    name = route.removeprefix("/")
    unsigned = SignedHeaders(hotkey=sender, uuid=uuid, nonce_ns=nonce_ns, signature=b"")
    dendrite: dict[str, Any] = {
        "ip": "127.0.0.1",
        "version": DENDRITE_VERSION,
        "nonce": nonce_ns,
        "uuid": uuid,
        "hotkey": sender,
        "signature": "0x" + sign(unsigned.signed_text(receiver)).hex(),
    }
    axon: dict[str, Any] = {"ip": host, "port": port, "hotkey": receiver}
    headers = {"name": name, "timeout": str(timeout_s)}
    headers |= {f"bt_header_axon_{key}": str(value) for key, value in axon.items()}
    headers |= {f"bt_header_dendrite_{key}": str(value) for key, value in dendrite.items()}
    text = base64.b64encode(image).decode()
    # Sizes as Python objects, which is what bittensor writes; nobody checks them.
    headers["header_size"] = str(sys.getsizeof(headers))
    headers["total_size"] = str(sys.getsizeof(text) + sys.getsizeof(headers))
    headers["computed_body_hash"] = EMPTY_BODY_HASH
    body: dict[str, Any] = {
        "name": name,
        "timeout": timeout_s,
        "total_size": int(headers["total_size"]),
        "header_size": 0,
        "dendrite": dict.fromkeys(_TERMINAL_KEYS) | dendrite,
        "axon": dict.fromkeys(_TERMINAL_KEYS) | axon,
        "computed_body_hash": "",
        "testnet_label": -1,
        "image": text,
        "prediction": NO_ANSWER,
    }
    if name == "ExtendedImageSynapse":
        body["model_url"] = ""
    return headers | {"content-type": "application/json"}, json.dumps(body).encode()


def served_prediction(prediction: float) -> float:
    """The prediction as it may leave the miner: in [0, 1], or -1 for no answer.

    Raises:
        WireError: 500, the prediction is not a number; it would spoil the validator's last 100 answers.
    """
    if math.isnan(prediction):
        raise WireError("prediction is NaN, expected a number in [0, 1]", status=500, reason="nan")
    return NO_ANSWER if prediction == NO_ANSWER else min(max(prediction, 0.0), 1.0)


def reply_body(name: str, prediction: float) -> bytes:
    """The JSON body of an answer; the picture is not sent back, and a dendrite does not miss it.

    Raises:
        WireError: 500, the prediction is not a number.
    """
    value = {"name": name, "testnet_label": -1, "image": "", "prediction": served_prediction(prediction)}
    return json.dumps(value).encode()


def reply_headers(name: str, *, process_time_s: float) -> dict[str, str]:
    """The headers of an answer, from which a dendrite takes the status it records."""
    return {
        "name": name,
        "timeout": str(TIMEOUT_S),
        "bt_header_axon_status_code": "200",
        "bt_header_axon_status_message": "Success",
        "bt_header_axon_process_time": str(process_time_s),
        "header_size": "0",
        "total_size": "0",
        "computed_body_hash": EMPTY_BODY_HASH,
    }


def parse_reply(body: bytes) -> float:
    """What a validator records for an answer with status 200: any float, -1 where there is none to read.

    Out of range and NaN are recorded as they are (and punished).

    Source: bittensor 9.12.2 dendrite, observed reply by reply
    """
    try:
        value = json.loads(body)
        return float(cast(dict[str, Any], value)["prediction"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return NO_ANSWER
