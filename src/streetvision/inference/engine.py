"""What every inference engine does, and the check of what it answers."""

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EngineError

INPUT_NAME = "image"
OUTPUT_NAME = "probability"
HEAD_PREFIX = "head/"  # of the names of the nodes that follow the backbone
_ROUNDING = 1e-6

Precision = Literal["fp16", "bf16", "fp32"]


class Engine(Protocol):
    """A loaded model that turns pictures into calibrated probabilities of roadwork."""

    @property
    def size_px(self) -> int:
        """Side S of the square pictures it takes, in pixels."""
        ...

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes it is warmed up for, ascending; a batch is at most the last of them."""
        ...

    def warm_up(self) -> None:
        """Runs every batch size once, so that no request pays for a first time.

        Raises:
            EngineError: the engine failed or answered nonsense.
        """
        ...

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probability of roadwork, float32[N] in [0, 1]; may be called from several threads.

        Args:
            batch: uint8[N,S,S,3] RGB, N at most the largest batch size.

        Raises:
            EngineError: the batch has another shape or type, or the engine failed or answered nonsense.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What runs, for logs and metrics.

        `engine` (onnx, tensorrt), `version`, `provider`, `precision`, `device`, `batch_sizes`, and `fallback_reason`:
        why this engine serves instead of the one that was asked for, null where it is the one.
        """
        ...


def check_batch(batch: NDArray[np.uint8], *, size_px: int, limit: int) -> None:
    """Refuses a batch that is no uint8[N,S,S,3] with N at most `limit`.

    Raises:
        EngineError: naming shape and type.
    """
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (size_px, size_px, 3) or len(batch) > limit:
        raise EngineError(
            f"batch is {batch.dtype}{list(batch.shape)}, expected uint8[N,{size_px},{size_px},3] with N at most {limit}"
        )


def check_probability(probability: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The engine's answer, rounding beyond [0, 1] cut off.

    Raises:
        EngineError: it is no float32[count], or a value is NaN or out of range.
    """
    if probability.dtype != np.float32 or probability.shape != (count,):
        raise EngineError(f"engine answered {probability.dtype}{list(probability.shape)}, expected float32[{count}]")
    good = (probability >= -_ROUNDING) & (probability <= 1 + _ROUNDING)  # False for NaN
    if not good.all():
        index = int(np.argmin(good))
        raise EngineError(f"engine answered {probability[index]:.4g} for picture {index}, expected a number in [0, 1]")
    return np.clip(probability, np.float32(0), np.float32(1))
