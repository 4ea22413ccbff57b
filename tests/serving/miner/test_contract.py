"""The edge and our own validator against the real thing: bittensor 10.5, in a process and a home folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # importing bittensor takes seconds

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

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
axon = bittensor.Axon(wallet=HotkeyOnly(), port=port, ip="127.0.0.1", external_ip="127.0.0.1")
axon.attach(forward, blacklist)
axon.start()
while True:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        break
    except OSError:
        time.sleep(0.05)
print(port, flush=True)
sys.stdin.readline()
axon.stop()
"""


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], "BT_NO_PARSE_CLI_ARGS": "true"}


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


async def test_a_real_axon_answers_our_validator(tmp_path: Path):
    from bittensor_wallet import Keypair

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
