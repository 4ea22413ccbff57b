"""Server processes on this machine: started, awaited, and never left behind."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from streetvision.errors import BusyError, StreetvisionError

_PR_SET_PDEATHSIG = 1
STATE_VARIABLE = "STREETVISION_STATE"  # by which a server is found again


class ServerError(StreetvisionError, RuntimeError):
    """A server that did not come up, with the end of its log."""


def free_port(preferred: int) -> int:
    """The preferred TCP port where nobody listens on it, else one that the system picks."""
    for port in (preferred, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise BusyError("no free TCP port on 127.0.0.1")


def start(
    module: str, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path, stay: bool
) -> subprocess.Popen[bytes]:
    """A running `python -m module`, its output in `log`.

    Args:
        module: what to run.
        arguments: its command line.
        environment: what is added to ours.
        log: file that is written anew.
        stay: whether it outlives us, in a session of its own; otherwise the kernel ends it with us.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end them in order
            preexec_fn=None if stay else die_with_parent,
        )


def await_http(url: str, process: subprocess.Popen[bytes], log: Path, *, timeout_s: float = 90.0) -> None:
    """Returns once `url` answers 200.

    Raises:
        ServerError: the process ended or the time ran out.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(
                f"{_name(process)} ended with exit code {process.returncode}: {_tail(log)}", hint=f"see `{log}`"
            )
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  (our own loopback URL)
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ServerError(
        f"{_name(process)} did not answer `{url}` within {timeout_s:g} s: {_tail(log)}", hint=f"see `{log}`"
    )


def stop(pid: int, *, timeout_s: float = 10.0) -> None:
    """Ends a process and what it started: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, number)  # every one of ours leads its own group
        except ProcessLookupError:
            return
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not alive(pid):
                break
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent to notice does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def find(state: Path) -> dict[int, str]:
    """Module by process of every server that was started for this state and still runs."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().split(b"\0")
            pid = int(folder.name)
            leads = os.getpgid(pid) == pid  # what a server starts itself is in its group, and ends with it
        except OSError:  # it ended while we looked
            continue
        if leads and f"{STATE_VARIABLE}={state}".encode() in variables and b"-m" in command:
            found[pid] = command[command.index(b"-m") + 1].decode()
    return found


def runs(pid: int, module: str) -> bool:
    """Whether the process is alive and really is `python -m module`: numbers are used again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return module.encode() in command and alive(pid)


def die_with_parent() -> None:
    """Asks the kernel, in a child before it runs, to end it when its parent ends, however that comes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _name(process: subprocess.Popen[bytes]) -> str:
    arguments = process.args
    return f"`{arguments[2]}`" if isinstance(arguments, list) else "the server"  # type: ignore[index]


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")
