"""The TensorRT engine, for both packages of the same interface.

`tensorrt` is for data-centre GPUs; `tensorrt_rtx` for RTX 30, 40 and 50, and it also builds for a GPU that is not here.
This module needs the extra `tensorrt`; `streetvision.inference.engines` imports it where TensorRT is asked for.
"""

import hashlib
import importlib
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EngineError
from streetvision.inference import precision as precision_module
from streetvision.inference.comparison import Comparison, compare
from streetvision.inference.cuda import Gpu, SharedArray, Stream, find_gpu
from streetvision.inference.engine import INPUT_NAME, OUTPUT_NAME, Engine, Precision, check_batch, check_probability
from streetvision.inference.engine_cache import EngineCache, EngineKey
from streetvision.inference.model_directory import ModelDirectory
from streetvision.inference.precision import write_variant

_log = logging.getLogger(__name__)

PACKAGES = ("tensorrt", "tensorrt_rtx")
PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16", "fp32")  # the fast one with the finer steps first, then range
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_OPTIMAL_BATCH = 8  # kernels are chosen for it, and valid from the first to the last batch size
_LOG_EVERY_S = 10.0
# Engines that other code of ours prepared are not taken for today's.
_RECIPE = hashlib.sha256(
    b"".join(Path(str(file)).read_bytes() for file in (__file__, precision_module.__file__))
).hexdigest()[:12]


class _UnusablePlanError(EngineError):
    """A serialized engine that TensorRT does not load here."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A TensorRT package and the GPU it builds for.

    Attributes:
        package: `tensorrt` or `tensorrt_rtx`.
        library: the imported package.
        gpu: the target.
    """

    package: str
    library: Any
    gpu: Gpu

    @classmethod
    def find(cls, gpu: Gpu | None = None) -> "Platform":
        """What is installed here, for the GPU of this machine or another one.

        Args:
            gpu: the target, where it is not the GPU of this machine.

        Raises:
            EngineError: no package is installed, there is no GPU, or the package does not build for it.
        """
        package, library = _import_package()
        target = gpu or find_gpu()
        platform = cls(package, library, target)
        if platform.builds_ahead:
            platform.compute_capability()
        elif gpu is not None:
            raise EngineError(f"`{package}` builds only for the GPU of this machine, not for {gpu.architecture}")
        return platform

    @property
    def builder(self) -> str:
        """Package and version."""
        return f"{self.package} {self.library.__version__}"

    @property
    def builds_ahead(self) -> bool:
        """Whether it builds without the GPU, and then for every GPU of one compute capability."""
        return self.package == "tensorrt_rtx"

    def compute_capability(self) -> Any:
        """The target as `tensorrt_rtx` names it.

        Raises:
            EngineError: it does not build for this GPU.
        """
        known = self.library.ComputeCapability.__members__
        name = self.gpu.architecture.upper()
        if name not in known:
            names = ", ".join(sorted(other.lower() for other in known if other.startswith("SM")))
            raise EngineError(
                f"`{self.package}` does not build for {self.gpu}, only for {names}",
                hint="data-centre GPUs need the package `tensorrt`, from NVIDIA's own index",
            )
        return known[name]

    def key(self, directory: ModelDirectory, precision: Precision) -> EngineKey:
        """What an engine of this model depends on here."""
        return EngineKey(
            model_sha256=directory.sha256,
            gpu=self.gpu.architecture if self.builds_ahead else str(self.gpu),
            builder=self.builder,
            precision=precision,
            batch_sizes=BATCH_SIZES,
            recipe=_RECIPE,
        )


def _import_package() -> tuple[str, Any]:
    reasons: list[str] = []
    for package in PACKAGES:
        try:
            return package, importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as err:  # installed, but a library of it is not
            reasons.append(f"`{package}` cannot be loaded: {_first_line(str(err))}")
    raise EngineError(
        "; ".join(reasons) or f"neither `{PACKAGES[0]}` nor `{PACKAGES[1]}` is installed",
        hint="pip install 'streetvision[tensorrt]' for RTX 30, 40 and 50; data-centre GPUs need the package `tensorrt`",
    )


