"""The edge and our own validator against the real thing: bittensor 10.5 and 11, each in a process of its own."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bittensor_wallet import Keypair

from serving.miner.nonces import LocalNonces
from streetvision.subnet import btauth
from streetvision.subnet.protocol import EMPTY_BODY_HASH

SECOND = 1_000_000_000
ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")
FACTS = json.loads((Path(__file__).parents[2] / "data" / "subnet" / "wire_facts.json").read_text())

# --- bittensor 10.5

SYNAPSES = """
import asyncio, json, sys
import bittensor
from bittensor_wallet import Keypair

class ImageSynapse(bittensor.Synapse):
    testnet_label: int = -1
    image: str = ""
    prediction: float = -1.0

    def deserialize(self) -> float:
        return self.prediction

class ExtendedImageSynapse(ImageSynapse):
    model_url: str = ""

ALICE, BOB = Keypair.create_from_uri("//Alice"), Keypair.create_from_uri("//Bob")
"""

DENDRITE = """
from unittest.mock import patch

def axon(port, hotkey):
    return bittensor.AxonInfo(
        version=1, ip="127.0.0.1", port=port, ip_type=4, hotkey=hotkey.ss58_address, coldkey=hotkey.ss58_address
    )

async def ask(dendrite, synapse, receiver):
    reply = await dendrite.call(axon(int(sys.argv[1]), receiver), synapse, timeout=9.0, deserialize=False)
    return reply.prediction, reply.dendrite.status_code, reply.dendrite.status_message

async def main():
    with patch("bittensor.utils.networking.get_external_ip", return_value="10.9.8.7"), \\
         patch("bittensor.core.dendrite.networking.get_external_ip", return_value="10.9.8.7"):
        alice, eve = bittensor.Dendrite(ALICE), bittensor.Dendrite(Keypair.create_from_uri("//Eve"))
        result = {
            "answer": await ask(alice, ImageSynapse(image="/9j/"), BOB),
            "extended": await ask(alice, ExtendedImageSynapse(image="/9j/"), BOB),
            "stranger": await ask(eve, ImageSynapse(image="/9j/"), BOB),
            "other receiver": await ask(alice, ImageSynapse(image="/9j/"), Keypair.create_from_uri("//Ferdie")),
            "no picture": await ask(alice, ImageSynapse(), BOB),
        }
        await alice.aclose_session()
        await eve.aclose_session()
    print(json.dumps(result))

asyncio.run(main())
"""

AXON = """
import socket, threading, time
import typing

def forward(synapse: ImageSynapse) -> ImageSynapse:
    synapse.prediction = len(synapse.image) / 100
    return synapse

def blacklist(synapse: ImageSynapse) -> typing.Tuple[bool, str]:
    return synapse.dendrite.hotkey != ALICE.ss58_address, "stranger"

class HotkeyOnly:
    hotkey = BOB

def started():
    "An axon that listens and its port, or none where the port was taken meanwhile."
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    axon = bittensor.Axon(wallet=HotkeyOnly(), port=port, ip="127.0.0.1", external_ip="127.0.0.1")
    axon.attach(forward, blacklist)
    axon.start()
    for _ in range(200):
        if axon.fast_server.started:
            return axon, port
        time.sleep(0.05)
    return None

