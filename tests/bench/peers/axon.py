"""A stock miner on bittensor's axon, with a constant for a model: `python -m tests.bench.peers.axon PORT`."""

import sys
import threading

import bittensor
from bittensor_wallet import Keypair


class ImageSynapse(bittensor.Synapse):
    testnet_label: int = -1
    image: str = ""
    prediction: float = -1.0

    def deserialize(self) -> float:
        return self.prediction


def forward(synapse: ImageSynapse) -> ImageSynapse:
    synapse.prediction = 0.77
    return synapse


class HotkeyOnly:
    """A wallet, as far as an axon looks at it."""

    hotkey = Keypair.create_from_uri("//Bob")


axon = bittensor.Axon(wallet=HotkeyOnly(), port=int(sys.argv[1]), ip="127.0.0.1", external_ip="127.0.0.1")
axon.attach(forward)
axon.start()
threading.Event().wait()
