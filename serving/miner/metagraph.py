"""Who is who on the subnet: the neurons a caller is checked against."""

import asyncio
import ipaddress
import logging
import math
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from serving.logs import event
from serving.miner.files import read_regular, stamp
from serving.miner.keys import Hotkey
from streetvision import atomic
from streetvision.errors import ChainError, SettingsError, StorageError

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 15.0
_UNREGISTERED_S = 60.0  # somebody has just been told to register, and waits


class Neuron(BaseModel):
    """One registered hotkey, its stake in alpha and whether it may validate."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    uid: int
    hotkey: str
    stake: float
    permit: bool
    ip: str
    port: int


class Metagraph(Protocol):
    """The registered neurons, at any time of the process."""

    def neuron(self, hotkey: str) -> Neuron | None:
        """The neuron of a hotkey, or None for a stranger; fast, and never waits for the chain."""
        ...

    def registered(self, hotkey: str) -> bool:
        """Whether a hotkey is known to be registered; a miner whose own is not serves nothing."""
        ...

    def change_hotkey(self, hotkey: Hotkey) -> None:
        """Has another key be our own from now on, and says so where it is not registered."""
        ...

    @property
    def age_s(self) -> float:
        """Seconds since the neurons were known to be right, infinite where they never were."""
        ...


class Chain(Protocol):
    """What a miner asks of the chain; every call ends, well or badly, within a deadline of its own.

    Each raises a `ChainError` where the chain is silent, out of reach, or refuses.
    """

    @property
    def network(self) -> str:
        """Name of the network, as `finney`."""
        ...

    @property
    def netuid(self) -> int:
        """Number of the subnet there."""
        ...

    async def neurons(self) -> list[Neuron]:
        """The neurons of the subnet as they are now, never none."""
        ...

    async def announce(self, key_file: Path, *, ip: str, port: int) -> None:
        """Has the chain tell validators that the neuron of this hotkey is called at `ip` and `port`."""
        ...

    async def external_ip(self) -> str:
        """The address that the internet sees this machine at."""
        ...


class FileMetagraph:
    """The network `mock`: a JSON list of neurons, read again whenever the file changes.

    A change that cannot be read is logged once, and the neurons stay as they were.

    Raises:
        SettingsError: the file cannot be read at the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = stamp(file)
        self._neurons = _read(file)
        self._outdated_s: float | None = None

    def neuron(self, hotkey: str) -> Neuron | None:
        """The neuron of a hotkey, or None for a stranger."""
        self._follow()
        return self._neurons.get(hotkey)

    def registered(self, hotkey: str) -> bool:
        """Whether the file lists the hotkey."""
        return self.neuron(hotkey) is not None

    def change_hotkey(self, hotkey: Hotkey) -> None:
        """Says so where the file does not list the key."""
        if not self.registered(hotkey.address):
            _say_unregistered(hotkey, where=f"in `{self._file}`", hint="add it to that file")

    @property
    def age_s(self) -> float:
        """Seconds since the file was found unreadable, 0 while what it says is in force."""
        self._follow()
        return 0.0 if self._outdated_s is None else time.monotonic() - self._outdated_s

    def _follow(self) -> None:
        newest = stamp(self._file)
        if newest == self._stamp:
            return
        self._stamp = newest
        try:
            self._neurons = _read(self._file)
            self._outdated_s = None
        except SettingsError as err:
            if self._outdated_s is None:
                self._outdated_s = time.monotonic()
            event(logger, "metagraph_unreadable", level=logging.ERROR, reason=err.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where validators shall call; an `ip` of None is the address that the internet sees, asked for once.

    Raises:
        SettingsError: the chain would refuse such an address.
    """

    port: int
    ip: str | None = None

    def __post_init__(self) -> None:
        """Compares with what the chain accepts."""
        if self.ip is not None and not _is_public(self.ip):
            raise SettingsError(
                f"`{self.ip}` is no address that validators can call, expected a public IPv4 or IPv6 address",
                hint="give the address of the node or load balancer, or leave it out to have it asked for",
            )
        if not 0 < self.port <= 65535:
            raise SettingsError(f"cannot announce port {self.port}, expected one from 1 to 65535")


class ChainMetagraph:
    """The neurons as the chain told last, which may be some time ago: it is asked in the background.

    Neurons that were once read stay until newer ones come, also across a restart, whatever the chain does.
    Where the chain lists our own hotkey under another address than `endpoint`, that is announced; nowhere else.

    Args:
        chain: who is asked.
        hotkey: our own.
        endpoint: where validators shall call, None to announce nothing.
        cache: file in which the neurons outlive a restart.
        interval_s: how often the chain is asked while it answers.
    """

    def __init__(
        self,
        chain: Chain,
        hotkey: Hotkey,
        *,
        endpoint: Endpoint | None = None,
        cache: Path | None = None,
        interval_s: float = 1200.0,
    ) -> None:
        self._chain = chain
        self._hotkey = hotkey
        self._endpoint = endpoint
        self._cache = cache
        self._interval_s = interval_s
        self._name = f"{chain.network}/{chain.netuid}"
        self._neurons: dict[str, Neuron] = {}
        self._synced_s = -math.inf
        self._external_ip: str | None = None
        self._asked = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._failures = 0
        self._load()

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    def neuron(self, hotkey: str) -> Neuron | None:
        """The neuron of a hotkey, or None for a stranger."""
        return self._neurons.get(hotkey)

    def registered(self, hotkey: str) -> bool:
        """Whether the chain listed the hotkey when it was last read; False before that."""
        return hotkey in self._neurons

    @property
    def age_s(self) -> float:
        """Seconds since the chain told what is in force, infinite before it ever did."""
        return time.monotonic() - self._synced_s

    @property
    def failures(self) -> int:
        """How often in a row the chain did not do what it was asked."""
        return self._failures

    def change_hotkey(self, hotkey: Hotkey) -> None:
        """Answers for another key from now on, and has the chain asked at once."""
        self._hotkey = hotkey
        self._asked.set()

    async def run(self) -> None:
        """Asks the chain at once and then again and again, forever."""
        while True:
            self._asked.clear()
            try:
                await self.sync()
                self._failures = 0
            except ChainError as err:
                self._failures += 1
                age_s = round(self.age_s) if self._neurons else None
                event(logger, "chain_failed", level=logging.WARNING, reason=str(err), metagraph_age_s=age_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._asked.wait()

    async def sync(self) -> None:
        """Reads the neurons, and announces where validators shall call if they are told otherwise.

        Raises:
            ChainError: the chain did not do it; what was read is in force.
        """
        self._neurons = {neuron.hotkey: neuron for neuron in await self._chain.neurons()}
        self._synced_s = time.monotonic()
        await asyncio.to_thread(self._save)
        hotkey = self._hotkey
        neuron = self.neuron(hotkey.address)
        if neuron is None:
            command = (
                f"btcli subnets register --netuid {self._chain.netuid} --network {self._chain.network} "
                f"--wallet-name {hotkey.wallet_name} --hotkey {hotkey.name}"
            )
            _say_unregistered(hotkey, where=f"on {self._name}", hint=f"where the coldkey is, run `{command}`")
        elif self._endpoint is not None:
            await self._announce(hotkey, neuron, self._endpoint)

    async def _announce(self, hotkey: Hotkey, neuron: Neuron, endpoint: Endpoint) -> None:
        if endpoint.ip is None and self._external_ip is None:
            self._external_ip = await self._chain.external_ip()
            if not _is_public(self._external_ip):
                found, self._external_ip = self._external_ip, None
                raise ChainError(f"the internet is said to see this machine at `{found}`, which is no public address")
        ip = endpoint.ip or self._external_ip or ""
        if (_plain(neuron.ip), neuron.port) == (_plain(ip), endpoint.port):
            return
        await self._chain.announce(hotkey.file, ip=ip, port=endpoint.port)
        event(
            logger, "announced", hotkey=hotkey.address, ip=ip, port=endpoint.port, before=f"{neuron.ip}:{neuron.port}"
        )

    def _pause_s(self) -> float:
        """Until the chain is asked again; with jitter, so that replicas do not ask together."""
        if self._failures == 0:
            interval_s = self._interval_s
            if not self.registered(self._hotkey.address):
                interval_s = min(interval_s, _UNREGISTERED_S)
            return interval_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        longest = min(self._interval_s, _FIRST_RETRY_S * 2 ** min(self._failures - 1, 16))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _load(self) -> None:
        if self._cache is None:
            return
        try:
            kept = _Kept.model_validate_json(read_regular(self._cache))
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as err:
            reason = f"`{self._cache}` cannot be used: {_first(err) if isinstance(err, ValidationError) else err}"
            event(logger, "metagraph_cache_ignored", level=logging.WARNING, reason=reason)
            return
        if kept.chain != self._name:
            reason = f"`{self._cache}` is of {kept.chain}, expected {self._name}"
            event(logger, "metagraph_cache_ignored", level=logging.WARNING, reason=reason)
            return
        self._neurons = {neuron.hotkey: neuron for neuron in kept.neurons}
        self._synced_s = time.monotonic() - max(0.0, time.time() - kept.synced_at)

    def _save(self) -> None:
        if self._cache is None:
            return
        kept = _Kept(chain=self._name, synced_at=time.time(), neurons=list(self._neurons.values()))
        try:
            atomic.write_text(self._cache, kept.model_dump_json(indent=1))
        except StorageError as err:
            event(logger, "metagraph_cache_failed", level=logging.WARNING, reason=err.message)


class _Kept(BaseModel):
    """A metagraph as it outlives a restart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chain: str
    synced_at: float
    """Unix time."""
    neurons: Sequence[Neuron]


_NEURONS = TypeAdapter(list[Neuron])


def _say_unregistered(hotkey: Hotkey, *, where: str, hint: str) -> None:
    reason = f"the hotkey is not registered {where}: no challenge is answered"
    event(logger, "unregistered", level=logging.ERROR, hotkey=hotkey.address, reason=reason, hint=hint)


def _is_public(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_global
    except ValueError:
        return False


def _plain(ip: str) -> str:
    """One spelling of an address."""
    try:
        return str(ipaddress.ip_address(ip))
    except ValueError:
        return ip


def _read(file: Path) -> dict[str, Neuron]:
    try:
        return {neuron.hotkey: neuron for neuron in _NEURONS.validate_json(read_regular(file))}
    except OSError as err:
        raise SettingsError(f"metagraph `{file}` cannot be read: {err.strerror}") from err
    except ValidationError as err:
        raise SettingsError(f"metagraph `{file}` is unusable at {_first(err)}") from err


def _first(err: ValidationError) -> str:
    first = err.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{place}: {first['msg']}"
