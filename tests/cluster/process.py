"""Programs of others: run with a deadline, ended with us, their words kept."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from streetvision.errors import StreetvisionError

_REASON_LINES = 15
_TIED = ("setpriv", "--pdeathsig", "KILL")  # a program ends when the thread that started it does


class ProgramError(StreetvisionError, RuntimeError):
    """A program failed, with the end of what it said, or took too long."""


class Programs:
    """The programs that are running for us; every one ends with this process, even when that is killed."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(
        self,
        *command: str | Path,
        log: str | None = None,
        stdin: str | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
        folder: Path | None = None,
    ) -> str:
        """What the program prints on its standard output.

        Args:
            command: program and arguments.
            log: name of the file in `logs` that gets all that it says, instead.
            stdin: what it reads.
            environment: variables besides ours.
            timeout_s: it is ended after these seconds.
            folder: where it runs.

        Raises:
            ProgramError: it failed, is not there, or took too long.
        """
        name = " ".join([Path(command[0]).name, *(str(part) for part in command[1:3])])
        path = self.logs / f"{log}.log" if log else None
        with _output(path) as file:
            process = self._start(command, file, stdin is not None, {**os.environ, **(environment or {})}, folder)
            try:
                out, err = process.communicate(stdin, timeout=timeout_s)
            except subprocess.TimeoutExpired as late:
                raise ProgramError(f"`{name}` took more than {timeout_s:.0f} s", hint=_hint(path)) from late
            finally:
                _end(process)
                with self._lock:
                    self._running.discard(process)
        if process.returncode:
            said = path.read_text(errors="replace") if path else err or out or ""
            words = "\n".join(said.strip().splitlines()[-_REASON_LINES:]) or "no reason given"
            raise ProgramError(f"`{name}` failed with exit code {process.returncode}: {words}", hint=_hint(path))
        return out or ""

    def stop(self) -> None:
        """Ends every program that is running, and lets none start."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _start(
        self,
        command: Sequence[str | Path],
        file: int | None,
        reads: bool,
        environment: Mapping[str, str],
        folder: Path | None,
    ) -> subprocess.Popen[str]:
        with self._lock:
            if self._stopped:
                raise ProgramError(f"`{command[0]}` was not started: another step has failed")
            try:
                process = subprocess.Popen(
                    _tied(command),
                    stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if file is None else file,
                    stderr=subprocess.PIPE if file is None else subprocess.STDOUT,
                    env=environment,
                    cwd=folder,
                    text=True,
                    errors="replace",
                )
            except OSError as err:
                raise ProgramError(f"`{command[0]}` cannot be started: {err.strerror}") from err
            self._running.add(process)
        return process


def _tied(command: Sequence[str | Path]) -> list[str]:
    program = shutil.which(str(command[0])) or str(command[0])
    return [*(_TIED if shutil.which(_TIED[0]) and Path(program).exists() else ()), program, *map(str, command[1:])]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()


@contextmanager
def _output(path: Path | None) -> Iterator[int | None]:
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        yield file.fileno()


def _hint(path: Path | None) -> str | None:
    return f"the whole log is `{path}`" if path else None
