"""The model KServe serves: pictures in, probabilities out, all work off the event loop."""

import asyncio
from typing import Any

import numpy as np
from kserve import InferRequest, InferResponse, Model
from kserve.errors import InvalidInput, ModelNotReady
from numpy.typing import NDArray

from serving.predictor.metrics import DECODE_SECONDS, IMAGES, PENDING, observe_batch, observe_model
from serving.predictor.wire import images_of, response_to
from streetvision.errors import ImageError
from streetvision.imaging import model_input
from streetvision.inference.batching import Batcher
from streetvision.inference.classifier import Classifier, fixture_jpeg
from streetvision.inference.engine import INPUT_NAME, OUTPUT_NAME

_SLOW_S = 30.0  # a batch that takes longer makes us unready
_HUNG_S = 120.0  # and this long not alive: only a restart helps
_PROBE_S = 2.0


class BusyPredictor(ModelNotReady):
    """The queue is full: HTTP 503 and gRPC UNAVAILABLE."""

    def __init__(self, model_name: str, reason: str) -> None:
        super().__init__(model_name, reason)
        self.error_msg = self.reason = reason  # kserve's gRPC side reads `reason`, which its own class lacks


class PredictorModel(Model):
    """One classifier under a KServe model name."""

    def __init__(
        self, name: str, classifier: Classifier, *, decode_workers: int, decode_limit_s: float, queue_limit: int
    ) -> None:
        """Nothing is served before `load`.

        Args:
            name: model name of the protocol.
            classifier: what answers.
            decode_workers: pictures decoded at once.
            decode_limit_s: processor time one picture may take to be decoded.
            queue_limit: pictures that may wait or be worked on; further ones are refused as busy.
        """
        super().__init__(name)
        self._classifier = classifier
        self._decode_limit_s = decode_limit_s
        self._batcher = Batcher(
            self._model_input,
            lambda batch: classifier.predict(batch).probability,
            decoders=decode_workers,
            largest=classifier.engine.batch_sizes[-1],
            observe=observe_batch,
        )
        self._queue_limit = queue_limit
        self._pending = 0

    @property
    def version(self) -> str:
        """First 12 characters of the model's sha256."""
        return self._classifier.version

    @property
    def alive(self) -> bool:
        """False where the engine hangs or is gone, which only a new process mends."""
        return self._batcher.alive and self._batcher.busy_s < _HUNG_S

    async def healthy(self) -> bool:
        """Whether a request that came now would be answered; an engine that failed is tried again."""
        if self.ready and (self._batcher.failures or self._batcher.busy_s > _SLOW_S):
            try:
                await asyncio.wait_for(self._batcher.submit([fixture_jpeg(self._classifier.engine.size_px)]), _PROBE_S)
            except Exception:  # whatever the engine raises, it does not work yet  # noqa: BLE001
                return False
        return self.ready and self.alive

    def load(self) -> bool:
        """Makes the model ready, once a fixture picture has been answered.

        Raises:
            EngineError: the engine failed or answered nonsense.
        """
        self._classifier.warm_up()
        observe_model(self.version, self._classifier.engine.describe())
        self.ready = True
        return True

    def start(self) -> None:
        """Leaves readiness to `load`; kserve's own would declare any model ready."""

    def close(self) -> None:
        """Ends the threads; what they have not begun is dropped."""
        self.ready = False
        self._batcher.close()

    def get_input_types(self) -> list[dict[str, Any]]:
        """Inputs for the metadata."""
        return [{"name": INPUT_NAME, "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Outputs for the metadata."""
        return [{"name": OUTPUT_NAME, "datatype": "FP32", "shape": [-1]}]

    async def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  # kserve's is a plain function or this
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        """One probability for each picture of a request that KServe has parsed.

        Raises:
            InvalidInput: the request or a picture is unusable.
            BusyPredictor: too many pictures are waiting.
            EngineError: the engine failed.
        """
        try:
            images = images_of(payload)
        except InvalidInput:
            IMAGES.labels("refused").inc()
            raise
        return response_to(payload, await self.answer(images), version=self.version)

    async def answer(self, images: list[bytes]) -> NDArray[np.float32]:
        """Probability of roadwork, float32[N], in each of N encoded pictures.

        Raises:
            InvalidInput: a picture is unusable.
            BusyPredictor: too many pictures are waiting.
            EngineError: the engine failed.
        """
        count = len(images)
        if self._pending + count > self._queue_limit:
            IMAGES.labels("busy").inc(count)
            raise BusyPredictor(
                self.name, f"{self._pending} pictures are waiting, expected at most {self._queue_limit}"
            )
        outcome = "failed"
        self._pending += count
        PENDING.set(self._pending)
        try:
            probability = await self._batcher.submit(images)
            outcome = "ok"
        except ImageError as err:
            outcome = "refused"
            raise InvalidInput(err.message) from err
        except asyncio.CancelledError:
            outcome = "left"
            raise
        finally:
            self._pending -= count
            PENDING.set(self._pending)
            IMAGES.labels(outcome).inc(count)
        return probability

    def _model_input(self, index: int, image: bytes) -> NDArray[np.uint8]:
        try:
            with DECODE_SECONDS.time():
                return model_input(
                    image,
                    self._classifier.engine.size_px,
                    limit_px=self._classifier.limit_px,
                    limit_s=self._decode_limit_s,
                )
        except ImageError as err:
            raise ImageError(f"image {index}: {err.message}", hint=err.hint) from err
