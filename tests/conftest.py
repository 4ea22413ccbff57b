"""Small real model directories, answer tables and verdicts; how many cases a fuzz test draws."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from streetvision.evaluation import Predictions
from streetvision.inference.model_directory import ModelDirectory, write_config
from streetvision.registry.gate import Decision, Policy

settings.register_profile(
    "test", max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("fuzz", settings.get_profile("test"), max_examples=5_000)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Gives tests marked `fuzz` the number of cases of $HYPOTHESIS_PROFILE; they carry no settings of their own."""
    profile = settings(settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "test")))
    fuzzing = [item for item in items if item.get_closest_marker("fuzz")]
    for test in {item.obj for item in fuzzing}:
        profile(test)
    for item in fuzzing:
        item.add_marker(pytest.mark.timeout(1_800))


def pytest_collection_finish() -> None:
    """Leaves the imported libraries out of garbage collection, which else walks them thousands of times."""
    gc.collect()
    gc.freeze()


MakeModel = Callable[..., ModelDirectory]
MakePredictions = Callable[..., Predictions]
MakeDecision = Callable[..., Decision]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Model directories that differ where their `content` does."""

    def make(content: str = "a", **settings: object) -> ModelDirectory:
        path = tmp_path / "trained" / content
        path.mkdir(parents=True, exist_ok=True)
        (path / "model.onnx").write_bytes(f"onnx {content}".encode() * 1000)
        (path / "training.json").write_text("{}")
        values = {"preset": "efficientnet-lite0", "input_size_px": 224, "threshold": 0.43, "temperature": 1.7}
        values |= {"data_version": "d" * 64, "code_version": "c" * 64, "git_sha": "0123456789abcdef"}
        return write_config(path, **(values | settings))

    return make


@pytest.fixture
def make_decision() -> MakeDecision:
    def make(verdict: str = "promote", **values: object) -> Decision:
        return Decision(verdict=verdict, reasons=(f"because of {verdict}",), n=4000, policy=Policy(), **values)

    return make


@pytest.fixture
def make_predictions() -> MakePredictions:
    """Answers to one made-up challenge set; `wrong` are the rows that are answered wrong."""

    def make(n: int = 4000, *, wrong: object = (), groups: int | None = None, **columns: object) -> Predictions:
        rng = np.random.default_rng(7)
        label = rng.integers(0, 2, n).astype(np.uint8)
        sure = 0.5 + 0.5 * rng.beta(8, 2, n)
        right = np.ones(n, dtype=bool)
        right[np.asarray(wrong, dtype=np.int64)] = False
        probability = np.where((label == 1) == right, sure, 1 - sure)
        values = {
            "challenge_id": np.array([f"set/{row}" for row in range(n)]),
            "label": label,
            "probability": probability,
            "source": rng.choice(["real", "t2i", "i2i"], n, p=[0.5, 0.25, 0.25]),
            "level": rng.integers(0, 4, n).astype(np.int8),
            "calibrated": probability,
            "group": None if groups is None else np.array([f"scene-{row % groups}" for row in range(n)]),
        }
        return Predictions(**(values | columns))

    return make
