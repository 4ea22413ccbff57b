"""Logs of the servers: one JSON object a line and an event, on stderr."""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

_EVENT = "streetvision_event"
_FIELDS = "streetvision_fields"


def configure(level: str | int = logging.INFO) -> None:
    """Sends every record and warning of this process to stderr as JSON lines, other libraries' handlers removed.

    Call it once more after a library has configured logging for itself.

    Raises:
        ValueError: `level` is no level of `logging`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def event(logger: logging.Logger, name: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Logs one event with its fields; their values must be plain JSON or have a readable `str`.

    No field may carry image bytes, keys or tokens.
    """
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={_EVENT: name, _FIELDS: fields}, stacklevel=2)


class Occasional:
    """An event that may happen thousands of times a minute, logged once a minute with how often it happened since.

    Args:
        logger: where to.
        name: of the event.
        level: as `logging` counts it.
        every_s: once in how long.
    """

    def __init__(
        self, logger: logging.Logger, name: str, *, level: int = logging.WARNING, every_s: float = 60.0
    ) -> None:
        self._logger, self._name, self._level, self._every_s = logger, name, level, every_s
        self._times = 0
        self._next_s = 0.0

    def __call__(self, **fields: Any) -> None:
        """It happened once more; the fields are those of the last time."""
        self._times += 1
        if time.monotonic() >= self._next_s:
            event(self._logger, self._name, level=self._level, times=self._times, **fields)
            self._times, self._next_s = 0, time.monotonic() + self._every_s


class JsonFormatter(logging.Formatter):
    """One line of JSON: time, level, logger, event and its fields; a plain record becomes the event `log`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; a traceback is one field."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        name = getattr(record, _EVENT, None)
        if name is None:
            entry |= {"event": "log", "message": record.getMessage()}
        else:
            entry |= {"event": name} | getattr(record, _FIELDS)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)