axon, port = started() or started() or started()
print(port, flush=True)
sys.stdin.readline()
axon.stop()
"""


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], "BT_NO_PARSE_CLI_ARGS": "true"}


@pytest.mark.slow  # importing bittensor takes seconds
def test_a_real_dendrite_gets_the_prediction(miner: Any, tmp_path: Path):
    port = miner.validator.url.rpartition(":")[2]
    output = subprocess.run(
        [sys.executable, "-c", SYNAPSES + DENDRITE, port],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert output.returncode == 0, output.stderr
    result = json.loads(output.stdout.splitlines()[-1])
    assert result["answer"] == result["extended"] == [0.77, 200, "Success"]
    assert result["stranger"][:2] == [-1.0, 403]
    assert "is not registered" in result["stranger"][2]
    assert result["other receiver"][:2] == [-1.0, 401]
    assert result["no picture"][:2] == [-1.0, 400]


@pytest.mark.slow
async def test_a_real_axon_answers_our_validator(tmp_path: Path):
    from streetvision.subnet.dendrite import Dendrite

    axon = subprocess.Popen(
        [sys.executable, "-c", SYNAPSES + AXON],
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert axon.stdout is not None
        url = f"http://127.0.0.1:{int(axon.stdout.readline())}"
        bob = Keypair.create_from_uri("//Bob").ss58_address
        for uri, expected in (("//Alice", (0.12, "")), ("//Eve", (-1.0, "HTTP 403"))):
            keypair = Keypair.create_from_uri(uri)
            async with Dendrite(keypair, route="/ImageSynapse", timeout_s=9.0) as dendrite:
                for _ in range(2):
                    answer = await dendrite.ask(url, bob, b"nine byte")
                    assert (answer.prediction, answer.error) == expected
    finally:
        axon.kill()
        axon.communicate()


# --- the captured exchange, over the wire, at its own time


def captured_headers(**changes: str) -> dict[str, str]:
    headers = FACTS["request"]["headers"] | changes
    fields = [headers[f"bt_header_{name}"] for name in ("dendrite_nonce", "dendrite_hotkey", "axon_hotkey")]
    text = ".".join([*fields, headers["bt_header_dendrite_uuid"], EMPTY_BODY_HASH])
    # The record abridges these two.
    signature = "0x" + ALICE.sign(text.encode()).hex()
    return headers | {"bt_header_dendrite_signature": signature, "computed_body_hash": EMPTY_BODY_HASH} | changes


def captured_body() -> dict[str, Any]:
    examples = {"str": "", "float": 9.0, "int": -1, "dict": dict.fromkeys(FACTS["body_terminal_keys"])}
    body = {name: examples[kind] for name, kind in FACTS["body_keys"].items() if kind in examples}
    length = int(FACTS["body_keys"]["image"][4:-1])
    return body | {"name": "ImageSynapse", "image": base64.b64encode(bytes(length // 4 * 3)).decode()}


@pytest.fixture
def at_the_time(start_miner: Callable[..., Any]) -> Callable[..., Any]:
    """Starts a miner whose clock stands still, so many seconds after the captured request was signed."""

    def start(*, age_s: float = 0.0) -> Any:
        now_ns = int(FACTS["request"]["headers"]["bt_header_dendrite_nonce"]) + int(age_s * SECOND)
        nonces = LocalNonces(clock_ns=lambda: now_ns - 60 * SECOND)
        return start_miner(clock_ns=lambda: now_ns, nonces=nonces)

    return start


def ask(miner: Any, headers: dict[str, str], body: Any, route: str = "/ImageSynapse") -> httpx.Response:
    return miner.validator.client.post(miner.validator.url + route, headers=headers, json=body)


def test_the_captured_request_gets_the_documented_reply_without_its_picture(at_the_time: Callable[..., Any]):
    miner = at_the_time()
    reply = ask(miner, captured_headers(), captured_body())
    assert (reply.status_code, reply.json()["prediction"]) == (200, FACTS["normal"]["prediction"])
    assert reply.json()["image"] == ""
    expected = {name.lower() for name in FACTS["response_headers"]} - {"server"}
    assert set(reply.headers) == expected
    for name in ("name", "bt_header_axon_status_code", "bt_header_axon_status_message"):
        assert reply.headers[name] == FACTS["response_headers"][name]
    assert ask(miner, captured_headers(), captured_body()).status_code == FACTS["replay_same_nonce"][1][0]


@pytest.mark.parametrize(("age_s", "key"), [(12, "nonce_12s_old_first_contact"), (14, "nonce_14s_old_first_contact")])
def test_a_captured_request_of_that_age_gets_the_documented_status(
    at_the_time: Callable[..., Any], age_s: float, key: str
):
    assert ask(at_the_time(age_s=age_s), captured_headers(), captured_body()).status_code == FACTS[key][0]


@pytest.mark.parametrize(
    ("changes", "body", "route", "key"),
    [
        ({"bt_header_dendrite_signature": "0x" + "00" * 64}, None, "/ImageSynapse", "bad_signature"),
        ({}, None, "/Synapse", "old_route"),
        ({}, None, "/", "root"),
    ],
)
def test_a_captured_request_that_is_wrong_gets_the_documented_status(
    at_the_time: Callable[..., Any], changes: dict[str, str], body: Any, route: str, key: str
):
    reply = ask(at_the_time(), captured_headers(**changes), body or captured_body(), route)
    assert reply.status_code == FACTS[key][0]
    assert "message" in reply.json()


@pytest.mark.parametrize(
    ("changes", "body", "key"),
    [({"computed_body_hash": "0" * 64}, None, "wrong_body_hash"), ({}, ["no object"], "bad_body_type")],
)
def test_where_the_stock_axon_breaks_ours_refuses(
    at_the_time: Callable[..., Any], changes: dict[str, str], body: Any, key: str
):
    assert FACTS[key][0] == 500
    assert ask(at_the_time(), captured_headers(**changes), body or captured_body()).status_code == 400


# --- bittensor 11, which cannot share an environment with 10.5

SIGN = """
import json, sys
from bittensor import http_auth
from bittensor.sp_core import CRYPTO_ED25519, Keypair

