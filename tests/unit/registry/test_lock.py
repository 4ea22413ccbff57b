import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from streetvision.errors import BusyError
from streetvision.registry.lock import LocalLock, open_lock
from tests.kubernetes_objects import kubernetes_objects

HOLD = """
import sys, time
from pathlib import Path
from streetvision.registry.lock import LocalLock, open_lock
from tests.kubernetes_objects import kubernetes_objects
with LocalLock(Path(sys.argv[1])).hold("other program"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "locks" / ".promotion.lock"


@pytest.fixture
def other_process(path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_lock_is_free_again_after_the_block_and_after_an_error(path):
    lock = LocalLock(path, timeout_s=0)
    with pytest.raises(ZeroDivisionError), lock.hold("a"):
        _ = 1 / 0
    with lock.hold("b"):
        pass


def test_waiting_too_long_says_who_holds_it_and_since_when(path):
    with (
        LocalLock(path).hold("promote version 3"),
        pytest.raises(
            BusyError, match=rf"promotion lock is held by `promote version 3` \(process {os.getpid()} on .*, since 20"
        ),
        LocalLock(path, timeout_s=0.05).hold("me"),
    ):
        pass


def test_holder_that_left_no_name_is_another_run(path):
    with LocalLock(path).hold("a"):
        (path.parent / ".promotion.lock.holder.json").write_text("[]")
        with pytest.raises(BusyError, match="is held by another run"), LocalLock(path, timeout_s=0.05).hold("me"):
            pass


def test_another_process_is_kept_out_and_its_death_frees_the_lock(path, other_process):
    with (
        pytest.raises(BusyError, match=f"`other program` .process {other_process.pid} on"),
        LocalLock(path, timeout_s=0.05).hold("me"),
    ):
        pass
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    with LocalLock(path, timeout_s=5).hold("me"):
        pass


def test_threads_never_hold_it_together(path):
    inside, most = 0, []

    def work():
        nonlocal inside
        for _ in range(10):
            with LocalLock(path).hold("thread"):
                inside += 1
                time.sleep(0.001)
                most.append(inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 50


def test_the_lock_lies_where_all_who_promote_see_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("STREETVISION_CACHE", str(tmp_path / "cache"))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with open_lock(str(tmp_path / "models")).hold("a"):
        assert (tmp_path / "models" / ".promotion.lock").exists()
    assert not caplog.messages
    with open_lock("s3://bucket/models").hold("a"):
        assert "only promotions of this machine wait for each other" in caplog.text
    with kubernetes_objects() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
        with open_lock("s3://bucket/models", namespace="there").hold("a") as hold:
            assert hold.token == 1
        assert "/apis/coordination.k8s.io/v1/namespaces/there/leases/streetvision-promotion" in api.objects
