"""What an operator asks about the miner, as Prometheus metrics."""

import math
import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.5)


class Metrics:
    """The metrics of one miner, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._challenges = self._counter("challenges", "Challenges accepted, by what was answered", "validator outcome")
        self._abstained = self._counter("abstained", "Challenges answered with -1, by reason", "reason")
        self._unauthenticated = self._counter(
            "unauthenticated_bodies", "Challenges accepted whose signature does not cover the picture"
        )
        self._refused = self._counter("refused", "Requests refused, by reason", "reason")
        self._attempts = self._counter("predictor_attempts", "Questions to predictors, by result", "asked result")
        self._answer_seconds = self._histogram("answer_seconds", "From the first byte of a challenge to its answer")
        self._part_seconds = self._histogram("part_seconds", "Where the time of a challenge went", "part")
        self._last_s: float | None = None
        self.gauge(
            "last_challenge_timestamp_seconds",
            "Unix time of the last challenge accepted, 0 before the first",
            lambda: self._last_s or 0.0,
        )
        self.gauge(
            "last_challenge_age_seconds",
            "Seconds since the last challenge accepted, NaN before the first",
            lambda: math.nan if self._last_s is None else time.time() - self._last_s,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a gauge whose value is asked for at every scrape; its name comes without `streetvision_miner_`."""
        Gauge(f"streetvision_miner_{name}", text, registry=self._registry).set_function(value)

    def accepted(self, *, unauthenticated_body: bool) -> None:
        """Counts one challenge that will be answered."""
        self._last_s = time.time()
        if unauthenticated_body:
            self._unauthenticated.inc()

    def answered(self, validator: str, *, reason: str, seconds: float, parts_s: Mapping[str, float]) -> None:
        """Counts one answer.

        Args:
            validator: who asked.
            reason: why there is none, empty where there is one; one of few.
            seconds: from the first byte of the challenge.
            parts_s: what they went to.
        """
        self._challenges.labels(validator, "abstained" if reason else "answered").inc()
        if reason:
            self._abstained.labels(reason).inc()
        self._answer_seconds.observe(seconds)
        for part, taken_s in parts_s.items():
            self._part_seconds.labels(part).observe(taken_s)

    def attempted(self, asked: str, result: str) -> None:
        """Counts one question to a predictor: whom it went to, and `ok` or why it failed."""
        self._attempts.labels(asked, result).inc()

    def refused(self, reason: str) -> None:
        """Counts one refused request; `reason` is that of the `WireError`."""
        self._refused.labels(reason).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, labels: str = "") -> Counter:
        return Counter(f"streetvision_miner_{name}", text, labels.split(), registry=self._registry)

    def _histogram(self, name: str, text: str, labels: str = "") -> Histogram:
        return Histogram(f"streetvision_miner_{name}", text, labels.split(), buckets=_SECONDS, registry=self._registry)
