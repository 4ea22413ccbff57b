"""The model KServe serves: requests in, answers out, the work done off the event loop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kserve import InferRequest, InferResponse, Model
from kserve.errors import InvalidInput, ModelNotReady
from prometheus_client import Counter, Gauge, Histogram

from serving.predictor.wire import images_of, response_to
from streetvision.errors import ImageError
from streetvision.inference.classifier import Answers, Classifier
from streetvision.inference.engine import INPUT_NAME, OUTPUT_NAME

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DECODE_SECONDS = Histogram(
    "streetvision_predictor_decode_seconds", "Decoding and resizing the pictures of one request", buckets=_SECONDS
)
ENGINE_SECONDS = Histogram(
    "streetvision_predictor_engine_seconds", "Running the pictures of one request through the engine", buckets=_SECONDS
)
IMAGES = Counter("streetvision_predictor_images", "Pictures by outcome: ok, refused, busy, failed", ["outcome"])
PENDING = Gauge("streetvision_predictor_pending_images", "Pictures accepted and not yet answered")
MODEL = Gauge("streetvision_predictor_model", "1 for the model that is served", ["model_version", "engine", "provider"])


class BusyPredictor(ModelNotReady):
    """The queue is full: HTTP 503 and gRPC UNAVAILABLE."""

    def __init__(self, model_name: str, reason: str) -> None:
        super().__init__(model_name, reason)
        self.error_msg = self.reason = reason  # kserve's gRPC side reads `reason`, which its own class lacks


class PredictorModel(Model):
    """One classifier under a KServe model name."""

    def __init__(self, name: str, classifier: Classifier, *, workers: int, queue_limit: int) -> None:
        """Nothing is served before `load`.

        Args:
            name: model name of the protocol.
            classifier: what answers.
            workers: requests worked on at once; more than one lets the next be decoded while the engine runs.
            queue_limit: pictures that may wait or be worked on; further ones are refused as busy.
        """
        super().__init__(name)
        self._classifier = classifier
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="predict")
        self._queue_limit = queue_limit
        self._pending = 0

    @property
    def version(self) -> str:
        """First 12 characters of the model's sha256."""
        return self._classifier.version

    def load(self) -> bool:
        """Makes the model ready, once a fixture picture has been answered.

        Raises:
            EngineError: the engine failed or answered nonsense.
        """
        self._classifier.warm_up()
        engine = self._classifier.engine.describe()
        MODEL.labels(self.version, engine["engine"], engine["provider"]).set(1)
        self.ready = True
        return True

    def start(self) -> None:
        """Leaves readiness to `load`; kserve's own would declare any model ready."""

    def get_input_types(self) -> list[dict[str, Any]]:
        """Inputs for the metadata."""
        return [{"name": INPUT_NAME, "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Outputs for the metadata."""
        return [{"name": OUTPUT_NAME, "datatype": "FP32", "shape": [-1]}]

    async def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  # kserve's is a plain function or this
        self,
        payload: InferRequest | dict[str, Any],
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        """One probability for each picture.

        Raises:
            InvalidInput: the request or a picture is unusable.
            BusyPredictor: too many pictures are waiting.
        """
        outcome, count = "refused", 1
        try:
            if not isinstance(payload, InferRequest):
                raise InvalidInput(f"protocol v1 is not spoken here, expected POST /v2/models/{self.name}/infer")
            images = images_of(payload)
            outcome, count = "failed", len(images)
            answers = await self._queued(images)
            outcome = "ok"
        except ImageError as err:
            outcome = "refused"
            raise InvalidInput(err.message) from err
        except BusyPredictor:
            outcome = "busy"
            raise
        finally:
            IMAGES.labels(outcome).inc(count)
        return response_to(payload, answers.probability, version=self.version)

    async def _queued(self, images: list[bytes]) -> Answers:
        if self._pending + len(images) > self._queue_limit:
            raise BusyPredictor(
                self.name, f"{self._pending} pictures are waiting, expected at most {self._queue_limit}"
            )
        self._pending += len(images)
        PENDING.set(self._pending)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._answer, images)
        finally:
            self._pending -= len(images)
            PENDING.set(self._pending)

    def _answer(self, images: list[bytes]) -> Answers:
        with DECODE_SECONDS.time():
            inputs = self._classifier.model_inputs(images)
        with ENGINE_SECONDS.time():
            return self._classifier.predict(inputs)