request = json.load(sys.stdin)
keys = {"sr25519": Keypair.create_from_uri("//Alice"),
        "ed25519": Keypair.create_from_uri("//Alice", crypto_type=CRYPTO_ED25519)}
signed = {
    scheme: http_auth.sign(
        key, method="POST", path=request["path"], body=request["body"].encode(), receiver_ss58=request["receiver"]
    )
    for scheme, key in keys.items()
}
caller = http_auth.verify(
    request["ours"], request["body"].encode(), method="POST", path=request["path"],
    self_hotkey_ss58=request["receiver"],
)
print(json.dumps({"signed": signed, "caller": caller.hotkey_ss58}))
"""


@pytest.fixture(scope="module")
def bittensor_11() -> Path:
    """The Python of an environment with bittensor 11, made once and kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "streetvision" / "test-environments" / "bittensor-11.3.0"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        uv = Path(sys.executable).with_name("uv")
        commands = [
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder],
            [uv, "pip", "install", "--quiet", "--python", python, "bittensor==11.3.0"],
        ]
        for command in commands:
            made = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
            if made.returncode:
                pytest.skip(f"bittensor 11.3.0 cannot be installed: {made.stderr.strip().splitlines()[-1]}")
        (folder / "complete").touch()
    return python


@pytest.mark.slow  # importing bittensor takes seconds, and installing it some more
def test_a_request_signed_by_bittensor_11_is_answered_and_it_takes_ours(bittensor_11: Path, miner: Any, tmp_path: Path):
    body = json.dumps({"name": "ImageSynapse", "image": "/9j/"})
    request: dict[str, Any] = {"path": "/ImageSynapse", "receiver": BOB.ss58_address, "body": body}
    request["ours"] = btauth.build_headers(
        body.encode(),
        target="/ImageSynapse",
        sender=ALICE.ss58_address,
        receiver=BOB.ss58_address,
        nonce_ns=time.time_ns(),
        sign=ALICE.sign,
    )
    output = subprocess.run(
        [str(bittensor_11), "-c", SIGN],
        env=environment(tmp_path),
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert output.returncode == 0, output.stderr
    result = json.loads(output.stdout)
    assert result["caller"] == ALICE.ss58_address

    def send(headers: dict[str, str], content: str) -> httpx.Response:
        return miner.validator.client.post(miner.validator.url + "/ImageSynapse", headers=headers, content=content)

    signed = result["signed"]["sr25519"]
    assert send(signed, body + " ").status_code == 401
    assert send(signed, body).json()["prediction"] == 0.77
    assert miner.journal.accepted[-1].wire == "btauth/1"
    assert miner.journal.accepted[-1].unauthenticated_body is False
    assert send(signed, body).status_code == 401
    assert (miner.refused("bad_signature"), miner.refused("replay")) == (1, 1)
    assert result["signed"]["ed25519"]["X-Bittensor-Crypto"] == "ed25519"
    assert send(result["signed"]["ed25519"], body).status_code == 403  # well-formed, but of a hotkey nobody registered
    assert miner.refused("unregistered") == 1
