"""Whether a request comes from a validator that may ask, is meant for us and is new."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bittensor_wallet import Keypair

from serving.miner.http_server import Request
from serving.miner.metagraph import Metagraph, Neuron
from serving.miner.nonces import NonceStore, Session
from streetvision.errors import WireError
from streetvision.subnet import btauth, protocol

_CRYPTO_TYPES = {"ed25519": 0, "sr25519": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerPolicy:
    """Which registered callers are answered."""

    require_permit: bool = True
    minimum_stake: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A request in the name of a caller who may ask; nothing of it is proven before its signature is."""

    caller: Neuron
    signed: protocol.SignedHeaders | btauth.SignedHeaders

    @property
    def covers_body(self) -> bool:
        """Whether the signature says anything about the body; the subnet's own format leaves the picture open."""
        return isinstance(self.signed, btauth.SignedHeaders)


class Verifier:
    """Decides on a request: first what its headers claim, then whether that is true.

    Signatures are checked on the event loop: 50 us of CPU, less than the way to a thread and back.

    Args:
        receivers: our own hotkeys, one of which the caller must have signed; the first is the present one.
        metagraph: the registered neurons.
        nonces: the nonces taken so far.
        policy: which neurons are answered.
        clock_ns: the time a nonce is compared with.
    """

    def __init__(
        self,
        receivers: Sequence[str],
        metagraph: Metagraph,
        nonces: NonceStore,
        *,
        policy: CallerPolicy | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.receivers = tuple(receivers)
        self.policy = policy or CallerPolicy()
        self._metagraph = metagraph
        self._nonces = nonces
        self._clock_ns = clock_ns

    @property
    def registered(self) -> bool:
        """Whether one of our own hotkeys is; nobody is answered before."""
        return any(self._metagraph.registered(receiver) for receiver in self.receivers)

    def claim(self, request: Request) -> Claim:
        """What the headers alone tell.

        Raises:
            WireError: 400 malformed; 401 unsigned, of another time or for another miner; 403 not allowed to ask;
                503 not a miner of the subnet ourselves.
        """
        if not self.registered:
            message = f"this miner's hotkey `{self.receivers[0]}` is not known to be registered"
            raise WireError(message, status=503, reason="not_registered")
        if not btauth.is_used(request.headers):
            legacy = protocol.parse_headers(request.headers)
            return Claim(caller=self._permitted(legacy.hotkey), signed=legacy)
        signed = btauth.parse_headers(request.headers)
        caller = self._permitted(signed.hotkey)
        if signed.receiver not in self.receivers:
            raise self._misdirected(signed.receiver)
        # Before the body is read, which the signature waits for.
        btauth.WINDOW.check(signed.nonce_ns, now_ns=self._clock_ns())
        return Claim(caller=caller, signed=signed)

    async def prove(self, claim: Claim, request: Request, body: bytes = b"") -> None:
        """Returns if the claim is true and new; its nonce is used up by that.

        Args:
            claim: what the headers said.
            request: where they came from.
            body: needed where the signature covers it.

        Raises:
            WireError: 401 forged, of another time or replayed; 429 too many sessions.
        """
        signed = claim.signed
        if isinstance(signed, btauth.SignedHeaders):
            text = signed.signed_text(target=request.target, body=body)
            receiver = signed.receiver if _verify(signed.hotkey, text, signed.signature, signed.scheme) else None
            name = f"{btauth.PROTOCOL}/{signed.nonce_ns}"  # here nonces are unique, and need not grow
        else:
            receiver = next((one for one in self.receivers if _verify_legacy(signed, one)), None)
            name = signed.uuid
        if receiver is None:
            raise self._unproven(signed, request)
        if not claim.covers_body:
            protocol.WINDOW.check(signed.nonce_ns, now_ns=self._clock_ns())
        await self._nonces.take(Session(receiver, signed.hotkey, name), signed.nonce_ns)

    def _permitted(self, hotkey: str) -> Neuron:
        neuron = self._metagraph.neuron(hotkey)
        if neuron is None:
            raise WireError(f"hotkey `{hotkey}` is not registered", status=403, reason="unregistered")
        if self.policy.require_permit and not neuron.permit:
            raise WireError(f"hotkey `{hotkey}` has no validator permit", status=403, reason="no_permit")
        if neuron.stake < self.policy.minimum_stake:
            raise WireError(
                f"hotkey `{hotkey}` has a stake of {neuron.stake:g}, expected at least {self.policy.minimum_stake:g}",
                status=403,
                reason="low_stake",
            )
        return neuron

    def _unproven(self, signed: protocol.SignedHeaders | btauth.SignedHeaders, request: Request) -> WireError:
        named = request.headers.get("bt_header_axon_hotkey")
        if named is not None and named not in self.receivers:
            return self._misdirected(named)
        return WireError(
            f"signature is not the one of `{signed.hotkey}` over this request to `{self.receivers[0]}`",
            status=401,
            reason="bad_signature",
        )

    def _misdirected(self, named: str) -> WireError:
        return WireError(
            f"request is meant for `{named[:64]}`, this is `{self.receivers[0]}`", status=401, reason="other_receiver"
        )


def _verify_legacy(signed: protocol.SignedHeaders, receiver: str) -> bool:
    return _verify(signed.hotkey, signed.signed_text(receiver), signed.signature, "sr25519")


def _verify(hotkey: str, text: bytes, signature: bytes, scheme: btauth.Scheme) -> bool:
    try:
        return Keypair(ss58_address=hotkey, crypto_type=_CRYPTO_TYPES[scheme]).verify(text, signature)
    except ValueError:  # no ss58 address, or no signature of this kind
        return False
