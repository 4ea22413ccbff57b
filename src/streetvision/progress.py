"""How far a long step is: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

_log = logging.getLogger(__name__)

_LOG_EVERY_S = 10.0


class Progress:
    """Counts units of one step; silent when disabled or when there is nothing to do."""

    def __init__(self, name: str, *, total: int, enabled: bool = True, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        terminal = enabled and total > 0 and sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=name, unit=unit, disable=not terminal, leave=True)
        self._logs = enabled and total > 0 and not terminal
        self._done = 0
        self._start = self._logged = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._logs and kind is None:
            self._log()

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._logs and now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            self._log()

    def show(self, text: str) -> None:
        """Puts a few words behind the bar at its next advance; elsewhere they are not shown."""
        self._bar.set_postfix_str(text, refresh=False)

    def _log(self) -> None:
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        _log.info("%s: %d of %d %ss, %.0f a second", self._name, self._done, self._total, self._unit, rate)
