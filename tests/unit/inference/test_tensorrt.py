import ctypes
import gc
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from streetvision.cli import main
from streetvision.errors import EngineError
from streetvision.inference import cuda, tensorrt
from streetvision.inference.classifier import Classifier
from streetvision.inference.cuda import Gpu
from streetvision.inference.engine_cache import EngineCache
from streetvision.inference.fixtures import fixture_images
from streetvision.inference.model_directory import ModelDirectory
from streetvision.inference.onnx import OnnxEngine
from streetvision.inference.tensorrt import PACKAGES, PRECISIONS, Platform, TensorRtEngine, build, cached_plan

RTX = {"RTX 30": (8, 6), "RTX 40": (8, 9), "RTX 50": (12, 0)}
Exported = Callable[..., ModelDirectory]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def target(compute_capability: tuple[int, int]) -> Platform:
    return Platform.find(Gpu("", compute_capability))


def test_an_exported_model_becomes_an_engine_without_a_gpu(exported: Exported, cache: EngineCache, tmp_path: Path):
    directory, platform = exported("dinov3-vitl16"), target((8, 6))
    plan = cached_plan(directory, platform, "bf16", cache)
    assert len(plan) > 1_000_000
    entry = tmp_path / "engines" / platform.key(directory, "bf16").name
    assert (entry / "engine.plan").read_bytes() == plan
    built_at = (entry / "engine.json").stat().st_mtime_ns
    assert cached_plan(directory, platform, "bf16", cache) == plan
    assert (entry / "engine.json").stat().st_mtime_ns == built_at


@pytest.mark.slow
@pytest.mark.parametrize("gpu", RTX)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "preset", ["efficientnet-lite0", "dinov3-vitl16", "dinov2-base", "dinov3-convnext-small", "siglip2-so400m"]
)
def test_every_backbone_builds_in_every_precision_for_every_rtx(
    exported: Exported, cache: EngineCache, preset: str, precision: str, gpu: str
):
    assert len(cached_plan(exported(preset), target(RTX[gpu]), precision, cache)) > 1_000_000


def test_a_model_with_weights_beside_it_becomes_an_engine(exported: Exported, cache: EngineCache):
    directory = exported("dinov3-convnext-small", external_data_over_bytes=1000)
    assert (directory.path / "model.onnx.data").exists()
    assert len(cached_plan(directory, target((8, 9)), "fp16", cache)) > 1_000_000


def test_a_long_build_says_how_far_it_is(
    exported: Exported, cache: EngineCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(tensorrt, "_LOG_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO):
        cached_plan(exported("dinov3-convnext-small"), target((12, 1)), "fp32", cache)
    steps = [record.message for record in caplog.records if record.message.startswith("building engine: ")]
    assert "building engine: optimizing graph, 3 of 30" in steps
    assert steps[-1] == "building engine: building engine, 5 of 6"


def test_keys_differ_by_gpu_and_precision_and_not_by_the_name_of_an_rtx(exported: Exported):
    directory = exported("dinov3-convnext-small")
    keys = {target(gpu).key(directory, precision).name for gpu in RTX.values() for precision in PRECISIONS}
    assert len(keys) == 9
    named = Platform.find(Gpu("NVIDIA GeForce RTX 4090", (8, 9)))
    assert named.key(directory, "fp16") == target((8, 9)).key(directory, "fp16")


def test_an_operation_that_tensorrt_lacks_is_named(tmp_path: Path, cache: EngineCache):
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Det", ["pixels"], ["probability"], name="determinant"),
    ]
    graph = helper.make_graph(
        nodes,
        "determinant",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(EngineError, match=r"cannot take node `determinant` \(Det\): .*model\.onnx`") as raised:
        build(tmp_path / "model.onnx", target((8, 6)), precision="fp32", scratch=tmp_path / "scratch")
    assert "\n" not in raised.value.message
    assert raised.value.hint


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineError, match="neither `tensorrt` nor `tensorrt_rtx` is installed") as raised:
        target((8, 6))
    assert raised.value.hint is not None
    assert "streetvision[tensorrt]" in raised.value.hint


def test_a_package_without_its_libraries_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r"`tensorrt` cannot be loaded: libnvinfer\.so\.11: cannot open"):
        target((8, 6))


@pytest.mark.parametrize("gpu", [Gpu("NVIDIA H100 80GB HBM3", (9, 0)), Gpu("", (7, 0))], ids=str)
def test_a_gpu_that_the_package_does_not_build_for_is_one_sentence(gpu: Gpu):
    with pytest.raises(EngineError, match=f"does not build for {gpu}, only for sm120, .*sm86, sm89") as raised:
        Platform.find(gpu)
    assert raised.value.hint is not None
    assert "package `tensorrt`" in raised.value.hint


