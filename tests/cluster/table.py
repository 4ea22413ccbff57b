"""What was done, and how long it took."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Steps:
    """Tells each step as it begins and ends, and keeps its time."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._begun = time.monotonic()
        self._rows: list[tuple[str, float, str]] = []
        self._lock = threading.Lock()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times what is done inside."""
        self._tell(f"{name} ...")
        begun = time.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = ""
        finally:
            seconds = time.monotonic() - begun
            with self._lock:
                self._rows.append((name, seconds, outcome))
            self._tell(f"{name}: {outcome or 'done'} in {seconds:.1f} s")

    def note(self, name: str, outcome: str) -> None:
        """Keeps a step that needed no work."""
        with self._lock:
            self._rows.append((name, 0.0, outcome))

    def table(self) -> str:
        """A line a step, in the order in which they ended, and the time of all; some run beside others."""
        total = time.monotonic() - self._begun
        width = max((len(name) for name, _, _ in self._rows), default=0)
        lines = [f"{name:<{width}}  {seconds:>7.1f} s  {outcome}".rstrip() for name, seconds, outcome in self._rows]
        return "\n".join([*lines, f"{'from begin to end':<{width}}  {total:>7.1f} s"])
