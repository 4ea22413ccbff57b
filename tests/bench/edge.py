"""The miner's edge beside bittensor's stock axon, under attack and over many requests."""

import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from bittensor_wallet import Keypair

from streetvision.subnet.protocol import build_request
from streetvision.subnet.wallet import create_hotkey
from tests.bench import servers
from tests.bench.measure import Figure
from tests.bench.servers import Running

ALICE, BOB, EVE = (Keypair.create_from_uri(f"//{name}") for name in ("Alice", "Bob", "Eve"))
PICTURE = random.Random(0).randbytes(7_300)  # as long as a typical challenge
CONNECTIONS = 64
# Requests over each connection, so that both take some seconds.
ROUNDS = {"edge": 40, "axon": 3}
REJECTS_PER_S, VALID_PER_S, ATTACK_S = 500, 2, 10.0


def edge(repeat: int) -> Iterator[Figure]:
    """A signed challenge of 7.3 kB to a constant predictor, by turns, and what else an edge must stand."""
    with tempfile.TemporaryDirectory() as folder:
        yield from against_the_axon(Path(folder), repeat)
        yield from under_attack(Path(folder))
        yield from over_time(Path(folder))


def against_the_axon(folder: Path, repeat: int) -> Iterator[Figure]:
    seen: dict[str, list[Load]] = {"edge": [], "axon": []}
    starts: dict[str, list[float]] = {"edge": [], "axon": []}
    sizes: dict[str, list[int]] = {"edge": [], "axon": []}
    for _ in range(repeat):
        for name in seen:
            with running(name, folder) as server:
                starts[name].append(server.start_s)
                uvloop.run(load(server, rounds=2))  # warm
                seen[name].append(uvloop.run(load(server, rounds=ROUNDS[name])))
                sizes[name].append(server.memory())
    cpu_us = {name: statistics.median(one.cpu_us for one in loads) for name, loads in seen.items()}
    rps = {name: statistics.median(one.rps for one in loads) for name, loads in seen.items()}
    yield Figure("edge: processor time of a challenge", "us", cpu_us["edge"], None, repeat)
    share = _share([one.cpu_us for one in seen["edge"]], [one.cpu_us for one in seen["axon"]])
    yield Figure("  as a share of the stock axon's", "", share, 1 / 10, repeat)
    yield Figure("edge: challenges a second, 64 at a time", "1/s", rps["edge"], None, repeat)
    share = _share([one.rps for one in seen["axon"]], [one.rps for one in seen["edge"]])
    yield Figure("  the stock axon's as a share of it", "", share, 1 / 10, repeat)
    yield Figure("  refused or lost", "", sum(one.errors for loads in seen.values() for one in loads), 0, repeat)
    yield Figure("edge: start as a share of the stock axon's", "", _share(starts["edge"], starts["axon"]), 1, repeat)
    yield Figure("edge: memory as a share of the stock axon's", "", _share(sizes["edge"], sizes["axon"]), 1, repeat)


