"""Programs of others end in time and with us, and what they said is kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.process import ProgramError, Programs

SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "logs")


def test_a_failure_has_the_last_words_and_names_the_log(programs: Programs):
    code = "print('first'); print('no space left'); raise SystemExit(3)"
    with pytest.raises(ProgramError, match=r"failed with exit code 3: first\nno space left") as caught:
        programs.run(sys.executable, "-c", code, log="build")
    assert caught.value.hint == f"the whole log is `{programs.logs / 'build.log'}`"


def test_a_program_that_takes_too_long_is_ended(programs: Programs):
    with pytest.raises(ProgramError, match="took more than 1 s"):
        programs.run(sys.executable, "-c", SLEEPS, log="late", timeout_s=1)
    assert not is_alive(int((programs.logs / "late.log").read_text()))


def test_a_program_that_is_not_there_is_one_sentence(programs: Programs):
    with pytest.raises(ProgramError, match="`no-such-program` cannot be started: No such file"):
        programs.run("no-such-program")


def test_after_a_stop_nothing_is_started(programs: Programs):
    programs.stop()
    with pytest.raises(ProgramError, match="another step has failed"):
        programs.run("true")


def test_a_program_ends_with_us_even_when_we_are_killed(tmp_path: Path):
    ours = "import sys; from pathlib import Path; from tests.cluster.process import Programs\n"
    ours += f"Programs(Path({str(tmp_path)!r})).run(sys.executable, '-c', {SLEEPS!r}, log='theirs')"
    us = subprocess.Popen([sys.executable, "-c", ours], cwd=Path(__file__).parents[2])
    log = tmp_path / "theirs.log"
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    theirs = int(log.read_text())
    us.send_signal(signal.SIGKILL)
    us.wait()
    while is_alive(theirs):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be looked at does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
