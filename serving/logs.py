"""Logs of the servers: one JSON object a line and an event, on stderr."""

import json
import logging
import sys
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
