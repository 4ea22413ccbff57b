"""The classifier: decode, engine and threshold map in one, for evaluation and serving alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streetvision.errors import EngineError, ImageError
from streetvision.imaging import DECODE_LIMIT_PX, decode, encode_jpeg, resize
from streetvision.inference.engine import Engine, Precision
from streetvision.inference.engines import EngineName, open_engine
from streetvision.inference.model_directory import ModelDirectory
from streetvision.inference.threshold import ThresholdMap

__all__ = ["Answers", "Classifier", "EngineName", "fixture_jpeg"]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the classifier says about N pictures.

    Attributes:
        probability: float32[N], what is served: in [0, 1], never 0.5.
        calibrated: float32[N] in [0, 1], before the threshold map.
    """

    probability: NDArray[np.float32]
    calibrated: NDArray[np.float32]


class Classifier:
    """A model directory, ready to answer; may be used from several threads."""

    def __init__(self, directory: ModelDirectory, engine: Engine, *, limit_px: int = DECODE_LIMIT_PX) -> None:
        """Joins a verified model directory and the engine that runs its model.

        Args:
            directory: its threshold map is applied.
            engine: must take pictures of the directory's size.
            limit_px: the most pixels that are decoded from one picture.

        Raises:
            EngineError: the engine takes pictures of another size.
        """
        if engine.size_px != directory.config.input_size_px:
            raise EngineError(
                f"engine takes {engine.size_px} px pictures, expected {directory.config.input_size_px}: "
                f"`{directory.path}`"
            )
        self.directory = directory
        self.engine = engine
        self.limit_px = limit_px
        self._threshold_map = ThresholdMap(directory.config.threshold)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        engine: EngineName = "onnx",
        threads: int | None = None,
        limit_px: int = DECODE_LIMIT_PX,
        engine_cache: Path | None = None,
        precision: Precision | None = None,
    ) -> "Classifier":
        """The classifier of a model directory, every file verified.

        Args:
            path: the model directory.
            engine: what runs the model (`engines.open_engine`).
            threads: cores one inference may use; all that this process may use by default.
            limit_px: the most pixels that are decoded from one picture.
            engine_cache: folder of built TensorRT engines; in the user's cache by default.
            precision: of TensorRT; the first that passes the comparison with ONNX Runtime by default.

        Raises:
            ModelDirectoryError: a file is missing or altered.
            EngineError: the engine cannot load the model.
        """
        directory = ModelDirectory.open(path)
        loaded = open_engine(directory, engine, threads=threads, cache=engine_cache, precision=precision)
        return cls(directory, loaded, limit_px=limit_px)

    @property
    def version(self) -> str:
        """The model's version, which every answer carries."""
        return self.directory.version

    def warm_up(self) -> None:
        """Runs every batch size, then answers one encoded picture all the way.

        Raises:
            EngineError: the engine failed or answered nonsense.
        """
        self.engine.warm_up()
        self.predict([fixture_jpeg(self.engine.size_px)])

    def model_inputs(self, images: Sequence[bytes | NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The pictures as the model takes them, uint8[N,S,S,3] RGB.

        Args:
            images: encoded pictures or uint8[H,W,3] RGB, in any mix.

        Raises:
            ImageError: a picture is unusable; the message begins with its index.
        """
        size_px = self.engine.size_px
        inputs = np.empty((len(images), size_px, size_px, 3), dtype=np.uint8)
        for index, image in enumerate(images):
            try:
                pixels = decode(image, limit_px=self.limit_px) if isinstance(image, bytes) else image
            except ImageError as err:
                raise ImageError(f"image {index}: {err.message}", hint=err.hint) from err
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
                raise ImageError(f"image {index}: {pixels.dtype}{list(pixels.shape)}, expected uint8[H,W,3]")
            inputs[index] = resize(pixels, size_px)
        return inputs

    def predict(self, images: Sequence[bytes | NDArray[np.uint8]] | NDArray[np.uint8]) -> Answers:
        """Answers for any number of pictures, in their order.

        Args:
            images: as `model_inputs`, or what it returned.

        Raises:
            ImageError: a picture is unusable; the message begins with its index.
            EngineError: the engine failed or answered nonsense.
        """
        batch_size = self.engine.batch_sizes[-1]
        if isinstance(images, np.ndarray) and images.shape[1:] == (self.engine.size_px, self.engine.size_px, 3):
            inputs = images
        else:
            inputs = self.model_inputs(list(images))
        parts = [self.engine.predict(inputs[start : start + batch_size]) for start in range(0, len(inputs), batch_size)]
        calibrated = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
        return Answers(self._threshold_map(calibrated), calibrated)


def fixture_jpeg(size_px: int) -> bytes:
    """One picture that is always the same: a JPEG of two crossing gradients."""
    ramp = np.linspace(0, 255, size_px).astype(np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    return encode_jpeg(np.stack([red, green, 255 - red], axis=-1))
