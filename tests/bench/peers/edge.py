"""Our edge with a constant for a model: `python -m tests.bench.peers.edge PORT METAGRAPH`."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from bittensor_wallet import Keypair

from serving.miner.app import Edge
from serving.miner.http_server import Limits
from serving.miner.metagraph import FileMetagraph
from serving.miner.metrics import Metrics
from serving.miner.nonces import LocalNonces
from serving.miner.server import MinerServer, listen
from serving.miner.verification import Verifier


@dataclass(frozen=True)
class Constant:
    """An outcome, and the way to it."""

    prediction: float = 0.77
    answered_by: str = "primary"
    reason: str = ""
    model_version: str = ""
    parts_ms: Mapping[str, float] = field(default_factory=dict)

    async def predict(self, image: bytes, *, deadline_s: float) -> "Constant":
        return self

    async def ready(self) -> bool:
        return True

    def after(self, request_id: str, image: bytes) -> None:
        pass


async def main() -> None:
    port, metagraph = int(sys.argv[1]), Path(sys.argv[2])
    nonces = LocalNonces(metagraph.with_name("nonces"))
    hotkey = Keypair.create_from_uri("//Bob").ss58_address
    metrics = Metrics()
    edge = Edge(
        Verifier([hotkey], FileMetagraph(metagraph), nonces),
        Constant(),
        metrics,
        body_limit_bytes=2 * 1024 * 1024,
        answer_deadline_s=8.5,
    )
    limits = Limits(connections_per_address=0)
    server = MinerServer(edge, metrics, nonces, ready={}, hotkeys=lambda: [hotkey], limits=limits)
    await server.run(listen("127.0.0.1", port), listen("127.0.0.1", 0), stop=asyncio.Event(), drain_s=0)


uvloop.run(main())
