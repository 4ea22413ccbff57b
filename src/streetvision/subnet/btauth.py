"""The wire format of bittensor 11, `btauth/1`: a few headers, and a signature that covers the body.

Source: bittensor 11.3.0 bittensor/http_auth.py
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from streetvision.errors import WireError
from streetvision.subnet.protocol import NonceWindow

PROTOCOL = "btauth/1"
WINDOW = NonceWindow(age_s=10.0, ahead_s=2.0)

Scheme = Literal["sr25519", "ed25519"]

_SCHEMES: Mapping[str, Scheme] = {"sr25519": "sr25519", "1": "sr25519", "ed25519": "ed25519", "0": "ed25519"}
_SIGNATURE_BYTES = 64
_HOTKEY_LENGTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHeaders:
    """What the headers of one request claim; nothing of it is proven before the signature is verified."""

    hotkey: str
    receiver: str
    nonce_ns: int
    scheme: Scheme
    signature: bytes

    def signed_text(self, *, target: str, body: bytes) -> bytes:
        """The text a caller signs to POST `body` to `target`, path and query as sent."""
        lines = (
            PROTOCOL,
            self.scheme,
            "POST",
            target,
            hashlib.sha256(body).hexdigest(),
            str(self.nonce_ns),
            self.hotkey,
            self.receiver,
        )
        return "\n".join(lines).encode()


def is_used(headers: Mapping[str, str]) -> bool:
    """Whether a request speaks this format.

    Args:
        headers: names in lower case.
    """
    return "x-bittensor-version" in headers or "x-bittensor-signature" in headers


def parse_headers(headers: Mapping[str, str]) -> SignedHeaders:
    """The signed headers of a request, well-formed but not verified.

    Args:
        headers: names in lower case, as an HTTP server hands them over.

    Raises:
        WireError: 401 where a signed field is missing, 400 where one is malformed.
    """
    version = _required(headers, "version")
    hotkey = _required(headers, "hotkey")
    receiver = _required(headers, "receiver")
    nonce = _required(headers, "nonce")
    signature = _required(headers, "signature")
    scheme = _SCHEMES.get(headers.get("x-bittensor-crypto", "sr25519").strip().lower())
    if version != "1":
        raise WireError("header `x-bittensor-version` is not `1`, the one version that is spoken here")
    for name, address in (("hotkey", hotkey), ("receiver", receiver)):
        if len(address) > _HOTKEY_LENGTH or not (address.isascii() and address.isalnum()):
            raise WireError(f"header `x-bittensor-{name}` is no ss58 address")
    if not (nonce.isascii() and nonce.isdigit() and len(nonce) < 20):
        raise WireError("header `x-bittensor-nonce` is no number of nanoseconds")
    if scheme is None:
        raise WireError("header `x-bittensor-crypto` is neither `sr25519` nor `ed25519`")
    try:
        raw = bytes.fromhex(signature.removeprefix("0x"))
    except ValueError as err:
        raise WireError("header `x-bittensor-signature` is no hexadecimal text") from err
    if len(raw) != _SIGNATURE_BYTES:
        raise WireError(f"signature has {len(raw)} bytes, expected {_SIGNATURE_BYTES}")
    return SignedHeaders(hotkey=hotkey, receiver=receiver, nonce_ns=int(nonce), scheme=scheme, signature=raw)


def _required(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(f"x-bittensor-{name}")
    if not value:
        raise WireError(f"header `x-bittensor-{name}` is missing", status=401, reason="unsigned")
    return value


def build_headers(
    body: bytes,
    *,
    target: str,
    sender: str,
    receiver: str,
    nonce_ns: int,
    sign: Callable[[bytes], bytes],
    scheme: Scheme = "sr25519",
) -> dict[str, str]:
    """The headers that a caller sends with a POST of `body`.

    Args:
        body: the whole body as sent.
        target: path and query.
        sender: the caller's hotkey as ss58 address.
        receiver: the miner's.
        nonce_ns: now, in nanoseconds; used once.
        sign: makes the signature of a text with the caller's key.
        scheme: of that key.
    """
    unsigned = SignedHeaders(hotkey=sender, receiver=receiver, nonce_ns=nonce_ns, scheme=scheme, signature=b"")
    headers = {
        "x-bittensor-version": "1",
        "x-bittensor-hotkey": sender,
        "x-bittensor-receiver": receiver,
        "x-bittensor-nonce": str(nonce_ns),
        "x-bittensor-signature": "0x" + sign(unsigned.signed_text(target=target, body=body)).hex(),
    }
    return headers if scheme == "sr25519" else headers | {"x-bittensor-crypto": scheme}
