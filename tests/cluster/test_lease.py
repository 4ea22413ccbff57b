"""The lock of promotions on a real API server: actors are processes of their own, as pods are."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from streetvision.cluster import Cluster
from streetvision.registry.lease import LeaseLock
from tests.cluster.client import Client

ACTORS, ROUNDS = 5, 10

# Reads a number, waits, writes it increased: two at once would lose one of their increases.
COUNT = """
import sys, time
from pathlib import Path
from streetvision.cluster import Cluster
from streetvision.registry.lease import LeaseLock
namespace, rounds, file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
lock = LeaseLock(Cluster.connect(), "count", namespace=namespace, what="count", timeout_s=200)
for _ in range(rounds):
    with lock.hold("actor") as hold:
        number = int(file.read_text())
        time.sleep(0.02)
        file.write_text(str(number + 1))
        hold.check()
        print(hold.token, flush=True)
"""

HOLD = """
import sys, time
from streetvision.cluster import Cluster
from streetvision.registry.lease import LeaseLock
lock = LeaseLock(Cluster.connect(), "killed", namespace=sys.argv[1], what="a", duration_s=float(sys.argv[2]))
with lock.hold("dead"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def connected(namespace: Client) -> Iterator[Cluster]:
    cluster = Cluster.connect()
    yield cluster
    cluster.close()


def test_five_actors_hold_it_ten_times_each_one_at_a_time(namespace: Client, tmp_path):
    file = tmp_path / "count"
    file.write_text("0")
    command = [sys.executable, "-c", COUNT, namespace.namespace, str(ROUNDS), str(file)]
    actors = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(ACTORS)]
    tokens = sorted(int(line) for actor in actors for line in actor.communicate(timeout=280)[0].splitlines())
    assert [actor.returncode for actor in actors] == [0] * ACTORS
    assert int(file.read_text()) == ACTORS * ROUNDS
    assert tokens == list(range(1, ACTORS * ROUNDS + 1))
    lease = namespace.get("lease", "count")
    assert (lease["spec"].get("holderIdentity") or "", lease["spec"]["leaseTransitions"]) == ("", ACTORS * ROUNDS)


def test_what_a_killed_holder_held_is_free_once_its_time_is_up(namespace: Client, connected: Cluster):
    duration_s = 4.0
    command = [sys.executable, "-c", HOLD, namespace.namespace, str(duration_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        time.sleep(1.5 * duration_s)  # renewed meanwhile
        spec = namespace.get("lease", "killed")["spec"]
        assert (spec["holderIdentity"].split()[0], spec["leaseTransitions"]) == ("dead", 1)
        assert spec["renewTime"] > spec["acquireTime"]
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    begun = time.monotonic()
    with LeaseLock(connected, "killed", namespace=namespace.namespace, what="a", timeout_s=30).hold("next") as hold:
        assert hold.token == 2
    assert time.monotonic() - begun >= duration_s * 0.6