def _share(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def under_attack(folder: Path) -> Iterator[Figure]:
    with running("edge", folder) as server:
        idle_s = uvloop.run(valid_while(server, rejects_per_s=0))
        cpu_s, begun_s = server.cpu_s(), time.perf_counter()
        attacked_s = uvloop.run(valid_while(server, rejects_per_s=REJECTS_PER_S))
        sent = REJECTS_PER_S * (time.perf_counter() - begun_s)
        reject_ms = 1e3 * (server.cpu_s() - cpu_s) / sent
    yield Figure("edge: slowest challenge at 2 a second", "ms", 1e3 * max(idle_s), None, len(idle_s))
    yield Figure("  among 500 refused a second", "ms", 1e3 * max(attacked_s), 2000, len(attacked_s))
    yield Figure("  processor time of a refusal, connection and all", "ms", reject_ms, 2, int(sent))


def over_time(folder: Path) -> Iterator[Figure]:
    with running("edge", folder) as server:
        uvloop.run(load(server, rounds=5_000 // CONNECTIONS))
        before = server.memory()
        for _ in range(2):
            uvloop.run(load(server, rounds=5_000 // CONNECTIONS))
        grown = server.memory() - before
    yield Figure("edge: memory that 10,000 challenges leave", "MB", grown / 1e6, 1, 1)


# --- servers


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[Running]:
    """The edge or the axon with a constant predictor."""
    metagraph = folder / "metagraph.json"
    write_metagraph(metagraph, ALICE.ss58_address, BOB.ss58_address)
    arguments = ["{port}"] + ([str(metagraph)] if name == "edge" else [])
    command = [sys.executable, "-m", f"tests.bench.peers.{name}", *arguments]
    home = {"HOME": str(folder), "BT_NO_PARSE_CLI_ARGS": "true"}  # the axon writes there
    with servers.server(command, "/", status=404, **home) as server:
        yield server


@contextlib.contextmanager
def miner(folder: Path) -> Iterator[Running]:
    """The whole miner, as it is deployed; its predictor is not there."""
    hotkey = create_hotkey(folder / "wallets", "miner", "default")
    write_metagraph(folder / "metagraph.json", hotkey)
    settings = {
        "WALLET_PATH": folder / "wallets",
        "WALLET_NAME": "miner",
        "HOTKEY_NAME": "default",
        "NETWORK": "mock",
        "METAGRAPH_FILE": folder / "metagraph.json",
        "PREDICTOR_URL": "http://127.0.0.1:1",
        "HOST": "127.0.0.1",
        "PORT": "{port}",
        "METRICS_PORT": 0,
    }
    environment = {f"STREETVISION_MINER_{name}": str(value) for name, value in settings.items()}
    with servers.server([sys.executable, "-m", "serving.miner"], "/", status=404, **environment) as server:
        yield server


def write_metagraph(file: Path, *hotkeys: str) -> None:
    neuron = {"stake": 5000.0, "permit": True, "ip": "127.0.0.1", "port": 0}
    file.write_text(json.dumps([{"uid": uid, "hotkey": hotkey, **neuron} for uid, hotkey in enumerate(hotkeys)]))


# --- callers


@dataclass
class Load:
    """What many connections saw."""

    rps: float = 0.0
    cpu_us: float = 0.0
    errors: int = 0


@dataclass
class Signer:
    """A validator's session: its requests as they go over the wire."""

    port: int
    keypair: Keypair = ALICE
    uuid: str = field(default_factory=lambda: f"{random.getrandbits(64):x}")

    def request(self, **changes: Any) -> bytes:
        arguments: dict[str, Any] = {
            "route": "/ImageSynapse",
            "sender": self.keypair.ss58_address,
            "receiver": BOB.ss58_address,
            "uuid": self.uuid,
            "nonce_ns": time.time_ns(),
            "sign": self.keypair.sign,
            "host": "127.0.0.1",
            "port": self.port,
        }
        headers, body = build_request(PICTURE, **(arguments | changes))
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"POST /ImageSynapse HTTP/1.1\r\nhost: miner\r\ncontent-length: {len(body)}\r\n{''.join(lines)}\r\n"
        return head.encode() + body


async def load(server: Running, *, rounds: int) -> Load:
    """Keeps 64 connections busy with requests that were signed before."""
    signers = [Signer(server.port) for _ in range(CONNECTIONS)]
    requests = [[signer.request() for _ in range(rounds)] for signer in signers]
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in signers]
    cpu_s, begun_s = server.cpu_s(), time.perf_counter()
    statuses = await asyncio.gather(*(_ask_all(*pair, own) for pair, own in zip(opened, requests, strict=True)))
    elapsed_s, count = time.perf_counter() - begun_s, rounds * CONNECTIONS
    good = sum(status == 200 for own in statuses for status in own)
    for _, writer in opened:
        writer.close()
    return Load(count / elapsed_s, 1e6 * (server.cpu_s() - cpu_s) / count, count - good)


async def _ask_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: list[bytes]) -> list[int]:
    return [await _ask(reader, writer, request) for request in requests]


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def valid_while(server: Running, *, rejects_per_s: int) -> list[float]:
    """How long each valid challenge took, two a second, among so many that are refused."""
    signer = Signer(server.port)
    replayed = signer.request()
    # Unsigned, of a stranger, of a forger, seen before, and of another day.
    refused = [
        replayed.replace(b"bt_header_dendrite_signature", b"unsigned"),
        Signer(server.port, EVE).request(),
        Signer(server.port).request(sign=EVE.sign),
        replayed,
        Signer(server.port).request(nonce_ns=time.time_ns() - 60 * 10**9),
    ]
    took_s: list[float] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(request: bytes, taking: list[float] | None) -> None:
        begun_s = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        status = await _ask(reader, writer, request)
        writer.close()
        if taking is not None:
            if status != 200:
                raise RuntimeError(f"a valid challenge was answered {status}")
            taking.append(time.perf_counter() - begun_s)

    def begin(request: bytes, taking: list[float] | None = None) -> None:
        task = asyncio.create_task(one(request, taking))
        tasks.add(task)

    begin(replayed)
    begun_s = time.perf_counter()
    valid = rejects = 0
    while (elapsed_s := time.perf_counter() - begun_s) < ATTACK_S:
        if elapsed_s * VALID_PER_S > valid:
            valid += 1
            begin(signer.request(), took_s)
        while elapsed_s * rejects_per_s > rejects:
            begin(refused[rejects % len(refused)])
            rejects += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    return took_s
