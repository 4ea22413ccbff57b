"""The chain of Bittensor, asked through its own SDK in a child process.

The SDK waits for minutes on a websocket that has gone silent, takes a second and 90 MB to import, and decodes for
longer than a challenge may wait. A child of its own for every call costs nothing in between, keeps all of that from
the event loop, begins with a new connection each time, and is killed when its deadline is over.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from serving.logs import event
from serving.miner.metagraph import Neuron
from streetvision.errors import ChainError

logger = logging.getLogger(__name__)

NETUIDS: Final[Mapping[str, int]] = {"finney": 72, "test": 323}
"""Number of the subnet on each network. Source: natixnetwork/streetvision-subnet README.md @ 28a1755."""
ENTRYPOINTS: Final[Mapping[str, str]] = {
    "finney": "wss://entrypoint-finney.opentensor.ai:443",
    "test": "wss://test.finney.opentensor.ai:443",
}
"""The public node of each network. Source: bittensor 10.5.0 bittensor/core/settings.py."""

_ROOT = Path(__file__).parents[2]
_SUBTENSOR = (sys.executable, "-m", "serving.miner.subtensor")
_INHERITED = {
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}


class SubtensorChain:
    """The subnet on a real network; a `Chain`.

    Args:
        network: `finney` or `test`.
        netuid: number of the subnet, where it is not that of StreetVision.
        endpoints: nodes in the order in which they are asked, as in `wss://my-node:9944`; the public one by default.
            The one that answered is asked first the next time.
        deadline_s: of one question to one node.
        command: what answers one question, as `serving.miner.subtensor` does.
    """

    def __init__(
        self,
        network: str,
        *,
        netuid: int | None = None,
        endpoints: Sequence[str] = (),
        deadline_s: float = 30.0,
        command: Sequence[str] = _SUBTENSOR,
    ) -> None:
        self.network = network
        self.netuid = NETUIDS[network] if netuid is None else netuid
        self._endpoints = deque(endpoints or [ENTRYPOINTS[network]])
        self._deadline_s = deadline_s
        self._command = tuple(command)

    async def neurons(self) -> list[Neuron]:
        """The neurons of the subnet as they are now.

        Raises:
            ChainError: no node told them.
        """
        neurons = _validated(_NEURONS, await self._ask("neurons"))
        if not neurons:
            raise ChainError(f"subnet {self.netuid} has no neurons on `{self.network}`")
        return neurons

    async def announce(self, key_file: Path, *, ip: str, port: int) -> None:
        """Has the chain tell validators that the neuron of this hotkey is called at `ip` and `port`.

        Raises:
            ChainError: the chain refused, or no node took it in time; it may still have come into force.
        """
        await self._ask("announce", key_file=str(key_file), ip=ip, port=port)

    async def external_ip(self) -> str:
        """The address that the internet sees this machine at.

        Raises:
            ChainError: none of the services that tell it answered.
        """
        try:
            return _validated(_TEXT, await self._run({"call": "external_ip"}, of="the services that tell the address"))
        except ChainError as err:
            raise ChainError(err.message, hint="set the address to announce") from err

    async def _ask(self, call: str, **arguments: Any) -> Any:
        """The first answer of a node; the nodes that had none come last the next time."""
        reasons: list[str] = []
        for endpoint in list(self._endpoints):
            question = {"call": call, "endpoint": endpoint, "netuid": self.netuid, **arguments}
            try:
                return await self._run(question, of=f"`{endpoint}`")
            except ChainError as err:
                reasons.append(err.message)
                self._endpoints.rotate(-1)
        raise ChainError("; ".join(reasons))

    async def _run(self, question: Mapping[str, Any], *, of: str) -> Any:
        call = question["call"]
        text = json.dumps({**question, "deadline_s": self._deadline_s}).encode()
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(os.environ),
                start_new_session=True,  # so that its own children can be killed with it
            )
        except OSError as err:
            raise ChainError(f"cannot start a process to ask {of} for `{call}`: {err.strerror or err}") from err
        try:
            async with asyncio.timeout(self._deadline_s):
                out, said = await child.communicate(text)
        except TimeoutError as err:
            raise ChainError(f"{of} did not answer `{call}` within {self._deadline_s:g} s") from err
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
        if said:
            event(logger, "subtensor_said", level=logging.DEBUG, text=said.decode(errors="replace")[-2000:])
        try:
            reply = _Reply.model_validate_json(out)
        except ValidationError as err:
            last = said.decode(errors="replace").strip().rpartition("\n")[2][-200:]
            raise ChainError(
                f"asking {of} for `{call}` ended with status {child.returncode} and no answer: {last}"
            ) from err
        if reply.error is not None:
            raise ChainError(f"asking {of} for `{call}` failed: {reply.error}")
        return reply.value


class _Reply(BaseModel):
    """What the child answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Any = None
    error: str | None = None


_NEURONS = TypeAdapter(list[Neuron])
_TEXT = TypeAdapter(str)
_T = TypeVar("_T")


def _validated(kind: TypeAdapter[_T], value: Any) -> _T:
    try:
        return kind.validate_python(value)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise ChainError(f"the chain's answer is unusable at {place}: {first['msg']}") from err


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child needs and no more: the miner's own holds the keys of its storage."""
    kept = {name: value for name, value in environment.items() if name in _INHERITED}
    path = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH")]))
    # READ_ONLY: bittensor makes folders in HOME otherwise.
    return kept | {"PYTHONPATH": path, "READ_ONLY": "1", "BT_NO_PARSE_CLI_ARGS": "1"}
