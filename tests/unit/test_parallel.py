import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streetvision import parallel

PARENT = """
import os, time
from streetvision import parallel

if __name__ == "__main__":
    with parallel.processes(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_results_come_in_order() -> None:
    with parallel.processes(2) as pool:
        assert list(pool.map(abs, [-3, -1, -2])) == [3, 1, 2]


def test_error_of_a_worker_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="invalid literal"), parallel.processes(1) as pool:
        list(pool.map(int, ["1", "x"]))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(how)
        parent.wait(10)
        deadline = time.monotonic() + 5
        while alive(worker) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(worker)