def test_the_command_builds_ahead_into_a_cache(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: EngineCache
):
    directory = exported("dinov3-convnext-small")
    arguments = ["engine", "--model-dir", str(directory.path), "--engine-cache", str(tmp_path / "engines")]
    assert main([*arguments, "--gpu", "12.0"]) == 0
    name = target((12, 0)).key(directory, "fp16").name
    assert capsys.readouterr().out.startswith(f"engine {name}: ")
    assert (tmp_path / "engines" / name / "engine.plan").exists()
    assert main([*arguments, "--gpu", "rtx"]) == 2
    assert "--gpu is `rtx`, expected a compute capability such as 8.6" in capsys.readouterr().err


class HostRuntime:
    """CUDA's runtime with the GPU's memory in the host's, so that our side of it can be tried without a GPU."""

    def __init__(self) -> None:
        self._real: Any = cuda.runtime  # for constants and the texts of errors
        self.blocks: dict[int, Any] = {}
        self.failing = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _result(self, name: str, *values: int) -> tuple[Any, ...]:
        errors = self._real.cudaError_t
        return (errors.cudaErrorMemoryAllocation if self.failing == name else errors.cudaSuccess, *values)

    def _allocate(self, size: int) -> int:
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._result("cudaHostAlloc", self._allocate(size))

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._result("cudaMalloc", 0 if self.failing == "cudaMalloc" else self._allocate(size))

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.blocks[address]
        return self._result("cudaFree")

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._result("cudaStreamCreateWithFlags", 7)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._result("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._result("cudaStreamSynchronize")

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any, ...]:
        ctypes.memmove(target, source, size)
        return self._result("cudaMemcpyAsync")


class HostContext:
    """Answers the brightness of the first pixel of each picture that lies in the GPU's memory."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.shapes: list[tuple[int, ...]] = []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes.append(shape)
        return name == "image"

    def execute_async_v3(self, stream: int) -> bool:
        shape = self.shapes[-1]
        images = np.ctypeslib.as_array((ctypes.c_uint8 * int(np.prod(shape))).from_address(self.addresses["image"]))
        answers = np.ctypeslib.as_array((ctypes.c_float * shape[0]).from_address(self.addresses["probability"]))
        answers[:] = images.reshape(shape)[:, 0, 0, 0] / 255
        return stream == 7


class HostGpu:
    """A platform whose GPU is played in the host's memory."""

    def __init__(self) -> None:
        self.runtime = HostRuntime()
        self.context: HostContext | None = HostContext()
        self.strategies: list[str] = []
        settings = SimpleNamespace()

        def create_execution_context(config: Any) -> HostContext | None:
            self.strategies.append(config.dynamic_shapes_kernel_specialization_strategy)
            return self.context

        engine = SimpleNamespace(
            create_runtime_config=lambda: settings, create_execution_context=create_execution_context
        )
        library = SimpleNamespace(
            __version__="1.7",
            ILogger=type("ILogger", (), {"ERROR": 1}),
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan else None),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
        )
        self.platform = Platform("tensorrt_rtx", library, Gpu("NVIDIA GeForce RTX 4090", (8, 9)))

    def engine(self, plan: bytes = b"plan") -> TensorRtEngine:
        return TensorRtEngine(plan, self.platform, precision="fp16", size_px=4)


@pytest.fixture
def host_gpu(monkeypatch: pytest.MonkeyPatch) -> HostGpu:
    gpu = HostGpu()
    monkeypatch.setattr(cuda, "runtime", gpu.runtime)
    return gpu


def numbered(count: int, first: int = 0) -> NDArray[np.uint8]:
    return np.stack([np.full((4, 4, 3), first + number, dtype=np.uint8) for number in range(count)])


def test_a_batch_is_filled_up_to_a_size_that_was_warmed_up(host_gpu: HostGpu):
    engine = host_gpu.engine()
    engine.warm_up()
    assert [shape[0] for shape in host_gpu.context.shapes] == [1, 2, 4, 8, 16, 32]
    for count, run in ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (32, 32)):
        answers = engine.predict(numbered(count, first=count))
        assert answers.tolist() == pytest.approx([(count + number) / 255 for number in range(count)])
        assert host_gpu.context.shapes[-1] == (run, 4, 4, 3)
    assert engine.predict(numbered(1)[:0]).shape == (0,)
    assert host_gpu.strategies == ["eager"]


def test_answers_are_not_overwritten_by_the_next_batch(host_gpu: HostGpu):
    engine = host_gpu.engine()
    first = engine.predict(numbered(3))
    engine.predict(numbered(3, first=100))
    assert first.tolist() == pytest.approx([0, 1 / 255, 2 / 255])


