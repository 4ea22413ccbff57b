"""Servers under measurement: started in a process group of their own, awaited, and ended with all they started."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import Load
from tests.bench.measure import descendants, proportional

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    pid: int
    port: int
    start_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """Processor time of the server and all it started."""
        return sum(_cpu_s(pid) for pid in {self.pid, *descendants(self.pid)})

    def memory(self) -> int:
        """Proportional set size of the server and all it started, in bytes."""
        return sum(proportional(pid) for pid in {self.pid, *descendants(self.pid)})

    def post(self, path: str, body: bytes, content_type: str = "application/json") -> bytes:
        request = urllib.request.Request(self.url + path, body, {"content-type": content_type})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.read()

    def load(self, path: str, body: Path, *, connections: int, seconds: float, kind: str = "application/json") -> Load:
        """What a client in a process of its own sees."""
        command = [sys.executable, "-m", "tests.bench.load", str(self.port), path, str(body), "--content-type", kind]
        command += ["--connections", str(connections), "--seconds", str(seconds)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        return Load(**json.loads(done.stdout))


@contextlib.contextmanager
def server(command: Sequence[str], ready: str, *, path: Path | None = None, folder: Path = ROOT) -> Iterator[Running]:
    """Yields a server once it answers.

    Args:
        command: what starts it; `{port}` is filled in.
        ready: path that answers 200 once it serves.
        path: folder of programs it starts itself.
        folder: where it runs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else dict(os.environ)
    begun_s = time.monotonic()
    process = subprocess.Popen(
        [part.format(port=port) for part in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not _answers(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None or time.monotonic() - begun_s > 120:
                raise RuntimeError(f"{' '.join(command)} did not come up, see it for yourself")
            time.sleep(0.01)
        yield Running(process.pid, port, time.monotonic() - begun_s)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
