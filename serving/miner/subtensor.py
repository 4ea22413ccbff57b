"""`python -m serving.miner.subtensor`: answers one question about the chain, with bittensor's own client.

A JSON object comes by standard input, `{"call": ..., "deadline_s": ..., ...}`; one goes to standard output,
`{"value": ...}` or `{"error": ...}`. See chain.py, which alone starts this.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bittensor.core.extrinsics.pallets import SubtensorModule
from bittensor.core.settings import version_as_int
from bittensor.core.subtensor import Subtensor
from bittensor.utils import networking
from bittensor_wallet import Keyfile

from streetvision.errors import ChainError

_AXON_PROTOCOL = 4  # what every axon announces
_RAO = 10**9  # in one alpha


def main() -> None:
    """Answers the question on standard input."""
    # bittensor logs to standard output, where nothing but the answer may be.
    reply_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.nice(10)  # decoding a metagraph can wait, a challenge cannot
    question: dict[str, Any] = json.load(sys.stdin)
    # Ends this process even where nobody is left to kill it and the SDK is stuck.
    signal.setitimer(signal.ITIMER_REAL, question.pop("deadline_s") + 1)
    try:
        reply = {"value": answer(question)}
    except Exception as err:  # noqa: BLE001 - whatever the SDK raises is the answer
        reason = err.message if isinstance(err, ChainError) else f"{type(err).__name__}: {err}"
        reply = {"error": reason[:500]}
    json.dump(reply, reply_to)
    reply_to.flush()
    os._exit(0)  # to close a websocket may take longer than the deadline


def answer(question: dict[str, Any], *, connect: Callable[[str], Any] = Subtensor) -> Any:
    """The answer to one question, plain JSON.

    Args:
        question: `call` and its arguments.
        connect: makes the client of a node.

    Raises:
        ChainError: the chain refused.
    """
    match question:
        case {"call": "neurons", "endpoint": endpoint, "netuid": netuid}:
            return _neurons(connect(endpoint), netuid)
        case {"call": "announce", "endpoint": endpoint, "netuid": netuid, "key_file": key_file, "ip": ip, "port": port}:
            return _announce(connect(endpoint), netuid, Path(key_file), ip, port)
        case {"call": "external_ip"}:
            return networking.get_external_ip()
        case _:
            raise ValueError(f"no such question: {question}")


def _neurons(subtensor: Any, netuid: int) -> list[dict[str, Any]]:
    # Not `metagraph`: it asks for more than this, fails where that does, and hides why stakes could not be read.
    block = subtensor.get_current_block()
    neurons = subtensor.neurons_lite(netuid, block=block)
    state = subtensor.query_runtime_api("SubnetInfoRuntimeApi", "get_subnet_state", [netuid], block=block)
    stakes = dict(zip(state["hotkeys"], state["total_stake"], strict=True)) if state else {}
    if unknown := sum(neuron.hotkey not in stakes for neuron in neurons):
        raise ChainError(f"the stakes of {unknown} of {len(neurons)} neurons are missing")
    return [
        {
            "uid": int(neuron.uid),
            "hotkey": str(neuron.hotkey),
            "stake": stakes[neuron.hotkey] / _RAO,  # not `neuron.stake`, which is far less for validators
            "permit": bool(neuron.validator_permit),
            "ip": str(neuron.axon_info.ip),
            "port": int(neuron.axon_info.port),
        }
        for neuron in neurons
    ]


def _announce(subtensor: Any, netuid: int, key_file: Path, ip: str, port: int) -> None:
    # Not `serve_axon`: it makes a server and wants the coldkey's address, and the hotkey's signature is all it takes.
    call = SubtensorModule(subtensor).serve_axon(
        netuid=netuid,
        version=version_as_int,
        ip=networking.ip_to_int(ip),
        port=port,
        ip_type=networking.ip_version(ip),
        protocol=_AXON_PROTOCOL,
    )
    wallet: Any = SimpleNamespace(hotkey=Keyfile(str(key_file)).get_keypair())
    response = subtensor.sign_and_send_extrinsic(call=call, wallet=wallet, sign_with="hotkey")
    if not response.success:
        raise ChainError(str(response.message))


if __name__ == "__main__":
    main()
