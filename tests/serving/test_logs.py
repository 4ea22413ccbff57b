import json
import logging
import time
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


def test_an_occasional_event_is_logged_once_in_a_while_with_how_often_it_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    happened = logs.Occasional(logging.getLogger("a"), "shed", every_s=0.2)
    for number in range(5):
        happened(number=number)
    time.sleep(0.25)
    happened(number=5)
    lines = [line(record) for record in caplog.records]
    assert [(entry["event"], entry["times"], entry["number"]) for entry in lines] == [("shed", 1, 0), ("shed", 5, 5)]
