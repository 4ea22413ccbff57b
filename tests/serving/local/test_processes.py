"""Servers are awaited, ended with all they started, and never mistaken for others."""

import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.local import processes

UP = "print('up', flush=True); import time; time.sleep(60)"
Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


@pytest.fixture
def start(log: Path) -> Iterator[Callable[[str], "subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str) -> "subprocess.Popen[bytes]":
        started.append(processes.start("timeit", ["-n1", "-r1", code], environment={}, log=log, stay=False))
        return started[-1]

    yield run
    for process in started:
        processes.stop(process.pid)
        process.wait()


def group(stat: Path) -> int:
    """Process group of a process, 0 where it is gone."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[2])
    except OSError:
        return 0


def test_the_preferred_port_is_taken_where_it_is_free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.listen()
        assert processes.free_port(port) != port
    assert processes.free_port(port) == port


def test_a_process_is_stopped_with_what_it_started(start: Start, log: Path):
    child = "import subprocess; subprocess.Popen(['sleep', '60']); " + UP
    process = start(child)
    while "up" not in log.read_text():
        time.sleep(0.02)
    assert processes.alive(process.pid)
    processes.stop(process.pid)
    assert not processes.alive(process.pid)
    deadline = time.monotonic() + 10  # a killed process is there until its new parent has looked at it
    while in_group := [file for file in Path("/proc").glob("[0-9]*/stat") if group(file) == process.pid]:
        if not any(processes.alive(int(file.parent.name)) for file in in_group):
            break
        assert time.monotonic() < deadline, in_group
        time.sleep(0.05)


def test_a_process_that_ignores_sigterm_is_killed(start: Start, log: Path):
    process = start(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {UP}")
    while "up" not in log.read_text():
        time.sleep(0.02)
    processes.stop(process.pid, timeout_s=0.3)
    assert process.wait(timeout=5) == -signal.SIGKILL


def test_another_process_with_the_same_number_is_not_ours(start: Start):
    process = start(UP)
    assert processes.runs(process.pid, "timeit")
    assert not processes.runs(process.pid, "serving.predictor")
    processes.stop(process.pid)
    process.wait()
    assert not processes.runs(process.pid, "timeit")


def test_a_server_is_found_again_by_its_state(log: Path, tmp_path: Path):
    mark = {processes.STATE_VARIABLE: str(tmp_path)}
    process = processes.start("timeit", ["-n1", "-r1", UP], environment=mark, log=log, stay=True)
    while "up" not in log.read_text():
        time.sleep(0.02)
    assert processes.find(tmp_path) == {process.pid: "timeit"}
    assert processes.find(tmp_path / "other") == {}
    processes.stop(process.pid)
    process.wait()
    assert processes.find(tmp_path) == {}


def test_a_server_that_ends_is_said_with_the_end_of_its_log(start: Start, log: Path):
    process = start("import sys; sys.exit('port 80 is in use')")
    with pytest.raises(processes.ServerError, match="exit code 1: .*port 80 is in use"):
        processes.await_http("http://127.0.0.1:9/", process, log)


def test_a_server_that_never_answers_is_given_up(start: Start, log: Path):
    process = start(UP)
    with pytest.raises(processes.ServerError, match="did not answer .* within 0.3 s"):
        processes.await_http("http://127.0.0.1:9/", process, log, timeout_s=0.3)


@pytest.fixture
def answering() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_answers_is_up(start: Start, answering: int, log: Path):
    process = start(UP)
    processes.await_http(f"http://127.0.0.1:{answering}/", process, log)


def test_a_server_of_a_run_ends_with_the_run(log: Path):
    code = (
        "import os, pathlib\nfrom serving.local import processes\n"
        f"log, code = pathlib.Path({str(log)!r}), {UP!r}\n"
        "process = processes.start('timeit', ['-n1', code], environment={}, log=log, stay=False)\n"
        "print(process.pid, flush=True)\nos._exit(9)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout)
    deadline = time.monotonic() + 5
    while processes.alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes.alive(pid)
