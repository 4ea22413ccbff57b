import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bittensor_wallet import Keyfile, Keypair

from serving.miner.chain import ENTRYPOINTS, NETUIDS, SubtensorChain
from serving.miner.metagraph import Neuron
from streetvision.errors import ChainError

ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")
NEURON = {"uid": 0, "hotkey": ALICE.ss58_address, "stake": 5.0, "permit": True, "ip": "0.0.0.0", "port": 0}


@pytest.fixture
def chain(tmp_path: Path) -> Callable[..., SubtensorChain]:
    """Makes chains whose answers come from some lines of Python that know the `question`."""

    def make(lines: str, **changes: Any) -> SubtensorChain:
        script = tmp_path / "child.py"
        script.write_text(
            "import json, os, sys, time\n"
            "question = json.load(sys.stdin)\n"
            f"asked = open({str(tmp_path / 'asked')!r}, 'a')\n"
            "print(json.dumps(question | {'pid': os.getpid()}), file=asked, flush=True)\n"
            "def say(**reply): print(json.dumps(reply))\n" + lines
        )
        arguments: dict[str, Any] = {"deadline_s": 5.0, "command": [sys.executable, "-S", str(script)]}
        return SubtensorChain("finney", **(arguments | changes))

    return make


def asked(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "asked").read_text().splitlines()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_neurons_are_those_of_the_subnet_on_its_network(chain: Any, tmp_path: Path):
    assert await chain(f"say(value=[json.loads({json.dumps(NEURON)!r})])").neurons() == [Neuron(**NEURON)]
    [question] = asked(tmp_path)
    assert (question["call"], question["netuid"]) == ("neurons", 72)
    assert question["endpoint"] == "wss://entrypoint-finney.opentensor.ai:443"
    assert SubtensorChain("test").netuid == 323
    assert NETUIDS.keys() == ENTRYPOINTS.keys()


async def test_an_announcement_names_the_key_file_and_not_the_key(chain: Any, tmp_path: Path):
    await chain("say(value=None)").announce(tmp_path / "key", ip="1.2.3.4", port=8091)
    [question] = asked(tmp_path)
    assert {name: question[name] for name in ("call", "key_file", "ip", "port")} == {
        "call": "announce",
        "key_file": str(tmp_path / "key"),
        "ip": "1.2.3.4",
        "port": 8091,
    }


async def test_a_silent_call_is_killed_at_its_deadline_while_the_loop_goes_on(chain: Any, tmp_path: Path):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    begun = time.monotonic()
    with pytest.raises(ChainError, match=r"`wss://.*` did not answer `neurons` within 1 s"):
        await chain(stubborn, deadline_s=1.0).neurons()
    ticking.cancel()
    assert time.monotonic() - begun < 3
    assert ticks > 20
    assert not is_running(asked(tmp_path)[0]["pid"])


async def test_what_a_killed_call_had_started_ends_with_it(chain: Any, tmp_path: Path):
    lines = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print(json.dumps({'child': child.pid}), file=asked, flush=True)\n"
        "child.wait()"
    )
    begun = time.monotonic()
    with pytest.raises(ChainError, match="within 1 s"):
        await chain(lines, deadline_s=1.0).external_ip()
    assert time.monotonic() - begun < 5
    grandchild = asked(tmp_path)[1]["child"]
    for _ in range(100):  # whoever inherits it has to notice
        if not is_running(grandchild) or "\nState:\tZ" in Path(f"/proc/{grandchild}/status").read_text():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{grandchild} still runs")


async def test_a_cancelled_call_leaves_no_process(chain: Any, tmp_path: Path):
    calling = asyncio.create_task(chain("time.sleep(60)").neurons())
    while not (tmp_path / "asked").exists() or not asked(tmp_path):
        await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert not is_running(asked(tmp_path)[0]["pid"])


async def test_the_next_node_is_asked_and_stays_the_first(chain: Any, tmp_path: Path):
    lines = f"say(error='no') if question['endpoint'] == 'ws://a' else say(value=[json.loads({json.dumps(NEURON)!r})])"
    two = chain(lines, endpoints=["ws://a", "ws://b"])
    await two.neurons()
    await two.neurons()
    assert [question["endpoint"] for question in asked(tmp_path)] == ["ws://a", "ws://b", "ws://b"]