def test_threads_get_their_own_answers(host_gpu: HostGpu):
    engine = host_gpu.engine()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda first: engine.predict(numbered(2, first)).tolist(), range(200)))
    np.testing.assert_allclose(answers, [[first / 255, (first + 1) / 255] for first in range(200)], atol=1e-6)


@pytest.mark.parametrize("batch", [numbered(33), numbered(1).astype(np.float32), np.zeros((1, 5, 4, 3), np.uint8)])
def test_a_batch_of_another_shape_or_type_is_refused(host_gpu: HostGpu, batch: NDArray[Any]):
    with pytest.raises(EngineError, match=r"expected uint8\[N,4,4,3\] with N at most 32"):
        host_gpu.engine().predict(batch)


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_a_call_of_cuda_that_fails_is_one_sentence(host_gpu: HostGpu, call: str):
    engine = host_gpu.engine()
    host_gpu.runtime.failing = call
    with pytest.raises(EngineError, match=r"out of memory \(CUDA error 2\)"):
        (host_gpu.engine if call == "cudaMalloc" else lambda: engine.predict(numbered(1)))()


def test_an_engine_that_is_refused_or_finds_no_room_is_one_sentence(host_gpu: HostGpu):
    with pytest.raises(EngineError, match=r"tensorrt_rtx 1\.7 cannot load its engine here"):
        host_gpu.engine(plan=b"")
    host_gpu.context = None
    with pytest.raises(EngineError, match=r"tensorrt_rtx 1\.7 cannot run its engine here"):
        host_gpu.engine()


def test_an_engine_that_is_dropped_leaves_no_memory_behind(host_gpu: HostGpu):
    engine = host_gpu.engine()
    engine.predict(numbered(2))
    assert len(host_gpu.runtime.blocks) == 4  # pictures and answers, on both sides
    del engine
    gc.collect()
    assert host_gpu.runtime.blocks == {}


def test_an_engine_describes_itself(host_gpu: HostGpu):
    described = host_gpu.engine().describe()
    assert described == {
        "engine": "tensorrt",
        "version": "1.7",
        "provider": "tensorrt_rtx",
        "precision": "fp16",
        "device": "sm89 NVIDIA GeForce RTX 4090",
        "batch_sizes": [1, 2, 4, 8, 16, 32],
        "max_difference": None,
        "fallback_reason": None,
    }


@pytest.fixture
def here() -> Platform:
    """The GPU of this machine."""
    try:
        return Platform.find()
    except EngineError as err:
        pytest.skip(f"runs an engine, and {err.message}")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("preset", "precision"),
    [
        ("efficientnet-lite0", "fp16"),  # BF16 is too coarse for it
        ("efficientnet-lite0", "fp32"),
        ("dinov3-vitl16", "fp16"),
        ("dinov3-vitl16", "bf16"),
        ("dinov3-vitl16", "fp32"),
    ],
)
def test_on_a_gpu_an_engine_answers_as_onnx_runtime_does(
    exported: Exported, here: Platform, preset: str, precision: str, tmp_path: Path
):
    directory = exported(preset)
    classifier = Classifier.open(directory.path, engine="tensorrt", precision=precision, engine_cache=tmp_path)
    classifier.warm_up()
    described = classifier.engine.describe()
    assert (described["engine"], described["fallback_reason"]) == ("tensorrt", None)
    assert described["max_difference"] <= 0.01
    images = fixture_images(224)
    expected = OnnxEngine(directory.model_path, size_px=224, threads=2).predict(images[:7])
    np.testing.assert_allclose(classifier.engine.predict(images[:7]), expected, atol=0.01)  # 7 fills up to 8


@pytest.mark.gpu
def test_on_a_gpu_threads_get_their_own_answers(exported: Exported, here: Platform, tmp_path: Path):
    engine = Classifier.open(exported().path, engine="tensorrt", engine_cache=tmp_path).engine
    images = fixture_images(224)
    expected = engine.predict(images)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: engine.predict(images[index : index + 1])[0], list(range(16)) * 8))
    np.testing.assert_allclose(answers, np.tile(expected, 8), atol=0.01)


@pytest.mark.gpu
def test_on_a_gpu_an_engine_of_another_driver_is_built_again(exported: Exported, here: Platform, tmp_path: Path):
    directory = exported("dinov3-convnext-small")
    EngineCache(tmp_path).get(here.key(directory, "fp16"), lambda scratch: b"no engine of this driver")
    engine = Classifier.open(directory.path, engine="tensorrt", precision="fp16", engine_cache=tmp_path).engine
    assert isinstance(engine, TensorRtEngine)
