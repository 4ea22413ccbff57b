"""Which engine runs a model directory on this machine: the one asked for, or ONNX Runtime with the reason why."""

import importlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from streetvision.errors import EngineError, StorageError
from streetvision.imaging import decode, resize
from streetvision.inference.comparison import compare
from streetvision.inference.engine import Engine, Precision
from streetvision.inference.engine_cache import EngineCache
from streetvision.inference.fixtures import fixture_images
from streetvision.inference.model_directory import ModelDirectory
from streetvision.inference.onnx import CUDA, CUDA_BATCH_SIZES, OnnxEngine

_log = logging.getLogger(__name__)

EngineName = Literal["onnx", "onnx-cuda", "tensorrt", "auto"]

_PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


def open_engine(
    directory: ModelDirectory,
    name: EngineName,
    *,
    threads: int | None = None,
    cache: Path | None = None,
    precision: Precision | None = None,
) -> Engine:
    """An engine that may serve: every one but ONNX Runtime on CPU has been compared with that.

    `onnx` and `onnx-cuda` are what they say or fail. Where `tensorrt` cannot serve, ONNX Runtime does, and
    `describe()["fallback_reason"]` says why. `auto` is TensorRT where its package and a GPU for it are there, else
    ONNX Runtime, on the GPU if it can.

    Args:
        directory: the model.
        name: the engine that is wanted.
        threads: cores one inference on CPU may use; all that this process may use by default.
        cache: folder of built TensorRT engines; in the user's cache by default.
        precision: of TensorRT; the first of fp16, bf16 and fp32 that passes the comparison by default.

    Raises:
        EngineError: ONNX Runtime cannot load the model, or `onnx-cuda` cannot serve.
    """
    opening = _Opening(directory, threads or len(os.sched_getaffinity(0)))
    match name:
        case "onnx":
            return opening.on_cpu()
        case "onnx-cuda":
            return opening.on_cuda()
        case "tensorrt" | "auto":
            return opening.on_tensorrt(cache, precision, quietly=name == "auto")


@dataclass(frozen=True, slots=True)
class _Opening:
    """The ways to open one model directory."""

    directory: ModelDirectory
    threads: int

    def on_cpu(self, fallback_reason: str | None = None) -> OnnxEngine:
        return OnnxEngine(
            self.directory.model_path,
            size_px=self.directory.config.input_size_px,
            threads=self.threads,
            fallback_reason=fallback_reason,
        )

    def on_cuda(self, fallback_reason: str | None = None) -> OnnxEngine:
        engine = OnnxEngine(
            self.directory.model_path,
            size_px=self.directory.config.input_size_px,
            threads=self.threads,
            batch_sizes=CUDA_BATCH_SIZES,
            provider=CUDA,
            fallback_reason=fallback_reason,
        )
        comparison = compare(engine, self.on_cpu(), self.images(), threshold=self.directory.config.threshold)
        if comparison.problem:
            raise EngineError(f"ONNX Runtime on CUDA answers differently from CPU: {comparison.problem}")
        return engine

    def on_tensorrt(self, cache: Path | None, precision: Precision | None, *, quietly: bool) -> Engine:
        try:
            tensorrt: Any = importlib.import_module("streetvision.inference.tensorrt")  # needs the extra of that name
            platform = tensorrt.Platform.find()
        except (EngineError, ImportError) as err:
            reason = err.message if isinstance(err, EngineError) else f"the extra `tensorrt` is not installed: {err}"
            _log.log(logging.INFO if quietly else logging.WARNING, "no TensorRT here: %s", reason)
            return self.best_onnx(None if quietly else reason)
        try:
            return tensorrt.open_verified(
                self.directory,
                platform,
                self.on_cpu(),
                self.images(),
                EngineCache(cache or EngineCache.default_folder()),
                (precision,) if precision else tensorrt.PRECISIONS,
            )
        except (EngineError, StorageError) as err:
            _log.warning("TensorRT cannot serve %s, ONNX Runtime does: %s", self.directory.version, err.message)
            return self.best_onnx(err.message)

    def best_onnx(self, fallback_reason: str | None) -> OnnxEngine:
        """ONNX Runtime on the GPU if it can, else on CPU."""
        if CUDA not in onnxruntime.get_available_providers():
            return self.on_cpu(fallback_reason)
        try:
            return self.on_cuda(fallback_reason)
        except EngineError as err:
            _log.warning("ONNX Runtime cannot serve on CUDA, on CPU it does: %s", err.message)
            return self.on_cpu("; ".join(filter(None, (fallback_reason, err.message))))

    def images(self) -> NDArray[np.uint8]:
        """Our fixtures, and the pictures that lie in the model directory: uint8[N,S,S,3]."""
        size_px = self.directory.config.input_size_px
        files = sorted(name for name in self.directory.config.files if Path(name).suffix.lower() in _PICTURES)
        own = [resize(decode((self.directory.path / name).read_bytes()), size_px) for name in files]
        return np.stack([*fixture_images(size_px), *own])
