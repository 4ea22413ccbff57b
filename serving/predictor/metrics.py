"""What the predictor tells Prometheus, beside what KServe does."""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from streetvision.inference.batching import Batch

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

DECODE_SECONDS = Histogram(
    "streetvision_predictor_decode_seconds", "Decoding and resizing one picture", buckets=_SECONDS
)
QUEUE_SECONDS = Histogram(
    "streetvision_predictor_queue_seconds", "From a request's last decoded picture to its turn", buckets=_SECONDS
)
ENGINE_SECONDS = Histogram("streetvision_predictor_engine_seconds", "One batch in the engine", buckets=_SECONDS)
BATCH_SIZE = Histogram("streetvision_predictor_batch_size", "Pictures of one batch", buckets=(1, 2, 4, 8, 16, 32, 64))
IMAGES = Counter("streetvision_predictor_images", "Pictures by outcome: ok, refused, busy, left, failed", ["outcome"])
PENDING = Gauge("streetvision_predictor_pending_images", "Pictures accepted and not yet answered")
MODEL = Gauge(
    "streetvision_predictor_model",
    "1 for the model that is served and what runs it",
    ["model_version", "engine", "provider", "precision"],
)
FALLBACK = Gauge(
    "streetvision_predictor_fallback", "1 where the engine that was asked for could not serve and another does"
)


def observe_batch(batch: Batch) -> None:
    """Records one run of the engine."""
    BATCH_SIZE.observe(batch.size)
    ENGINE_SECONDS.observe(batch.engine_s)
    for waited_s in batch.waited_s:
        QUEUE_SECONDS.observe(waited_s)


def observe_model(version: str, engine: dict[str, Any]) -> None:
    """Records what is served.

    Args:
        version: the model's.
        engine: what the engine says of itself.
    """
    MODEL.labels(version, engine["engine"], engine["provider"], engine["precision"]).set(1)
    FALLBACK.set(bool(engine.get("fallback_reason")))
