"""Whether a request comes from a validator that may ask, is meant for us and is new."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bittensor_wallet import Keypair

from serving.miner.metagraph import Metagraph, Neuron
from streetvision.errors import WireError
from streetvision.subnet.protocol import NonceWindow, SignedHeaders, parse_headers


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerPolicy:
    """Which registered callers are answered."""

    require_permit: bool = True
    minimum_stake: float = 0.0


class Verifier:
    """Decides on the headers alone, before a byte of the body is read.

    The signature is checked on the event loop: 43 us of CPU, less than the way to a thread and back.

    Args:
        receiver: our own hotkey, which the caller must have signed.
        metagraph: the registered neurons.
        policy: which of them are answered.
        nonces: the nonces seen so far.
        clock_ns: the time a nonce is compared with.
    """

    def __init__(
        self,
        receiver: str,
        metagraph: Metagraph,
        *,
        policy: CallerPolicy | None = None,
        nonces: NonceWindow | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._receiver = receiver
        self._metagraph = metagraph
        self._policy = policy or CallerPolicy()
        self._nonces = nonces or NonceWindow()
        self._clock_ns = clock_ns

    def verify(self, headers: Mapping[str, str]) -> Neuron:
        """The caller, whose request is signed for us and was never seen before.

        Raises:
            WireError: 400 malformed, 401 unsigned, forged or replayed, 403 not allowed to ask, 429 too many sessions.
        """
        signed = parse_headers(headers)
        caller = self._permitted(signed.hotkey)
        if not self._is_signed_by_caller(signed):
            raise WireError(
                f"signature is not the one of `{signed.hotkey}` over this request to `{self._receiver}`",
                status=401,
                reason="bad_signature",
            )
        self._nonces.admit(signed, now_ns=self._clock_ns())
        return caller

    def _permitted(self, hotkey: str) -> Neuron:
        neuron = self._metagraph.neuron(hotkey)
        if neuron is None:
            raise WireError(f"hotkey `{hotkey}` is not registered", status=403, reason="unregistered")
        if self._policy.require_permit and not neuron.permit:
            raise WireError(f"hotkey `{hotkey}` has no validator permit", status=403, reason="no_permit")
        if neuron.stake < self._policy.minimum_stake:
            raise WireError(
                f"hotkey `{hotkey}` has a stake of {neuron.stake:g}, expected at least {self._policy.minimum_stake:g}",
                status=403,
                reason="low_stake",
            )
        return neuron

    def _is_signed_by_caller(self, signed: SignedHeaders) -> bool:
        try:
            keypair = Keypair(ss58_address=signed.hotkey)
            return keypair.verify(signed.signed_text(self._receiver), signed.signature)
        except ValueError:  # no ss58 address, or no signature of this kind
            return False