async def test_when_no_node_answers_each_reason_is_told(chain: Any):
    two = chain("say(error='no ' + question['endpoint'])", endpoints=["ws://a", "ws://b"])
    with pytest.raises(ChainError, match=r"`ws://a` for `neurons` failed: no ws://a; .*`ws://b`.*: no ws://b"):
        await two.neurons()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("say(value=[])", "subnet 72 has no neurons"),
        ("say(value=[{'uid': 0}])", r"unusable at 0\.hotkey: Field required"),
        ("say(value='neurons')", "unusable at the answer"),
        ("print('not json')", "ended with status 0 and no answer"),
        ("sys.exit('it broke')", "ended with status 1 and no answer: it broke"),
        ("os.kill(os.getpid(), 9)", "ended with status -9"),
    ],
)
async def test_an_answer_that_is_none_is_one_sentence(chain: Any, lines: str, sentence: str):
    with pytest.raises(ChainError, match=sentence):
        await chain(lines).neurons()


async def test_a_process_that_cannot_start_is_one_sentence(tmp_path: Path):
    with pytest.raises(ChainError, match=r"cannot start a process .* No such file"):
        await SubtensorChain("finney", command=[str(tmp_path / "none")]).neurons()


async def test_without_an_external_address_the_hint_is_to_set_it(chain: Any):
    with pytest.raises(ChainError) as caught:
        await chain("say(error='ExternalIPNotFound')").external_ip()
    assert caught.value.hint == "set the address to announce"


async def test_the_child_inherits_no_secret_of_the_miner(chain: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREETVISION_MINER_NONCE_SERVER", "redis://:password@host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    said = await chain("say(value=json.dumps(dict(os.environ)))").external_ip()
    environment = json.loads(said)
    assert not {"STREETVISION_MINER_NONCE_SERVER", "AWS_SECRET_ACCESS_KEY"} & environment.keys()
    assert environment["READ_ONLY"] == "1"


# --- the child, with bittensor's own client


@pytest.fixture(scope="module")
def subtensor() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("READ_ONLY", "1")
        loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
        levels = [logger.level for logger in loggers]
        from serving.miner import subtensor

        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)  # bittensor silences every logger that it finds
        yield subtensor


class Node:
    """What bittensor's client decodes from a node; how that becomes neurons is its own."""

    def __init__(self, subtensor: ModuleType, *, stakes: int = 2) -> None:
        self.stakes = stakes
        self.sent: list[Any] = []
        self.success = True
        self.neurons_lite = subtensor.Subtensor.neurons_lite.__get__(self)

    def get_current_block(self) -> int:
        return 100

    def query_runtime_api(self, runtime_api: str, method: str, params: list[int], block: int) -> Any:
        assert (params, block) == ([72], 100)
        match runtime_api, method:
            case "NeuronInfoRuntimeApi", "get_neurons_lite":
                return [self.neuron(0, ALICE, 4, 0x01020304), self.neuron(1, BOB, 6, 0x20014860 << 96 | 1)]
            case "SubnetInfoRuntimeApi", "get_subnet_state":
                hotkeys = [BOB.ss58_address, ALICE.ss58_address]
                state = {"hotkeys": hotkeys[: self.stakes], "total_stake": [0, 7_500_000_001][: self.stakes]}
                return state if self.stakes else None
        raise AssertionError(f"{runtime_api}.{method}")

    def neuron(self, uid: int, key: Keypair, ip_type: int, ip: int) -> dict[str, Any]:
        zeros = ["consensus", "dividends", "emission", "incentive", "last_update", "pruning_score", "rank", "trust"]
        nowhere = {"block": 0, "version": 1, "ip": 0, "port": 0, "ip_type": 4}
        axon = {"ip": ip, "ip_type": ip_type, "port": 8091, "protocol": 4, "placeholder1": 0, "placeholder2": 0}
        return dict.fromkeys([*zeros, "validator_trust"], 0) | {
            "uid": uid,
            "netuid": 72,
            "hotkey": key.ss58_address,
            "coldkey": key.ss58_address,
            "active": True,
            "stake": [(key.ss58_address, 1)],
            "validator_permit": uid == 0,
            "axon_info": nowhere | axon,
            "prometheus_info": nowhere,
        }

    def compose_call(self, **call: Any) -> dict[str, Any]:
        return call

    def sign_and_send_extrinsic(self, **sent: Any) -> Any:
        self.sent.append(sent)

        class Response:
            success = self.success
            message = "ServingRateLimitExceeded"

        return Response


