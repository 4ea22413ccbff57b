"""Start and memory of predictor and miner beside a stock KServe predictor on the same ONNX, and what requests leave."""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from streetvision.imaging import encode_jpeg
from streetvision.models.backbones import load_backbone
from tests.bench.edge import miner
from tests.bench.measure import Figure
from tests.bench.models import exported
from tests.bench.pictures import street
from tests.bench.predictor import INFER, READY, v2
from tests.bench.servers import PEERS, Running, server


def footprint(repeat: int) -> Iterator[Figure]:
    """All three by turns; predictors after a few requests."""
    picture = encode_jpeg(street(224))
    start_s: dict[str, list[float]] = {"predictor": [], "miner": [], "stock": []}
    megabytes: dict[str, list[float]] = {name: [] for name in start_s}
    slopes: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        directory = exported(load_backbone("efficientnet-lite0", cache_dir=folder / "cache"), folder)
        body = folder / "body"
        body.write_bytes(v2([picture]))

        def predictor(*command: str) -> AbstractContextManager[Running]:
            return server((sys.executable, *command, "--http_port={port}", "--enable_grpc=false"), READY)

        starts: dict[str, Callable[[], AbstractContextManager[Running]]] = {
            "predictor": lambda: predictor("-m", "serving.predictor", f"--model-dir={directory.path}"),
            "miner": lambda: miner(folder),
            "stock": lambda: predictor(
                str(PEERS / "kserve_onnx.py"), "--model_name=roadwork", f"--model_dir={directory.path}"
            ),
        }
        for number in range(repeat):
            for who, start in starts.items():
                with start() as running:
                    start_s[who].append(running.start_s)
                    for count in (1, 4, 1) if who != "miner" else ():
                        running.post(INFER, v2([picture] * count))
                    megabytes[who].append(running.memory() / 1e6)
                    if who == "predictor" and number == 0:
                        slopes.append(_slope(running, body))
    for unit, what, taken in (("s", "start", start_s), ("MB", "memory", megabytes)):
        stock = statistics.median(taken["stock"])
        for who in ("predictor", "miner"):
            ours = statistics.median(taken[who])
            yield Figure(f"{who}: {what}", unit, ours, None, repeat)
            yield Figure("  as a multiple of a stock KServe predictor's", "", ours / stock, 1.1, repeat)
    yield Figure("predictor: growth over 10,000 requests", "MB", statistics.median(slopes), 1.0, 1)


def _slope(running: Running, body: Path, *, requests: int = 10_000) -> float:
    """Megabytes that the memory grows by over so many requests, once it has settled."""
    settled = False
    while not settled:
        before = running.memory()
        _ask(running, body, requests // 5)
        settled = running.memory() - before < 1_000_000
    before = running.memory()
    _ask(running, body, requests)
    return (running.memory() - before) / 1e6


def _ask(running: Running, body: Path, requests: int) -> None:
    done = 0.0
    while done < requests:
        done += 10 * running.load(INFER, body, connections=8, seconds=10).rps
