"""What kfp's local runner prints, told twice: all of it to a log file, and to the terminal what a person wants."""

import re
import time
from pathlib import Path
from typing import IO, Any

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RUNNER = re.compile(r"^[\d:.]+ - (?:INFO|WARNING|ERROR) - (.*)$")
_STEP = re.compile(r"^\s*\[KFP Executor [^\]]+ (?:INFO|WARNING|ERROR)\]: (.*)$")
_EXECUTING = re.compile(r"^Executing task '(.+)'$")
_CACHED = re.compile(r"^Task (\S+) cache hit")
_FINISHED = re.compile(r"^Task '(.+)' finished with status SUCCESS$")
_RAISED = re.compile(r"^\s*streetvision\.errors\.(\w+): (.+)$")
_HINT = re.compile(r"^\s*hint: (.+)$")
_EXECUTOR_NOISE = ("Looking for component", "Loading KFP component", "Wrote executor output", "Got executor_input")


class Console:
    """A text stream for the runner; remembers the last of our own errors that passed through.

    Attributes:
        kind: that error's class, if there was one.
        sentence: its message.
        hint: and its hint.
    """

    def __init__(self, terminal: IO[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._terminal, self._log = terminal, log.open("w")
        self._pending = ""
        self._started = time.monotonic()
        self.kind: str | None = None
        self.sentence: str | None = None
        self.hint: str | None = None

    def write(self, text: str) -> int:
        """Takes text in any portions; whole lines are told."""
        self._log.write(text)
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._tell(COLOUR.sub("", line))
        return len(text)

    def flush(self) -> None:
        """Brings everything to where it goes."""
        self._log.flush()
        self._terminal.flush()

    def close(self) -> None:
        """Closes the log file; the terminal stays open."""
        self._log.close()

    def isatty(self) -> bool:
        """Never: lines are rewritten here."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)

    def _tell(self, line: str) -> None:
        if runner := _RUNNER.match(line):
            self._tell_step(runner[1])
        elif step := _STEP.match(line):
            if not step[1].startswith(_EXECUTOR_NOISE):
                self._print(f"  {step[1]}")
        elif raised := _RAISED.match(line):
            self.kind, self.sentence, self.hint = raised[1], raised[2], None
        elif self.sentence and self.hint is None and (hint := _HINT.match(line)):
            self.hint = hint[1]

    def _tell_step(self, message: str) -> None:
        if executing := _EXECUTING.match(message):
            self._started = time.monotonic()
            self._print(f"{executing[1]}")
        elif cached := _CACHED.match(message):
            self._print(f"{cached[1]}\n  nothing it depends on has changed: taken from the cache")
        elif _FINISHED.match(message):
            self._print(f"  done in {time.monotonic() - self._started:.1f} s")

    def _print(self, text: str) -> None:
        self._terminal.write(text + "\n")
        self._terminal.flush()
