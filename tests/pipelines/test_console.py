"""A person sees steps and their own words; the log file holds everything."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.console import Console

RUN = """12:00:00.000 - INFO - Running pipeline: \x1b[95m'retrain'\x1b[0m
12:00:00.001 - INFO - Executing task \x1b[96m'data'\x1b[0m
12:00:00.001 - INFO - Streamed logs:

    [KFP Executor 2026-11-23 12:00:00,000 INFO]: Looking for component `data` in --component_module_path `x`
    [KFP Executor 2026-11-23 12:00:00,000 INFO]: Got executor_input:
    {
        "inputs": {}
    }
    [KFP Executor 2026-11-23 12:00:01,000 INFO]: kept 3 pictures
    [KFP Executor 2026-11-23 12:00:01,000 INFO]: Wrote executor output file to x.
12:00:02.000 - INFO - Task \x1b[96m'data'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
00 - INFO - Task train cache hit (key=abc); skipping
"""


@pytest.fixture
def terminal() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(terminal: io.StringIO, tmp_path: Path) -> Iterator[Console]:
    with contextlib.closing(Console(terminal, tmp_path / "logs" / "run.log")) as opened:
        yield opened


def test_the_terminal_shows_steps_and_what_they_say(console: Console, terminal: io.StringIO):
    for character in RUN:  # the runner writes in any portions
        console.write(character)
    lines = terminal.getvalue().splitlines()
    assert lines[:2] == ["data", "  kept 3 pictures"]
    assert lines[2].startswith("  done in ")
    assert lines[3:] == ["train", "  nothing it depends on has changed: taken from the cache"]


def test_the_log_file_holds_everything(console: Console, tmp_path: Path):
    console.write(RUN)
    console.flush()
    assert (tmp_path / "logs" / "run.log").read_text() == RUN


def test_the_last_of_our_errors_is_remembered_with_its_hint(console: Console, terminal: io.StringIO):
    console.write("    Traceback (most recent call last):\n      File x\n")
    console.write("    streetvision.errors.DataError: only one class in `a`\n    hint: add the other\n\n")
    assert (console.sentence, console.hint) == ("only one class in `a`", "add the other")
    assert terminal.getvalue() == ""


def test_an_error_without_a_hint_borrows_none(console: Console):
    console.write("streetvision.errors.DataError: first\nhint: one\nstreetvision.errors.DataError: second\n")
    assert (console.sentence, console.hint) == ("second", None)
