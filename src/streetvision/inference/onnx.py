"""The ONNX Runtime engine: the default on CPU, the reference for every other engine."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state  # pyright: ignore[reportAttributeAccessIssue]

from streetvision.errors import EngineError
from streetvision.inference.engine import INPUT_NAME, OUTPUT_NAME, check_batch, check_probability

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
CUDA_BATCH_SIZES = (1, 2, 4, 8, 16, 32)

_OPTIONS = {CUDA: {"use_tf32": "0"}}  # FP32 is to mean FP32
_HEAVY = ("Conv", "Gemm", "MatMul")  # in the names of the operations that a provider must not leave to another

# ONNX Runtime's errors have no common base but `Exception`.
_RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    value
    for value in vars(onnxruntime_pybind11_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)
ONNX_RUNTIME_ERRORS = (*_RUNTIME_ERRORS, RuntimeError, ValueError)

onnxruntime.set_default_logger_severity(3)  # errors: on a machine without a GPU it would warn about that


class OnnxEngine:
    """`model.onnx` in ONNX Runtime, on exactly the provider that was asked for."""

    def __init__(
        self,
        path: Path,
        *,
        size_px: int,
        threads: int,
        batch_sizes: tuple[int, ...] = (1, 2, 4, 8),
        provider: str = CPU,
        fallback_reason: str | None = None,
    ) -> None:
        """Loads and checks the model.

        Args:
            path: the ONNX file; its external data, where it has any, lies beside it.
            size_px: side S of the pictures the model must take.
            threads: cores one inference may use.
            batch_sizes: ascending. On CPU a batch of 8 is as fast a picture as a larger one and needs less memory.
            provider: ONNX Runtime's execution provider.
            fallback_reason: why this engine serves instead of the one that was asked for, where it does.

        Raises:
            EngineError: the model cannot be loaded, has other inputs or outputs, or the provider is not there.
        """
        self._size_px = size_px
        self._batch_sizes = batch_sizes
        self._threads = threads
        self._provider = provider
        self._fallback_reason = fallback_reason
        if provider not in onnxruntime.get_available_providers():
            raise EngineError(
                f"ONNX Runtime has no `{provider}` here, only {onnxruntime.get_available_providers()}",
                hint="install the build of onnxruntime for this device",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would burn the cores that decode the next picture.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if provider == CUDA:
            onnxruntime.preload_dlls()  # CUDA's libraries, where they came as Python packages
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[(provider, _OPTIONS.get(provider, {}))]
            )
        except ONNX_RUNTIME_ERRORS as err:
            raise EngineError(f"ONNX Runtime cannot load `{path}`: {_first_line(err)}") from err
        self._session.disable_fallback()  # else a failing run would quietly start a session on the CPU
        self._check_provider(path)
        self._check_interface(path)

    @property
    def size_px(self) -> int:
        """Side S of the square pictures it takes, in pixels."""
        return self._size_px

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes it is warmed up for, ascending."""
        return self._batch_sizes

    def warm_up(self) -> None:
        """Runs every batch size once."""
        for count in self._batch_sizes:
            self.predict(np.zeros((count, self._size_px, self._size_px, 3), dtype=np.uint8))
        if self._provider == CPU:
            options = onnxruntime.RunOptions()
            # What the largest batch took is given back: most requests are for one picture.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            one = np.zeros((1, self._size_px, self._size_px, 3), dtype=np.uint8)
            self._session.run([OUTPUT_NAME], {INPUT_NAME: one}, options)

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probability of roadwork, float32[N] in [0, 1], of uint8[N,S,S,3].

        Raises:
            EngineError: as `Engine.predict`.
        """
        check_batch(batch, size_px=self._size_px, limit=self._batch_sizes[-1])
        if len(batch) == 0:
            return np.empty(0, dtype=np.float32)
        try:
            probability: Any = self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        except ONNX_RUNTIME_ERRORS as err:
            raise EngineError(f"ONNX Runtime failed on a batch of {len(batch)}: {_first_line(err)}") from err
        return check_probability(probability, len(batch))

    def describe(self) -> dict[str, Any]:
        """What runs: engine, version, provider, precision, threads, batch sizes, and whether it is a fallback."""
        return {
            "engine": "onnx",
            "version": onnxruntime.__version__,
            "provider": self._provider,
            "precision": "fp32",
            "device": "cpu" if self._provider == CPU else "gpu",
            "threads": self._threads,
            "batch_sizes": list(self._batch_sizes),
            "fallback_reason": self._fallback_reason,
        }

    def _check_provider(self, path: Path) -> None:
        """Asks what runs where: ONNX Runtime falls back without an error, as a whole and for single operations."""
        if self._session.get_providers()[0] != self._provider:
            raise EngineError(
                f"ONNX Runtime chose {self._session.get_providers()} for `{path}`, expected `{self._provider}`"
            )
        for part in self._session.get_provider_graph_assignment_info():
            for node in part.get_nodes():
                if part.ep_name != self._provider and any(name in node.op_type for name in _HEAVY):
                    raise EngineError(
                        f"ONNX Runtime runs node `{node.name}` ({node.op_type}) of `{path}` on `{part.ep_name}`, "
                        f"expected `{self._provider}`"
                    )

    def _check_interface(self, path: Path) -> None:
        side = self._size_px
        found = [(i.name, i.type, list(i.shape)) for i in (*self._session.get_inputs(), *self._session.get_outputs())]
        match found:
            case [(name, "tensor(uint8)", [batch, height, width, 3]), (output, "tensor(float)", [_])] if (
                (name, output) == (INPUT_NAME, OUTPUT_NAME)
                and (height, width) == (side, side)
                and not isinstance(batch, int)  # a name: any number of pictures
            ):
                return
            case _:
                raise EngineError(
                    f"`{path}` has inputs and outputs {found}, expected `{INPUT_NAME}` uint8[N,{side},{side},3] and "
                    f"`{OUTPUT_NAME}` float32[N]",
                    hint="export the model again with `streetvision train`",
                )


def _first_line(err: Exception) -> str:
    return str(err).strip().partition("\n")[0]
