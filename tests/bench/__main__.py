"""`python -m tests.bench [NAME ...]`: the figures of docs/benchmarks.md, as medians, with what each may cost."""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from kfp import dsl, local

from streetvision.data import dedupe
from streetvision.registry.gate import decide
from streetvision.subnet.reward import Tracker, mean_rewards
from tests.bench.batching import batching
from tests.bench.decode import decode
from tests.bench.edge import edge
from tests.bench.footprint import footprint
from tests.bench.forward import forward
from tests.bench.measure import Figure, memory, seconds
from tests.bench.predictor import predictor, transports
from tests.bench.views import views
from tests.registry.worlds import World, answers

ROOT = Path(__file__).parents[2]


def main() -> int:
    benches: dict[str, Callable[[int], Iterator[Figure]]] = {
        "replay": replay,
        "gate": gate,
        "views": views,
        "dedupe": near_pairs,
        "kfp": kfp_overhead,
        "decode": decode,
        "predictor": predictor,
        "transports": transports,
        "footprint": footprint,
        "batching": batching,
        "forward": forward,
        "edge": edge,
        "unit": unit_suite,
        "run": main_job,
    }
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(benches)}; all by default")
    parser.add_argument("--repeat", type=int, default=3, help="runs that the median is taken of")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(benches):
        parser.error(f"no bench `{min(unknown)}`, expected {', '.join(benches)}")
    figures: list[Figure] = []
    for name in arguments.names or benches:
        for figure in benches[name](arguments.repeat):
            figures.append(figure)
            if not arguments.json:
                budget = "" if figure.budget is None else f"of {figure.budget:g}"
                verdict = "" if figure.within else "  OVER"
                print(f"{figure.name:<44} {figure.median:>9.4g} {figure.unit:<4} {budget}{verdict}", flush=True)
    if arguments.json:
        print(json.dumps([asdict(figure) for figure in figures]))
    return 0 if all(figure.within for figure in figures) else 1


def replay(repeat: int) -> Iterator[Figure]:
    """The bootstrap of the gate against the scalar tracker, which is fed one of its sequences; in one run."""
    rng = np.random.default_rng(9)
    labels = rng.integers(0, 2, 4000).astype(np.uint8)
    predictions = np.where(rng.random(4000) < 0.04, 1 - labels, labels).astype(np.float64)
    orders = rng.integers(0, 4000, (2000, 4000))
    sequence = list(zip(predictions[orders[0]].tolist(), labels[orders[0]].tolist(), strict=True))

    def follow() -> list[float]:
        tracker = Tracker()
        return [tracker.update(prediction, label, "a").reward for prediction, label in sequence]

    if mean_rewards(predictions, labels, orders[:1])[0] != np.mean(follow()[100:]):
        raise AssertionError("the two replays differ")
    pairs = [
        (seconds(lambda: mean_rewards(predictions, labels, orders)), len(orders) * seconds(follow))
        for _ in range(repeat)
    ]
    yield Figure(
        "replay of 2,000 x 4,000 predictions", "s", statistics.median(array for array, _ in pairs), 3.0, repeat
    )
    share = statistics.median(array / tracker for array, tracker in pairs)
    yield Figure("  as a share of the scalar tracker's time", "", share, 1 / 50, repeat)


def gate(repeat: int) -> Iterator[Figure]:
    """A verdict under the default policy, and how much longer it takes where pictures are resampled, in one run."""
    alone_s, grouped_s = (
        [seconds(lambda: decide(*answers(world, seed))) for seed in range(repeat)]  # noqa: B023
        for world in (World(gain=0.015), World(gain=0.015, groups=800))
    )
    yield Figure("one verdict on 4,000 challenges", "s", statistics.median(alone_s), 3.0, repeat)
    yield Figure("one verdict on 4,000 views of 800 pictures", "s", statistics.median(grouped_s), 3.0, repeat)


def near_pairs(repeat: int) -> Iterator[Figure]:
    words = np.random.default_rng(0).integers(0, 256, (8_000, 32), dtype=np.uint8)
    hashes = [row.tobytes().hex() for row in words]
    runs = [seconds(lambda: dedupe.near_pairs(hashes)) for _ in range(repeat)]
    yield Figure("near-duplicates among 8,000 pictures", "s", statistics.median(runs), 5.0, repeat)


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def nothing(number: int) -> int:
    return number


@dsl.pipeline(name="chain")
def chain() -> int:
    task = nothing(number=0)
    for _ in range(9):
        task = nothing(number=task.output)
    return task.output


def kfp_overhead(repeat: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=folder)
        runs = [seconds(chain) / 10 for _ in range(repeat)]
    yield Figure("kfp's local runner, overhead of a step", "s", statistics.median(runs), 0.2, repeat)


def unit_suite(repeat: int) -> Iterator[Figure]:
    command = [sys.executable, "-m", "pytest", "-q", "tests/unit", "-m", "not slow and not gpu"]
    runs = [seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True)) for _ in range(repeat)]
    yield Figure("unit suite", "s", statistics.median(runs), 60.0, repeat)


def main_job(repeat: int) -> Iterator[Figure]:
    """`make run` from nothing and again, after installation, with the memory of all its processes."""
    first, again, peak = [], [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "serving.local", "--state", f"{folder}/state", "run"]
            for runs in (first, again):
                with memory() as seen:
                    runs.append(
                        seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))  # noqa: B023
                    )
                peak.append(max(seen))
    yield Figure("first `make run`", "s", statistics.median(first), 360.0, repeat)
    yield Figure("`make run` again", "s", statistics.median(again), 90.0, repeat)
    yield Figure("peak memory of all its processes", "GB", max(peak) / 1e9, 4.0, repeat)


if __name__ == "__main__":
    sys.exit(main())
