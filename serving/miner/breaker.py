"""A circuit breaker: a predictor that fails is left alone for a while, and then tried by one request at a time."""

import logging
import time
from collections.abc import Callable
from typing import Literal

from serving.logs import event

logger = logging.getLogger(__name__)

State = Literal["closed", "half_open", "open"]


class Breaker:
    """Opens after consecutive failures; while it is open, one probe at a time finds out whether it may close.

    Every request that `admits` let through ends in `succeeded`, `failed` or, where nothing was learnt, `spared`.

    Args:
        failures: in a row, which open it.
        wait_s: from the opening to the first probe; twice as long after every probe that failed.
        longest_wait_s: between two probes.
        clock_s: measures waiting.
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        wait_s: float = 5.0,
        longest_wait_s: float = 60.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._first_wait_s = wait_s
        self._longest_wait_s = longest_wait_s
        self._clock_s = clock_s
        self._failures = 0
        self._wait_s = wait_s
        self._probe_at_s: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """`closed` where requests pass, `half_open` while a probe is on its way, else `open`."""
        if self._probe_at_s is None:
            return "closed"
        return "half_open" if self._probing else "open"

    def admits(self, *, urgent: bool = False) -> bool:
        """Whether to ask now; while it is open, that is the probe, and the next one waits for its end.

        Args:
            urgent: nothing else is left to ask, so the probe need not wait for its time.
        """
        if self._probe_at_s is None:
            return True
        if self._probing or (self._clock_s() < self._probe_at_s and not urgent):
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """Notes a good answer: it closes."""
        if self._probe_at_s is not None:
            event(logger, "breaker_closed", level=logging.WARNING)
        self._failures, self._wait_s = 0, self._first_wait_s
        self._probe_at_s, self._probing = None, False

    def failed(self) -> None:
        """Notes a failure; one that began before the breaker opened changes nothing."""
        if self._probe_at_s is None:
            self._failures += 1
            if self._failures >= self._limit:
                self._open()
        elif self._probing:
            self._wait_s = min(2 * self._wait_s, self._longest_wait_s)
            self._open()

    def spared(self) -> None:
        """Notes an end that says nothing about the predictor."""
        self._probing = False

    def _open(self) -> None:
        self._probe_at_s, self._probing = self._clock_s() + self._wait_s, False
        event(logger, "breaker_opened", level=logging.WARNING, next_probe_s=self._wait_s)
