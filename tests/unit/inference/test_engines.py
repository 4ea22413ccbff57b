import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from streetvision.errors import EngineError
from streetvision.imaging import encode_jpeg
from streetvision.inference import engines, onnx, tensorrt
from streetvision.inference.classifier import Classifier
from streetvision.inference.comparison import Comparison
from streetvision.inference.cuda import Gpu, find_gpu
from streetvision.inference.engines import open_engine
from streetvision.inference.model_directory import ModelDirectory
from streetvision.inference.onnx import CUDA, OnnxEngine
from tests.brightness import describe, write_model


def has_gpu() -> bool:
    try:
        find_gpu()
    except EngineError:
        return False
    return True


without_gpu = pytest.mark.skipif(has_gpu(), reason="shows what happens on a machine without a GPU, and here is one")


@pytest.fixture
def directory(model_dir: Path) -> ModelDirectory:
    return ModelDirectory.open(model_dir)


def test_onnx_is_onnx_runtime_on_cpu(directory: ModelDirectory):
    described = open_engine(directory, "onnx", threads=1).describe()
    assert (described["engine"], described["provider"], described["device"]) == ("onnx", "CPUExecutionProvider", "cpu")
    assert described["fallback_reason"] is None


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has the CUDA provider")
def test_onnx_cuda_without_cuda_is_refused_not_replaced(directory: ModelDirectory):
    with pytest.raises(EngineError, match="ONNX Runtime has no `CUDAExecutionProvider` here"):
        open_engine(directory, "onnx-cuda", threads=1)


@without_gpu
def test_without_a_gpu_tensorrt_is_replaced_by_onnx_runtime_which_says_why(
    model_dir: Path, caplog: pytest.LogCaptureFixture
):
    classifier = Classifier.open(model_dir, engine="tensorrt", threads=1)
    described = classifier.engine.describe()
    assert described["engine"] == "onnx"
    assert described["fallback_reason"].startswith("no usable NVIDIA GPU: ")
    assert "no TensorRT here: no usable NVIDIA GPU: " in caplog.text
    assert classifier.predict([np.full((32, 32, 3), 51, dtype=np.uint8)]).calibrated[0] == pytest.approx(0.2)


@without_gpu
def test_without_a_gpu_auto_is_onnx_runtime_and_no_fallback(
    directory: ModelDirectory, caplog: pytest.LogCaptureFixture
):
    assert open_engine(directory, "auto", threads=1).describe()["fallback_reason"] is None
    assert not caplog.records


