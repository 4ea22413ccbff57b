from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from streetvision.errors import EngineError
from streetvision.inference.model_directory import ModelDirectory
from streetvision.inference.onnx import OnnxEngine
from tests.brightness import write_model

AZURE = "AzureExecutionProvider"  # takes no operation of ours, and says nothing


def grey(*values: int, size_px: int = 32) -> NDArray[np.uint8]:
    return np.stack([np.full((size_px, size_px, 3), value, dtype=np.uint8) for value in values])


def test_engine_answers_each_picture_of_a_batch(model_dir: Path) -> None:
    engine = OnnxEngine(model_dir / "model.onnx", size_px=32, threads=1)
    engine.warm_up()
    assert engine.predict(grey(0, 51, 255)).tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert engine.predict(grey(0)[:0]).shape == (0,)
    assert engine.describe()["provider"] == "CPUExecutionProvider"
    assert engine.describe()["threads"] == 1


@pytest.mark.parametrize(
    "batch", [grey(1, size_px=16), grey(1).astype(np.float32), grey(1)[0], grey(*range(9))], ids=lambda b: str(b.shape)
)
def test_batch_of_another_shape_or_type_is_refused(model_dir: Path, batch: NDArray[np.uint8]) -> None:
    with pytest.raises(EngineError, match="expected uint8"):
        OnnxEngine(model_dir / "model.onnx", size_px=32, threads=1).predict(batch)


@pytest.mark.parametrize(("divisor", "value", "answer"), [(0.0, 0, "nan"), (0.0, 9, "inf"), (100.0, 255, "2.55")])
def test_answer_that_is_no_probability_is_an_error(tmp_path: Path, divisor: float, value: int, answer: str) -> None:
    write_model(tmp_path / "model.onnx", divisor=divisor)
    engine = OnnxEngine(tmp_path / "model.onnx", size_px=32, threads=1)
    with pytest.raises(EngineError, match=f"answered {answer} for picture 0, expected"):
        engine.predict(grey(value))


def test_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match="ONNX Runtime cannot load") as raised:
        OnnxEngine(tmp_path / "model.onnx", size_px=32, threads=1)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("interface", [{"input_name": "pixels"}, {"batch": 1}])
def test_model_with_another_interface_is_refused(tmp_path: Path, interface: dict[str, str | int]) -> None:
    write_model(tmp_path / "model.onnx", **interface)
    with pytest.raises(EngineError, match="has inputs and outputs"):
        OnnxEngine(tmp_path / "model.onnx", size_px=32, threads=1)


def test_model_of_another_size_is_refused(model_dir: Path) -> None:
    with pytest.raises(EngineError, match=r"expected `image` uint8\[N,64,64,3\]"):
        OnnxEngine(model_dir / "model.onnx", size_px=64, threads=1)


def test_provider_that_is_not_there_is_refused(model_dir: Path) -> None:
    with pytest.raises(EngineError, match="has no `TensorrtExecutionProvider` here"):
        OnnxEngine(model_dir / "model.onnx", size_px=32, threads=1, provider="TensorrtExecutionProvider")


@pytest.mark.skipif(
    AZURE not in onnxruntime.get_available_providers(), reason="this onnxruntime has no second provider"
)
def test_a_provider_that_leaves_the_work_to_another_is_refused(exported: Callable[..., ModelDirectory]) -> None:
    path = exported("dinov3-convnext-small").model_path
    with pytest.raises(
        EngineError, match=r"runs node `.*` \(Conv\) of `.*` on `CPUExecutionProvider`, expected `Azure"
    ):
        OnnxEngine(path, size_px=224, threads=1, provider=AZURE)
