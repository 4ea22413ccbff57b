import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve import InferInput, InferRequest
from numpy.typing import NDArray

from serving.predictor.model import IMAGES, BusyPredictor, PredictorModel
from streetvision.errors import EngineError
from streetvision.imaging import encode_jpeg
from streetvision.inference.classifier import Classifier
from streetvision.inference.model_directory import ModelDirectory

PICTURE = encode_jpeg(np.full((8, 8, 3), 9, dtype=np.uint8))


class ScriptedEngine:
    """An engine that waits for `released`, then fails if told so."""

    size_px = 32
    batch_sizes = (8,)

    def __init__(self) -> None:
        self.released = threading.Event()
        self.released.set()
        self.failing = False

    def warm_up(self) -> None:
        self.predict(np.zeros((1, 32, 32, 3), dtype=np.uint8))

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.released.wait(10)
        if self.failing:
            raise EngineError("engine answered nan for picture 0")
        return np.full(len(batch), 0.5, dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted", "provider": "none"}


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    engine = ScriptedEngine()
    yield engine
    engine.released.set()


@pytest.fixture
def model(engine: ScriptedEngine, model_dir: Path) -> PredictorModel:
    classifier = Classifier(ModelDirectory.open(model_dir), engine)
    return PredictorModel("roadwork", classifier, workers=1, queue_limit=32)


def request(count: int) -> InferRequest:
    return InferRequest("roadwork", [InferInput("image", [count], "BYTES", [PICTURE] * count)])


def counted(outcome: str) -> float:
    return IMAGES.labels(outcome)._value.get()


def test_model_is_ready_only_after_a_picture_was_answered(model: PredictorModel, engine: ScriptedEngine) -> None:
    engine.failing = True
    with pytest.raises(EngineError):
        model.load()
    model.start()
    assert not model.ready
    engine.failing = False
    assert model.load()
    assert model.ready


async def test_failing_engine_is_no_fault_of_the_request(model: PredictorModel, engine: ScriptedEngine) -> None:
    engine.failing = True
    before = counted("failed")
    with pytest.raises(EngineError):
        await model.predict(request(3))
    assert counted("failed") == before + 3


async def test_full_queue_refuses_and_has_room_again_after_the_answers(
    model: PredictorModel, engine: ScriptedEngine
) -> None:
    engine.released.clear()
    running = [asyncio.create_task(model.predict(request(16))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BusyPredictor, match="32 pictures are waiting"):
        await model.predict(request(1))
    running[1].cancel()  # a client that left
    await asyncio.gather(running[1], return_exceptions=True)
    engine.released.set()
    assert (await running[0]).outputs[0].shape == [16]
    assert (await model.predict(request(32))).outputs[0].shape == [32]
