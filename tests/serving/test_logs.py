import json
import logging
from pathlib import Path

import pytest

from serving import logs


def line(record: logging.LogRecord) -> dict[str, object]:
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_event_is_one_line_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        logs.event(logging.getLogger("a.b"), "answered", latency_ms=1.5, path=Path("/x"))
    entry = line(caplog.records[0])
    assert entry.pop("time", "").startswith("20")
    assert entry == {"level": "info", "logger": "a.b", "event": "answered", "latency_ms": 1.5, "path": "/x"}


def test_event_below_the_level_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        logs.event(logging.getLogger("a"), "detail", level=logging.DEBUG)
    assert not caplog.records


def test_record_of_another_library_and_its_traceback_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("lib").exception("failed: %s", "here")
    entry = line(caplog.records[0])
    assert (entry["event"], entry["message"]) == ("log", "failed: here")
    assert "ValueError: two\nlines" in str(entry["traceback"])
