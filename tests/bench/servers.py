"""Servers under measurement: started in a process group of their own, awaited, and ended with all they started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import Load
from tests.bench.measure import cpu_s, descendants, proportional
from tests.ports import free_port

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
        return sum(cpu_s(pid) for pid in {self.pid, *descendants(self.pid)})

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
def server(
    command: Sequence[str], ready: str, *, status: int = 200, folder: Path = ROOT, **environment: str
) -> Iterator[Running]:
    """Yields a server once it answers.

    Args:
        command: what starts it; `{port}` is filled in.
        ready: path that answers with `status` once it serves.
        status: of that answer.
        folder: where it runs.
        environment: what is added to ours; `{port}` is filled in.
    """
    port = free_port()
    begun_s = time.monotonic()
    process = subprocess.Popen(
        [part.replace("{port}", str(port)) for part in command],
        cwd=folder,
        env=os.environ | {name: value.replace("{port}", str(port)) for name, value in environment.items()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while _status(f"http://127.0.0.1:{port}{ready}") != status:
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


def _status(url: str) -> int:
    """Of what is answered there, 0 where nothing is."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return 0
