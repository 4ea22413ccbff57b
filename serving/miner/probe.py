"""`python -m serving.miner.probe`: one signed challenge to a miner, as a validator would send it.

With the hotkey of a validator that the miner answers, the answer must be what its predictor says of the same picture.
Without one, a caller whom the network does not know must be refused.
"""

import argparse
import asyncio
import json
import struct
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from bittensor_wallet import Keyfile, Keypair
from bittensor_wallet.errors import KeyFileError

from serving.miner.predictor import Predictor
from streetvision.errors import SettingsError, StreetvisionError
from streetvision.subnet.dendrite import Answer, Dendrite

SIDE_PX = 224
VALIDATOR_DEADLINE_S = 9.0
_COLOUR = (150, 120, 90)
_SAME = 1e-4  # what two replies of one predictor about one picture may differ by


class ProbeError(StreetvisionError, RuntimeError):
    """The miner does not do what it must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the probe found.

    Attributes:
        hotkey: the address that the miner answers for.
        challenge: `answered` or `refused`.
        probability: the miner's answer; nothing where it refused.
        expected: what its predictor says; nothing where it refused.
        latency_ms: of the miner's reply.
    """

    hotkey: str
    challenge: str
    probability: float | None
    expected: float | None
    latency_ms: float

    def __str__(self) -> str:
        if self.probability is None:
            return f"{self.hotkey} is ready, and refuses a caller that the network does not know"
        return (
            f"{self.hotkey} answers a signed challenge with {self.probability:.4f}, as its predictor does, "
            f"in {self.latency_ms:.0f} ms"
        )


async def probe(
    *, miner: str, operator: str, predictor: str, validator: Path | None, timeout_s: float, model: str = "roadwork"
) -> Shown:
    """What the miner does with one challenge.

    Args:
        miner: address where it takes challenges.
        operator: address of its operator's port.
        predictor: address of the predictor that it asks.
        validator: hotkey file of a validator that it answers.
        timeout_s: until it must be ready.
        model: what the predictor calls the model.

    Raises:
        SettingsError: the validator's hotkey cannot be read.
        ProbeError: the miner is not ready, does not answer, or not as its predictor does, or answers a stranger.
        PredictorError: the predictor does not answer.
    """
    keypair = _load(validator) if validator else Keypair.create_from_mnemonic(Keypair.generate_mnemonic(12))
    picture = plain_picture(_COLOUR)
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as http:
        hotkey = await _ready(http, operator, timeout_s=timeout_s)
        async with Dendrite(keypair, route="/ExtendedImageSynapse", timeout_s=VALIDATOR_DEADLINE_S) as dendrite:
            answer = await dendrite.ask(miner, hotkey, picture)
        if validator is None:
            _must_be_refused(answer)
            return Shown(
                hotkey=hotkey, challenge="refused", probability=None, expected=None, latency_ms=answer.latency_ms
            )
        if answer.error or answer.prediction < 0:
            raise ProbeError(
                f"miner `{miner}` gave no answer to a signed challenge of {keypair.ss58_address}: "
                f"{answer.error or 'it abstained'}",
                hint="its log says why; only validators of its network are answered",
            )
    async with Predictor(predictor, model_name=model) as asked:
        expected = (await asked.ask(picture)).probability
    if abs(answer.prediction - expected) > _SAME:
        raise ProbeError(
            f"miner `{miner}` answers {answer.prediction}, expected {expected}, what its predictor `{predictor}` says",
            hint="a rollout may be under way: try again",
        )
    return Shown(
        hotkey=hotkey,
        challenge="answered",
        probability=answer.prediction,
        expected=expected,
        latency_ms=answer.latency_ms,
    )


def plain_picture(colour: tuple[int, int, int]) -> bytes:
    """A PNG of 224 by 224 pixels of one colour, made without a codec: a miner has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes(colour) * SIDE_PX
    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * SIDE_PX)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def main(argv: list[str] | None = None) -> int:
    """Probes once; 0 where the miner does what it must, 1 where not, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.miner.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--miner", required=True, metavar="URL", help="where it takes challenges")
    parser.add_argument("--operator", required=True, metavar="URL", help="its operator's port")
    parser.add_argument("--predictor", required=True, metavar="URL", help="the predictor that it asks")
    parser.add_argument("--validator", type=Path, metavar="FILE", help="hotkey file of a validator that it answers")
    parser.add_argument("--timeout-s", type=float, default=120.0, metavar="S", help="until it must be ready")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    arguments = parser.parse_args(argv)
    try:
        shown = asyncio.run(
            probe(
                miner=arguments.miner.rstrip("/"),
                operator=arguments.operator.rstrip("/"),
                predictor=arguments.predictor.rstrip("/"),
                validator=arguments.validator,
                timeout_s=arguments.timeout_s,
            )
        )
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)  # noqa: T201 - a command
        return 2 if isinstance(err, ValueError) else 1
    print(json.dumps(asdict(shown)) if arguments.json else shown)  # noqa: T201
    return 0


def _load(file: Path) -> Keypair:
    try:
        return Keyfile(str(file)).get_keypair()
    except KeyFileError as err:
        raise SettingsError(f"validator's hotkey `{file}` cannot be read: {err}") from err


async def _ready(http: httpx.AsyncClient, operator: str, *, timeout_s: float) -> str:
    """The hotkey that the miner answers for, once it is ready."""
    deadline_s = time.monotonic() + timeout_s
    said = ""
    while True:
        try:
            reply = await http.get(f"{operator}/health/ready")
            said = reply.text
            if reply.status_code == 200:
                return reply.json()["hotkeys"][0]
        except (httpx.HTTPError, ValueError, LookupError) as err:
            said = f"{type(err).__name__}: {err}"
        if time.monotonic() > deadline_s:
            raise ProbeError(f"miner `{operator}` is not ready after {timeout_s:.0f} s: {said}")
        await asyncio.sleep(1)


def _must_be_refused(answer: Answer) -> None:
    if answer.error != "HTTP 403":
        raise ProbeError(
            f"the miner met a caller that the network does not know with `{answer.error or answer.prediction}`, "
            "expected `HTTP 403`"
        )


if __name__ == "__main__":
    sys.exit(main())