@pytest.mark.parametrize("name", ["tensorrt", "auto"])
def test_an_engine_that_cannot_be_built_is_replaced_and_the_reason_is_kept(
    directory: ModelDirectory,
    name: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    platform = tensorrt.Platform.find(Gpu("", (8, 6)))
    monkeypatch.setattr(tensorrt.Platform, "find", lambda: platform)
    (tmp_path / "cache").write_text("a file where the folder should be")
    engine = open_engine(directory, name, threads=1, cache=tmp_path / "cache")
    assert engine.describe()["engine"] == "onnx"
    assert engine.describe()["fallback_reason"].startswith("cannot write `")
    assert f"TensorRT cannot serve {directory.version}, ONNX Runtime does: cannot write" in caplog.text


@without_gpu
def test_an_engine_that_cannot_be_loaded_is_replaced_and_the_reason_is_kept(
    exported: Callable[..., ModelDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    platform = tensorrt.Platform.find(Gpu("", (8, 6)))
    monkeypatch.setattr(tensorrt.Platform, "find", lambda: platform)
    directory = exported("dinov3-convnext-small")
    reason = open_engine(directory, "tensorrt", threads=1, cache=tmp_path / "cache").describe()["fallback_reason"]
    assert "cannot load its engine here" in reason


def test_a_missing_extra_is_replaced_and_the_reason_is_kept(directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "streetvision.inference.tensorrt")
    monkeypatch.delitem(sys.modules, "streetvision.inference.precision")
    monkeypatch.setitem(sys.modules, "onnx", None)
    reason = open_engine(directory, "tensorrt", threads=1).describe()["fallback_reason"]
    assert reason.startswith("the extra `tensorrt` is not installed: ")
    assert "onnx" in reason


def test_onnx_runtime_on_cuda_is_compared_with_cpu_before_it_serves(
    directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The provider is played by the CPU's; that the comparison decides is what is tried."""
    monkeypatch.setattr(engines, "CUDA", onnx.CPU)
    monkeypatch.setattr(tensorrt.Platform, "find", lambda: (_ for _ in ()).throw(EngineError("no GPU")))
    assert open_engine(directory, "onnx-cuda", threads=1).batch_sizes[-1] == 32
    assert open_engine(directory, "tensorrt", threads=1).describe()["fallback_reason"] == "no GPU"
    monkeypatch.setattr(engines, "compare", lambda *_, **__: Comparison(16, 0.2, "0.5000 on fixture 3"))
    with pytest.raises(EngineError, match="on CUDA answers differently from CPU: 0.5000 on fixture 3"):
        open_engine(directory, "onnx-cuda", threads=1)
    fallback = open_engine(directory, "tensorrt", threads=1)
    assert fallback.batch_sizes[-1] == 8
    assert fallback.describe()["fallback_reason"].startswith("no GPU; ONNX Runtime on CUDA answers differently")


def open_verified(directory: ModelDirectory, answering: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> OnnxEngine:
    """TensorRT's choice among precisions, each played by ONNX Runtime with a model of its own."""

    def load(directory: ModelDirectory, platform: Any, precision: str, cache: Any) -> OnnxEngine:
        return OnnxEngine(answering[precision], size_px=32, threads=1)

    monkeypatch.setattr(tensorrt, "_load", load)
    reference = OnnxEngine(directory.model_path, size_px=32, threads=1)
    images = np.stack([np.full((32, 32, 3), value, dtype=np.uint8) for value in (0, 100, 200)])
    engine: Any = tensorrt.open_verified(directory, object(), reference, images, object())
    return engine


def test_the_first_precision_that_answers_alike_serves(
    directory: ModelDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    for name, divisor in (("nan", 0.0), ("near", 255.5)):
        write_model(tmp_path / name, divisor=divisor)
    models = {"fp16": tmp_path / "nan", "bf16": tmp_path / "near", "fp32": directory.model_path}
    with caplog.at_level(logging.INFO):
        engine = open_verified(directory, models, monkeypatch)
    assert engine.comparison.max_difference == pytest.approx(200 / 255 - 200 / 255.5, abs=1e-6)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "TensorRT fp16 may not serve",
        "TensorRT bf16 differs from ONNX Runtime by at most 0.0015 on 3 fixtures",
    ]


def test_where_no_precision_answers_alike_the_reason_of_each_is_told(
    directory: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_model(tmp_path / "far", divisor=280.0)
    with pytest.raises(EngineError, match=r"differently from ONNX Runtime \(fp16: 0.7143 on .*; bf16: .*; fp32: .*\)"):
        open_verified(directory, dict.fromkeys(("fp16", "bf16", "fp32"), tmp_path / "far"), monkeypatch)


def test_pictures_of_the_model_directory_are_compared_on_too(model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    picture = np.full((48, 64, 3), 7, dtype=np.uint8)
    (model_dir / "street.jpg").write_bytes(encode_jpeg(picture))
    directory = describe(model_dir)
    (model_dir / "unlisted.jpg").write_bytes(b"not looked at")
    seen: list[np.ndarray] = []

    def compare(engine: Any, reference: Any, images: np.ndarray, *, threshold: float) -> Comparison:
        seen.append(images)
        return Comparison(len(images), 0.0, None)

    monkeypatch.setattr(engines, "CUDA", onnx.CPU)
    monkeypatch.setattr(engines, "compare", compare)
    open_engine(directory, "onnx-cuda", threads=1)
    assert seen[0].shape == (17, 32, 32, 3)
    assert np.all(seen[0][-1] == 7)


def test_onnx_runtime_alone_needs_neither_onnx_nor_tensorrt_nor_torch():
    heavy = {"onnx", "tensorrt", "tensorrt_rtx", "cuda", "torch", "tqdm", "ml_dtypes"}
    code = f"import sys, streetvision.inference.classifier\nprint(*({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is not installed")
def test_onnx_runtime_on_cuda_answers_as_on_cpu(exported: Callable[..., ModelDirectory]):
    engine = open_engine(exported(), "onnx-cuda")
    engine.warm_up()
    assert engine.describe()["provider"] == CUDA
