"""Whether an engine answers as the reference does: asked of every batch size, before it may serve."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EngineError
from streetvision.inference.engine import Engine
from streetvision.inference.threshold import ThresholdMap

MAX_DIFFERENCE = 0.01


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found.

    Attributes:
        pictures: so many were compared, at every batch size.
        max_difference: the largest |difference| of calibrated probabilities; NaN where the engine failed.
        problem: why the engine may not serve, in one sentence; null where it may.
    """

    pictures: int
    max_difference: float
    problem: str | None


def compare(engine: Engine, reference: Engine, images: NDArray[np.uint8], *, threshold: float) -> Comparison:
    """The engine's answers beside the reference's; this runs every batch size, so it warms up too.

    An engine may not serve where it fails, answers NaN or beyond [0, 1], differs by more than 0.01, or decides one
    picture otherwise. Compilers err for single batch sizes and single GPUs, hence every size, on the GPU itself.

    Args:
        engine: what wants to serve.
        reference: ONNX Runtime in FP32 on CPU.
        images: uint8[N,S,S,3] fixtures.
        threshold: the calibrated probability that is served as 0.5.
    """
    served = ThresholdMap(threshold)
    try:
        expected = _answers(reference, images, reference.batch_sizes[-1])
        worst = 0.0
        for batch_size in engine.batch_sizes:
            answers = _answers(engine, images, batch_size)
            differences = np.abs(answers - expected)
            index = int(differences.argmax())
            worst = max(worst, float(differences[index]))
            where = f"on fixture {index} in batches of {batch_size}"
            if not differences[index] <= MAX_DIFFERENCE:
                problem = f"{answers[index]:.4f} {where}, expected {expected[index]:.4f} within {MAX_DIFFERENCE}"
                return Comparison(len(images), worst, problem)
            flipped = np.flatnonzero((served(answers) > 0.5) != (served(expected) > 0.5))
            if len(flipped):
                index = int(flipped[0])
                problem = (
                    f"decides fixture {index} otherwise in batches of {batch_size}: "
                    f"{answers[index]:.4f}, expected {expected[index]:.4f}, at threshold {threshold}"
                )
                return Comparison(len(images), worst, problem)
    except EngineError as err:
        return Comparison(len(images), float("nan"), err.message)
    return Comparison(len(images), worst, None)


def _answers(engine: Engine, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Calibrated probabilities float32[N], in full batches: the first pictures fill up the last one."""
    order = np.arange(-(-len(images) // batch_size) * batch_size) % len(images)
    parts = [engine.predict(images[order[start : start + batch_size]]) for start in range(0, len(order), batch_size)]
    return np.concatenate(parts)[: len(images)]
