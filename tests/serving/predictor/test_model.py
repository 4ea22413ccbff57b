import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput
from kserve.model_repository import ModelRepository
from prometheus_client import REGISTRY

from serving.predictor import model as module
from serving.predictor.dataplane import PredictorDataPlane
from serving.predictor.model import BusyPredictor, PredictorModel
from streetvision.errors import EngineError
from streetvision.imaging import encode_jpeg
from streetvision.inference.batching import Batcher
from streetvision.inference.classifier import Classifier
from streetvision.inference.model_directory import ModelDirectory

Engine = Any  # the one of conftest.py
PICTURE = encode_jpeg(np.full((8, 8, 3), 9, dtype=np.uint8))


def request(count: int) -> InferRequest:
    return InferRequest("roadwork", [InferInput("image", [count], "BYTES", [PICTURE] * count)])


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"streetvision_predictor_{name}", labels) or 0.0


def counted(outcome: str) -> float:
    return sample("images_total", outcome=outcome)


@pytest.fixture
def dataplane(model: PredictorModel) -> PredictorDataPlane:
    repository = ModelRepository()
    repository.update(model)
    return PredictorDataPlane(repository)


def test_model_is_ready_only_after_a_picture_was_answered(engine: Engine, model_dir: Path) -> None:
    classifier = Classifier(ModelDirectory.open(model_dir), engine)
    model = PredictorModel("roadwork", classifier, decode_workers=1, decode_limit_s=1.0, queue_limit=32)
    engine.failing = True
    with pytest.raises(EngineError):
        model.load()
    model.start()
    assert not model.ready
    engine.failing = False
    assert model.load()
    assert model.ready
    model.close()
    assert not model.ready


async def test_failing_engine_is_no_fault_of_the_request(model: PredictorModel, engine: Engine) -> None:
    engine.failing = True
    before = counted("failed")
    with pytest.raises(EngineError):
        await model.predict(request(3))
    assert counted("failed") == before + 3


async def test_bad_picture_is_named_by_its_index(model: PredictorModel) -> None:
    before = counted("refused")
    with pytest.raises(InvalidInput, match="image 1: 5 bytes are no JPEG"):
        await model.answer([PICTURE, b"hello", PICTURE])
    assert counted("refused") == before + 3


async def test_full_queue_refuses_and_has_room_again_after_the_answers(model: PredictorModel, engine: Engine) -> None:
    engine.released.clear()
    before = counted("busy"), counted("left")
    running = [asyncio.create_task(model.predict(request(16))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BusyPredictor, match="32 pictures are waiting"):
        await model.predict(request(1))
    running[1].cancel()  # a client that left
    await asyncio.gather(running[1], return_exceptions=True)
    engine.released.set()
    assert (await running[0]).outputs[0].shape == [16]
    assert (await model.predict(request(32))).outputs[0].shape == [32]
    assert (counted("busy"), counted("left")) == (before[0] + 1, before[1] + 16)


async def test_readiness_follows_the_engine_and_tries_a_failed_one_again(
    model: PredictorModel, engine: Engine, dataplane: PredictorDataPlane
) -> None:
    assert await dataplane.ready()
    engine.failing = True
    with pytest.raises(EngineError):
        await model.answer([PICTURE])
    assert not await dataplane.ready()
    assert not await dataplane.model_ready("roadwork")
    engine.failing = False
    assert await dataplane.ready()
    engine.batches.clear()
    assert await dataplane.ready()
    assert engine.batches == []  # an engine that works is not bothered


async def test_an_engine_that_hangs_is_not_ready_and_in_the_end_not_alive(
    model: PredictorModel, engine: Engine, dataplane: PredictorDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.released.clear()
    task = asyncio.create_task(model.answer([PICTURE]))
    await asyncio.sleep(0.1)
    assert (await dataplane.ready(), await dataplane.live()) == (True, {"status": "alive"})
    monkeypatch.setattr(module, "_SLOW_S", 0.05)
    monkeypatch.setattr(module, "_PROBE_S", 0.05)
    assert (await dataplane.ready(), await dataplane.live()) == (False, {"status": "alive"})
    monkeypatch.setattr(module, "_HUNG_S", 0.05)
    assert await dataplane.live() == {"status": "hung"}
    engine.released.set()
    await task
    assert (await dataplane.ready(), await dataplane.live()) == (True, {"status": "alive"})
    monkeypatch.setattr(Batcher, "alive", False)
    assert (await dataplane.ready(), await dataplane.live()) == (False, {"status": "hung"})


async def test_a_model_about_to_stop_still_answers_and_is_not_loaded_again(
    model: PredictorModel, dataplane: PredictorDataPlane
) -> None:
    model.ready = False
    response, _ = await dataplane.infer("roadwork", request(1))
    assert response.outputs[0].shape == [1]
    assert not await dataplane.ready()


async def test_metrics_tell_batches_times_and_what_runs(model: PredictorModel, engine: Engine) -> None:
    names = (
        "batch_size_count",
        "batch_size_sum",
        "queue_seconds_count",
        "engine_seconds_count",
        "decode_seconds_count",
    )
    before = [sample(name) for name in names]
    engine.released.clear()
    tasks = [asyncio.create_task(model.answer([PICTURE])) for _ in range(6)]
    await asyncio.sleep(0.2)
    assert sample("pending_images") == 6
    engine.released.set()
    await asyncio.gather(*tasks)
    await asyncio.sleep(0.1)  # the engine's thread counts after it has answered
    batches = len(engine.batches)
    assert batches < 6
    assert [sample(name) - old for name, old in zip(names, before, strict=True)] == [batches, 6, 6, batches, 6]
    assert sample("pending_images") == 0
    labels = {"model_version": model.version, "engine": "scripted", "provider": "none", "precision": "fp64"}
    assert sample("model", **labels) == 1
    assert sample("fallback") == 1