def test_what_a_node_says_becomes_neurons_with_the_stake_of_the_subnet(subtensor: Any):
    question = {"call": "neurons", "endpoint": "ws://node", "netuid": 72}
    neurons = subtensor.answer(question, connect=lambda _: Node(subtensor))
    assert [Neuron(**neuron) for neuron in json.loads(json.dumps(neurons))] == [
        Neuron(uid=0, hotkey=ALICE.ss58_address, stake=7.500000001, permit=True, ip="1.2.3.4", port=8091),
        Neuron(uid=1, hotkey=BOB.ss58_address, stake=0.0, permit=False, ip="2001:4860::1", port=8091),
    ]


@pytest.mark.parametrize("stakes", [0, 1])
def test_stakes_that_are_missing_are_no_stakes_of_zero(subtensor: Any, stakes: int):
    question = {"call": "neurons", "endpoint": "ws://node", "netuid": 72}
    with pytest.raises(ChainError, match=f"stakes of {2 - stakes} of 2 neurons are missing"):
        subtensor.answer(question, connect=lambda _: Node(subtensor, stakes=stakes))


@pytest.mark.parametrize(
    ("ip", "number", "kind"), [("1.2.3.4", 0x01020304, 4), ("2001:4860::1", 0x20014860 << 96 | 1, 6)]
)
def test_an_announcement_is_signed_by_the_hotkey_alone(subtensor: Any, tmp_path: Path, ip: str, number: int, kind: int):
    Keyfile(str(tmp_path / "key")).set_keypair(BOB, encrypt=False, overwrite=False)
    question = {"call": "announce", "endpoint": "ws://node", "netuid": 72, "ip": ip, "port": 8091}
    node = Node(subtensor)
    subtensor.answer(question | {"key_file": str(tmp_path / "key")}, connect=lambda _: node)
    [sent] = node.sent
    assert sent["sign_with"] == "hotkey"
    assert vars(sent["wallet"]).keys() == {"hotkey"}
    assert sent["wallet"].hotkey.ss58_address == BOB.ss58_address
    assert (sent["call"]["call_module"], sent["call"]["call_function"]) == ("SubtensorModule", "serve_axon")
    wanted = {"netuid": 72, "ip": number, "port": 8091, "ip_type": kind, "protocol": 4}
    assert wanted.items() <= sent["call"]["call_params"].items()
    node.success = False
    with pytest.raises(ChainError, match="ServingRateLimitExceeded"):
        subtensor.answer(question | {"key_file": str(tmp_path / "key")}, connect=lambda _: node)


# --- bittensor's own client against nodes that fail


@pytest.fixture
def silent_node() -> Iterator[Callable[[bool], str]]:
    """Starts nodes that take a connection and never answer: not at all, or only the websocket's handshake."""
    from websockets.sync.server import serve

    ends: list[Callable[[], None]] = []
    released = threading.Event()

    def start(shakes_hands: bool) -> str:
        if not shakes_hands:
            server = socket.create_server(("127.0.0.1", 0))
            ends.append(server.close)
            return f"ws://127.0.0.1:{server.getsockname()[1]}"
        node = serve(lambda _: released.wait(60), "127.0.0.1", 0, close_timeout=0.1)
        thread = threading.Thread(target=node.serve_forever, daemon=True)
        thread.start()
        ends.append(node.shutdown)
        return f"ws://127.0.0.1:{node.socket.getsockname()[1]}"

    yield start
    released.set()
    for end in ends:
        end()


@pytest.mark.slow
@pytest.mark.parametrize("shakes_hands", [False, True])
async def test_bittensor_and_a_silent_node_end_at_the_deadline(silent_node: Callable[[bool], str], shakes_hands: bool):
    chain = SubtensorChain("finney", endpoints=[silent_node(shakes_hands)], deadline_s=6.0)
    begun = time.monotonic()
    with pytest.raises(ChainError, match="did not answer `neurons` within 6 s"):
        await chain.neurons()
    assert 5.9 < time.monotonic() - begun < 8


@pytest.mark.slow
async def test_bittensor_without_a_node_is_one_sentence_and_leaves_home_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ChainError, match=r"asking `ws://127.0.0.1:\d+` for `neurons` failed: .*Connection"):
        await SubtensorChain("finney", endpoints=[f"ws://127.0.0.1:{port}"], deadline_s=30.0).neurons()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_child_that_nobody_kills_ends_by_itself(silent_node: Callable[[bool], str]):
    question = {"call": "neurons", "endpoint": silent_node(True), "netuid": 72, "deadline_s": 2.0}
    environment = dict(os.environ) | {"READ_ONLY": "1"}
    child = subprocess.run(
        [sys.executable, "-m", "serving.miner.subtensor"],
        input=json.dumps(question).encode(),
        env=environment,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert child.returncode == -signal.SIGALRM
