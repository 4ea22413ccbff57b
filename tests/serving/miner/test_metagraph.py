import asyncio
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serving.miner.keys import Hotkey
from serving.miner.metagraph import ChainMetagraph, Endpoint, FileMetagraph, Neuron
from streetvision.errors import ChainError, SettingsError

VALIDATOR = Neuron(uid=0, hotkey="a validator", stake=5000.0, permit=True, ip="0.0.0.0", port=0)
OURS = Neuron(uid=7, hotkey="our hotkey", stake=0.0, permit=False, ip="0.0.0.0", port=0)
HOTKEY = Hotkey(address="our hotkey", file=Path("/wallets/miner/hotkeys/default"), wallet_name="miner", name="default")
NEXT = Hotkey(address="next", file=Path("/wallets/miner/hotkeys/next"), wallet_name="miner", name="next")
KEYS = {VALIDATOR.hotkey: None, HOTKEY.address: HOTKEY.file, NEXT.address: NEXT.file}


@dataclass
class LocalChain:
    """A chain that lists what it is given, takes announcements, and fails where the test says so."""

    listed: list[Neuron] = field(default_factory=lambda: [VALIDATOR, OURS])
    network: str = "finney"
    netuid: int = 72
    fault: ChainError | None = None
    refusal: ChainError | None = None
    silent: bool = False
    seen_at: str = "8.8.8.8"
    calls: list[str] = field(default_factory=list)
    announced: list[tuple[Path, str, int]] = field(default_factory=list)

    async def neurons(self) -> list[Neuron]:
        self.calls.append("neurons")
        if self.silent:
            await asyncio.Event().wait()
        if self.fault:
            raise self.fault
        return list(self.listed)

    async def announce(self, key_file: Path, *, ip: str, port: int) -> None:
        self.calls.append("announce")
        if self.refusal:
            raise self.refusal
        self.announced.append((key_file, ip, port))
        self.listed = [
            one.model_copy(update={"ip": ip, "port": port}) if KEYS[one.hotkey] == key_file else one
            for one in self.listed
        ]

    async def external_ip(self) -> str:
        self.calls.append("external_ip")
        return self.seen_at


@pytest.fixture
def chain() -> LocalChain:
    return LocalChain()


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[dict[str, Any]]]:
    """The fields of the events of one name."""
    caplog.set_level(logging.INFO)

    def of(name: str) -> list[dict[str, Any]]:
        return [vars(record)["streetvision_fields"] for record in caplog.records if record.getMessage() == name]

    return of


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


# --- what the chain tells


async def test_before_the_chain_answers_nobody_is_known_and_nothing_waits(chain: LocalChain):
    chain.silent = True
    async with ChainMetagraph(chain, HOTKEY) as metagraph:
        await until(lambda: chain.calls == ["neurons"])
        assert metagraph.neuron(VALIDATOR.hotkey) is None
        assert not metagraph.registered(HOTKEY.address)
        assert metagraph.age_s == math.inf


async def test_what_the_chain_tells_is_in_force_and_ages(chain: LocalChain):
    metagraph = ChainMetagraph(chain, HOTKEY)
    await metagraph.sync()
    assert metagraph.neuron(VALIDATOR.hotkey) == VALIDATOR
    assert metagraph.neuron("a stranger") is None
    assert metagraph.registered(HOTKEY.address)
    young = metagraph.age_s
    await asyncio.sleep(0.02)
    assert 0.02 <= metagraph.age_s - young < 5


async def test_the_chain_is_asked_again_and_its_news_are_in_force(chain: LocalChain):
    async with ChainMetagraph(chain, HOTKEY, interval_s=0.01) as metagraph:
        await until(lambda: metagraph.registered(OURS.hotkey))
        chain.listed = [VALIDATOR]
        await until(lambda: not metagraph.registered(OURS.hotkey))


async def test_a_chain_that_fails_leaves_what_was_known_and_is_asked_again(
    chain: LocalChain, events: Callable[[str], list[dict[str, Any]]]
):
    async with ChainMetagraph(chain, HOTKEY, interval_s=0.01) as metagraph:
        await until(lambda: metagraph.age_s < math.inf)
        chain.fault = ChainError("it is silent")
        await until(lambda: metagraph.failures >= 3)
        assert metagraph.neuron(VALIDATOR.hotkey) == VALIDATOR
        assert events("chain_failed")[0] == {"reason": "it is silent", "metagraph_age_s": 0}
        chain.fault = None
        await until(lambda: metagraph.failures == 0)


