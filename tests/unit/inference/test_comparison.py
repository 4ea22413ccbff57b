from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from streetvision.inference.comparison import compare
from streetvision.inference.onnx import OnnxEngine
from tests.brightness import write_model

GREYS = np.arange(0, 256, 15)
IMAGES = np.stack([np.full((32, 32, 3), value, dtype=np.uint8) for value in GREYS])  # 18: no multiple of a batch size

MakeEngine = Callable[[float], OnnxEngine]


@pytest.fixture
def brightness(tmp_path: Path) -> MakeEngine:
    """An engine that answers the mean brightness / the divisor."""

    def make(divisor: float) -> OnnxEngine:
        write_model(tmp_path / f"{divisor}.onnx", divisor=divisor)
        return OnnxEngine(tmp_path / f"{divisor}.onnx", size_px=32, threads=1)

    return make


class OneSizeWrong(OnnxEngine):
    """Answers wrong for one batch size alone, as a miscompiled kernel does."""

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        answers = super().predict(batch)
        return np.clip(answers + 0.02, 0, 1) if len(batch) == 4 else answers


def test_an_engine_that_answers_alike_may_serve(brightness: MakeEngine):
    comparison = compare(brightness(256.5), brightness(255.0), IMAGES, threshold=0.5)
    assert comparison.problem is None
    assert comparison.pictures == 18
    assert comparison.max_difference == pytest.approx(1 - 255 / 256.5, abs=1e-6)


def test_an_engine_that_differs_by_more_than_a_hundredth_may_not(brightness: MakeEngine):
    comparison = compare(brightness(258.0), brightness(255.0), IMAGES, threshold=0.5)
    assert comparison.problem == "0.9884 on fixture 17 in batches of 1, expected 1.0000 within 0.01"


def test_an_engine_that_decides_otherwise_may_not_however_near_it_is(brightness: MakeEngine):
    threshold = 0.5 * (120 / 255 + 120 / 255.5)
    comparison = compare(brightness(255.5), brightness(255.0), IMAGES, threshold=threshold)
    assert comparison.problem is not None
    assert comparison.problem.startswith("decides fixture 8 otherwise in batches of 1: 0.4697, expected 0.4706")


@pytest.mark.parametrize("divisor", [0.0, 100.0])
def test_an_engine_that_answers_no_probability_may_not(brightness: MakeEngine, divisor: float):
    comparison = compare(brightness(divisor), brightness(255.0), IMAGES, threshold=0.5)
    assert comparison.problem is not None
    assert "expected a number in [0, 1]" in comparison.problem


def test_every_batch_size_is_compared(model_dir: Path):
    engine = OneSizeWrong(model_dir / "model.onnx", size_px=32, threads=1)
    reference = OnnxEngine(model_dir / "model.onnx", size_px=32, threads=1)
    comparison = compare(engine, reference, IMAGES, threshold=0.5)
    assert comparison.problem is not None
    assert "in batches of 4" in comparison.problem
    assert compare(reference, reference, IMAGES, threshold=0.5).max_difference == 0