def build(model: Path, platform: Platform, *, precision: Precision, scratch: Path) -> bytes:
    """A serialized engine for batches of 1 to 32, its progress in the log.

    Args:
        model: the FP32 `model.onnx`.
        platform: what builds, and for which GPU.
        precision: of matrix products and convolutions.
        scratch: an empty folder with room for the weights.

    Raises:
        EngineError: TensorRT cannot take a part of the model, or fails.
    """
    trt = platform.library
    variant = scratch / f"{precision}.onnx"
    write_variant(model, variant, precision)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(variant)):
        raise EngineError(
            f"{platform.builder} cannot take {_parser_problem(parser)}: `{model}`", hint="serve with `--engine onnx`"
        )
    config = builder.create_builder_config()
    config.progress_monitor = monitor = _progress_monitor(trt)
    config.clear_flag(trt.BuilderFlag.TF32)  # FP32 is to mean FP32
    if platform.builds_ahead:
        config.num_compute_capabilities = 1
        config.set_compute_capability(platform.compute_capability(), 0)
    picture = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, *((count, *picture) for count in (1, _OPTIMAL_BATCH, BATCH_SIZES[-1])))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{platform.builder} cannot build `{model}` for {platform.gpu}: {logger.error}")
    del monitor  # the builder held no reference to it
    return bytes(memoryview(plan))


def open_verified(
    directory: ModelDirectory,
    platform: Platform,
    reference: Engine,
    images: NDArray[np.uint8],
    cache: EngineCache,
    precisions: tuple[Precision, ...] = PRECISIONS,
) -> "TensorRtEngine":
    """The engine of the first precision that answers as the reference does, warmed up.

    Args:
        directory: the model.
        platform: package and GPU.
        reference: ONNX Runtime with the same model.
        images: uint8[N,S,S,3] fixtures to compare on.
        cache: where built engines are kept.
        precisions: to be tried, in this order.

    Raises:
        EngineError: none may serve, with the reason of each.
        StorageError: the cache cannot be written.
    """
    problems: list[str] = []
    for precision in precisions:
        engine = _load(directory, platform, precision, cache)
        engine.comparison = compare(engine, reference, images, threshold=directory.config.threshold)
        if engine.comparison.problem is None:
            _log.info(
                "TensorRT %s differs from ONNX Runtime by at most %.4f on %d fixtures",
                precision,
                engine.comparison.max_difference,
                engine.comparison.pictures,
            )
            return engine
        problems.append(f"{precision}: {engine.comparison.problem}")
        _log.warning("TensorRT %s may not serve: %s", precision, engine.comparison.problem)
        del engine  # its memory on the GPU is wanted for the next one
    raise EngineError(f"TensorRT answers differently from ONNX Runtime ({'; '.join(problems)})")


def cached_plan(directory: ModelDirectory, platform: Platform, precision: Precision, cache: EngineCache) -> bytes:
    """The serialized engine out of the cache, built where it is not there yet.

    Raises:
        EngineError: TensorRT cannot build it.
        StorageError: the cache cannot be written.
    """
    key = platform.key(directory, precision)
    return cache.get(key, lambda scratch: build(directory.model_path, platform, precision=precision, scratch=scratch))


def _load(directory: ModelDirectory, platform: Platform, precision: Precision, cache: EngineCache) -> "TensorRtEngine":
    def load() -> TensorRtEngine:
        plan = cached_plan(directory, platform, precision, cache)
        return TensorRtEngine(plan, platform, precision=precision, size_px=directory.config.input_size_px)

    try:
        return load()
    except _UnusablePlanError as err:  # intact, yet made under another driver
        _log.warning("%s; building it again", err.message)
        cache.discard(platform.key(directory, precision))
        return load()