async def test_the_chain_is_asked_every_minute_while_our_hotkey_waits_to_be_registered(chain: LocalChain):
    chain.listed = [VALIDATOR]
    metagraph = ChainMetagraph(chain, HOTKEY, interval_s=1200)
    await metagraph.sync()
    assert 54 <= metagraph._pause_s() <= 66
    chain.listed.append(OURS)
    await metagraph.sync()
    assert 1080 <= metagraph._pause_s() <= 1320


async def test_pauses_grow_with_failures_up_to_the_interval(chain: LocalChain):
    metagraph = ChainMetagraph(chain, HOTKEY, interval_s=1200)
    await metagraph.sync()
    pauses = {}
    for failures in (0, 1, 2, 3, 50, 5000):
        metagraph._failures = failures
        pauses[failures] = [metagraph._pause_s() for _ in range(200)]
    bounds = {0: (1080, 1320), 1: (7.5, 15), 2: (15, 30), 3: (30, 60), 50: (600, 1200), 5000: (600, 1200)}
    for failures, (least, most) in bounds.items():
        assert least <= min(pauses[failures])
        assert max(pauses[failures]) <= most
        assert len(set(pauses[failures])) > 100, "replicas would ask together"


# --- a restart


async def test_a_restart_without_a_chain_knows_who_was_known_and_since_when(
    chain: LocalChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = tmp_path / "cache" / "metagraph.json"
    await ChainMetagraph(chain, HOTKEY, cache=cache).sync()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    restarted = ChainMetagraph(LocalChain(fault=ChainError("silent")), HOTKEY, cache=cache)
    assert restarted.neuron(VALIDATOR.hotkey) == VALIDATOR
    assert restarted.registered(HOTKEY.address)
    assert 3599 < restarted.age_s < 3610


async def test_a_clock_that_was_ahead_makes_no_negative_age(
    chain: LocalChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    await ChainMetagraph(chain, HOTKEY, cache=tmp_path / "kept").sync()
    monkeypatch.undo()
    assert 0 <= ChainMetagraph(chain, HOTKEY, cache=tmp_path / "kept").age_s < 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"chain": "finney/72", "synced_at": 1, "neurons": [{}]}'])
def test_a_damaged_cache_is_told_and_passed_over(
    chain: LocalChain, tmp_path: Path, content: str, events: Callable[[str], list[dict[str, Any]]]
):
    (tmp_path / "kept").write_text(content)
    metagraph = ChainMetagraph(chain, HOTKEY, cache=tmp_path / "kept")
    assert metagraph.age_s == math.inf
    assert len(events("metagraph_cache_ignored")) == 1


async def test_the_cache_of_another_subnet_is_passed_over(chain: LocalChain, tmp_path: Path):
    await ChainMetagraph(chain, HOTKEY, cache=tmp_path / "kept").sync()
    other = ChainMetagraph(LocalChain(network="test", netuid=323), HOTKEY, cache=tmp_path / "kept")
    assert not other.registered(HOTKEY.address)


async def test_a_cache_that_cannot_be_written_stops_nothing(
    chain: LocalChain, tmp_path: Path, events: Callable[[str], list[dict[str, Any]]]
):
    (tmp_path / "file").touch()
    metagraph = ChainMetagraph(chain, HOTKEY, cache=tmp_path / "file" / "kept")
    await metagraph.sync()
    assert metagraph.registered(HOTKEY.address)
    assert len(events("metagraph_cache_failed")) == 1


# --- our own hotkey


async def test_an_unregistered_hotkey_is_told_what_to_do_once_per_sync(
    chain: LocalChain, events: Callable[[str], list[dict[str, Any]]]
):
    chain.listed = [VALIDATOR]
    metagraph = ChainMetagraph(chain, HOTKEY, endpoint=Endpoint(port=8091, ip="8.8.8.8"))
    await metagraph.sync()
    await metagraph.sync()
    said = events("unregistered")
    assert len(said) == 2
    command = "btcli subnets register --netuid 72 --network finney --wallet-name miner --hotkey default"
    assert f"`{command}`" in said[0]["hint"]
    assert chain.announced == []
    assert not metagraph.registered(HOTKEY.address)


async def test_an_address_is_announced_once_and_again_only_when_it_changes(
    chain: LocalChain, events: Callable[[str], list[dict[str, Any]]]
):
    metagraph = ChainMetagraph(chain, HOTKEY, endpoint=Endpoint(port=8091, ip="8.8.8.8"))
    for _ in range(3):
        await metagraph.sync()
    assert chain.announced == [(HOTKEY.file, "8.8.8.8", 8091)]
    moved = ChainMetagraph(chain, HOTKEY, endpoint=Endpoint(port=8092, ip="8.8.8.8"))
    await moved.sync()
    assert chain.calls.count("announce") == 2
    assert events("announced")[0] == {
        "hotkey": "our hotkey",
        "ip": "8.8.8.8",
        "port": 8091,
        "before": "0.0.0.0:0",
    }


async def test_two_spellings_of_one_address_are_no_change(chain: LocalChain):
    listed = OURS.model_copy(update={"ip": "2606:4700:0:0::1", "port": 8091})
    chain.listed = [listed]
    await ChainMetagraph(chain, HOTKEY, endpoint=Endpoint(port=8091, ip="2606:4700::1")).sync()
    assert chain.calls == ["neurons"]


async def test_an_address_that_is_not_given_is_asked_for_once(chain: LocalChain):
    metagraph = ChainMetagraph(chain, HOTKEY, endpoint=Endpoint(port=8091))
    await metagraph.sync()
    await metagraph.sync()
    assert chain.calls == ["neurons", "external_ip", "announce", "neurons"]
    assert chain.announced[0][1] == "8.8.8.8"


async def test_an_address_that_nobody_can_call_is_not_announced(chain: LocalChain):
    chain.seen_at = "10.0.0.7"
    metagraph = ChainMetagraph(chain, HOTKEY, endpoint=Endpoint(port=8091))
    with pytest.raises(ChainError, match=r"10\.0\.0\.7.* no public address"):
        await metagraph.sync()
    assert chain.announced == []


async def test_a_refused_announcement_leaves_the_miner_serving_and_is_tried_again(chain: LocalChain):
    chain.refusal = ChainError("ServingRateLimitExceeded")
    endpoint = Endpoint(port=8091, ip="8.8.8.8")
    async with ChainMetagraph(chain, HOTKEY, endpoint=endpoint, interval_s=0.01) as metagraph:
        await until(lambda: metagraph.failures >= 2)
        assert metagraph.registered(HOTKEY.address)
        chain.refusal = None
        await until(lambda: metagraph.failures == 0)
    assert len(chain.announced) == 1


async def test_without_an_endpoint_nothing_is_announced(chain: LocalChain):
    await ChainMetagraph(chain, HOTKEY).sync()
    assert chain.calls == ["neurons"]


async def test_a_new_hotkey_has_the_chain_asked_at_once(chain: LocalChain):
    chain.listed.append(OURS.model_copy(update={"uid": 8, "hotkey": "next"}))
    endpoint = Endpoint(port=8091, ip="8.8.8.8")
    async with ChainMetagraph(chain, HOTKEY, endpoint=endpoint, interval_s=3600) as metagraph:
        await until(lambda: len(chain.announced) == 1)
        metagraph.change_hotkey(NEXT)
        await until(lambda: len(chain.announced) == 2)
    assert chain.announced[1] == (NEXT.file, "8.8.8.8", 8091)


@pytest.mark.parametrize("ip", ["10.0.0.7", "127.0.0.1", "0.0.0.0", "::1", "miner.example", ""])
def test_an_endpoint_that_the_chain_would_refuse_is_refused_at_the_start(ip: str):
    with pytest.raises(SettingsError, match="validators can call"):
        Endpoint(port=8091, ip=ip)


def test_port_0_is_not_announced():
    with pytest.raises(SettingsError, match="cannot announce port 0"):
        Endpoint(port=0, ip="8.8.8.8")


# --- the network `mock`


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "metagraph.json"
    write(file, [VALIDATOR])
    return file


def write(file: Path, neurons: list[Neuron]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps([neuron.model_dump() for neuron in neurons]))
    new.replace(file)


def test_a_file_is_followed(file: Path):
    metagraph = FileMetagraph(file)
    assert metagraph.registered(VALIDATOR.hotkey)
    assert metagraph.age_s == 0.0
    write(file, [OURS])
    assert not metagraph.registered(VALIDATOR.hotkey)
    assert metagraph.neuron(OURS.hotkey) == OURS


def test_a_file_that_became_unreadable_leaves_the_neurons_and_they_age(
    file: Path, events: Callable[[str], list[dict[str, Any]]]
):
    metagraph = FileMetagraph(file)
    file.write_text("[{")
    assert metagraph.neuron(VALIDATOR.hotkey) == VALIDATOR
    time.sleep(0.01)
    assert metagraph.age_s >= 0.01
    assert len(events("metagraph_unreadable")) == 1
    write(file, [VALIDATOR])
    assert metagraph.age_s == 0.0


def test_the_network_mock_loads_no_bittensor(file: Path):
    code = (
        "import sys; from pathlib import Path; from serving.miner import chain, keys, metagraph\n"
        f"metagraph.FileMetagraph(Path({str(file)!r})); print('bittensor' in sys.modules)"
    )
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]
