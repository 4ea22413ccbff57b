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

# ONNX Runtime's errors have no common base but `Exception`.
_RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    value
    for value in vars(onnxruntime_pybind11_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)
_ERRORS = (*_RUNTIME_ERRORS, RuntimeError, ValueError)

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
    ) -> None:
        """Loads and checks the model.

        Args:
            path: the ONNX file; its external data, where it has any, lies beside it.
            size_px: side S of the pictures the model must take.
            threads: cores one inference may use.
            batch_sizes: ascending. On CPU a batch of 8 is as fast a picture as a larger one and needs less memory.
            provider: ONNX Runtime's execution provider.

        Raises:
            EngineError: the model cannot be loaded, has other inputs or outputs, or the provider is not there.
        """
        self._size_px = size_px
        self._batch_sizes = batch_sizes
        self._threads = threads
        self._provider = provider
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
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except _ERRORS as err:
            raise EngineError(f"ONNX Runtime cannot load `{path}`: {_first_line(err)}") from err
        if self._session.get_providers()[0] != provider:  # it falls back without an error
            raise EngineError(f"ONNX Runtime chose {self._session.get_providers()} for `{path}`, expected `{provider}`")
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
        except _ERRORS as err:
            raise EngineError(f"ONNX Runtime failed on a batch of {len(batch)}: {_first_line(err)}") from err
        return check_probability(probability, len(batch))

    def describe(self) -> dict[str, Any]:
        """What runs: engine, version, provider, precision, threads, batch sizes."""
        return {
            "engine": "onnx",
            "version": onnxruntime.__version__,
            "provider": self._provider,
            "precision": "fp32",
            "threads": self._threads,
            "batch_sizes": list(self._batch_sizes),
        }

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
