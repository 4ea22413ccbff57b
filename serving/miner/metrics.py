"""What an operator asks about the miner, as Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The metrics of one miner, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._challenges = Counter(
            "streetvision_miner_challenges",
            "Challenges accepted, by validator and by what was answered",
            ("validator", "outcome"),
            registry=self._registry,
        )
        self._refused = Counter(
            "streetvision_miner_refused", "Requests refused, by reason", ("reason",), registry=self._registry
        )
        self._answer_seconds = Histogram(
            "streetvision_miner_answer_seconds",
            "From the arrival of a challenge to its answer",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.5),
            registry=self._registry,
        )
        self._last_challenge = Gauge(
            "streetvision_miner_last_challenge_timestamp_seconds",
            "Unix time of the last challenge accepted, 0 before the first",
            registry=self._registry,
        )

    def answered(self, validator: str, *, outcome: str, seconds: float) -> None:
        """Counts one accepted challenge; `outcome` is `answered` or `abstained`."""
        self._challenges.labels(validator, outcome).inc()
        self._answer_seconds.observe(seconds)
        self._last_challenge.set_to_current_time()

    def refused(self, reason: str) -> None:
        """Counts one refused request; `reason` is that of the `WireError`."""
        self._refused.labels(reason).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