class TensorRtEngine:
    """A built engine on the GPU of this machine.

    Attributes:
        comparison: with ONNX Runtime, once that was made.
    """

    comparison: Comparison | None = None

    def __init__(self, plan: bytes, platform: Platform, *, precision: Precision, size_px: int) -> None:
        """Loads the engine and takes memory for the largest batch.

        Args:
            plan: what `build` returned.
            platform: what built it.
            precision: it was built with.
            size_px: side S of the pictures it takes.

        Raises:
            EngineError: TensorRT does not load it, or the GPU's memory does not suffice.
        """
        trt = platform.library
        self._platform = platform
        self._precision: Precision = precision
        self._size_px = size_px
        self._logger = _logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise _UnusablePlanError(f"{platform.builder} cannot load its engine here: {self._logger.error}")
        self._context = self._execution_context()
        if self._context is None:
            raise EngineError(f"{platform.builder} cannot run its engine here: {self._logger.error}")
        self._stream = Stream()
        self._images = SharedArray((BATCH_SIZES[-1], size_px, size_px, 3), np.uint8)
        self._probability = SharedArray((BATCH_SIZES[-1],), np.float32)
        self._context.set_tensor_address(INPUT_NAME, self._images.device)
        self._context.set_tensor_address(OUTPUT_NAME, self._probability.device)
        self._lock = threading.Lock()  # one context and one set of buffers: the GPU takes one batch after another

    @property
    def size_px(self) -> int:
        """Side S of the square pictures it takes, in pixels."""
        return self._size_px

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes it runs, ascending; a batch in between is filled up to the next."""
        return BATCH_SIZES

    def warm_up(self) -> None:
        """Runs every batch size once.

        Raises:
            EngineError: the engine failed or answered nonsense.
        """
        for count in BATCH_SIZES:
            self.predict(np.zeros((count, self._size_px, self._size_px, 3), dtype=np.uint8))

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probability of roadwork, float32[N] in [0, 1], of uint8[N,S,S,3].

        Raises:
            EngineError: as `Engine.predict`.
        """
        check_batch(batch, size_px=self._size_px, limit=BATCH_SIZES[-1])
        count = len(batch)
        if count == 0:
            return np.empty(0, dtype=np.float32)
        # Only the sizes that were compared and warmed up are run; what lies in the rest of the buffer is not looked at.
        size = next(size for size in BATCH_SIZES if size >= count)
        with self._lock:
            self._images.host[:count] = batch
            self._images.upload(size, self._stream)
            shape = (size, self._size_px, self._size_px, 3)
            if not (
                self._context.set_input_shape(INPUT_NAME, shape) and self._context.execute_async_v3(self._stream.handle)
            ):
                raise EngineError(f"TensorRT failed on a batch of {count}: {self._logger.error}")
            self._probability.download(size, self._stream)
            self._stream.wait()
            probability = self._probability.host[:count].copy()
        return check_probability(probability, count)

    def describe(self) -> dict[str, Any]:
        """What runs: package, version, GPU, precision, batch sizes, and how far it is from ONNX Runtime."""
        return {
            "engine": "tensorrt",
            "version": str(self._platform.library.__version__),
            "provider": self._platform.package,
            "precision": self._precision,
            "device": str(self._platform.gpu),
            "batch_sizes": list(BATCH_SIZES),
            "max_difference": self.comparison.max_difference if self.comparison else None,
            "fallback_reason": None,
        }

    def _execution_context(self) -> Any:
        trt = self._platform.library
        if not self._platform.builds_ahead:
            return self._engine.create_execution_context()
        # It compiles kernels for each batch size as it meets it. Not in the background: what was compared
        # before serving is what serves.
        config = self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return self._engine.create_execution_context(config)


def _logger(trt: Any) -> Any:
    """Where TensorRT's messages go: the first error is kept for the sentence about a failure, the rest follows from it.

    What it warns of is the way the model is written, which its answers are compared for anyway.
    """

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR and not self.error:
                self.error = _first_line(message)
            _log.debug("TensorRT: %s", message)

    return Logger()


def _progress_monitor(trt: Any) -> Any:
    """Says every ten seconds what the builder is at."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._logged = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self._logged >= _LOG_EVERY_S:
                self._logged = time.monotonic()
                _log.info("building engine: %s, %d of %d", phase_name.lower(), step + 1, self._steps[phase_name])
            return True  # go on

    return Monitor()


def _parser_problem(parser: Any) -> str:
    error = parser.get_error(0)
    return f"node `{error.node_name()}` ({error.node_operator()}): {_first_line(error.desc())}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
