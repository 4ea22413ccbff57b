import threading
import time

import pytest

from streetvision.errors import BusyError, ClusterError
from streetvision.registry.lease import LeaseLock
from tests.kubernetes_objects import connected, kubernetes_objects

PATH = "/apis/coordination.k8s.io/v1/namespaces/here/leases/a"


@pytest.fixture
def api():
    with kubernetes_objects() as running:
        yield running


@pytest.fixture
def cluster(api, tmp_path, monkeypatch):
    cluster = connected(api, tmp_path, monkeypatch)
    yield cluster
    cluster.close()


def lease(cluster, **options):
    return LeaseLock(
        cluster, "a", namespace="here", what="promotion", **{"timeout_s": 0.3, "duration_s": 0.6} | options
    )


def test_the_number_rises_with_every_holder_and_with_the_fence(api, cluster):
    tokens = []
    for above in (0, 0, 7):
        with lease(cluster).hold("me", above=above) as hold:
            tokens.append(hold.token)
    assert tokens == [1, 2, 8]
    assert api.objects[PATH]["spec"]["holderIdentity"] == ""


def test_one_that_is_held_and_renewed_is_never_taken_over(cluster):
    with lease(cluster).hold("promote version 3") as hold:
        with (
            pytest.raises(
                BusyError, match=r"promotion lock is held by `promote version 3 on .*` for longer than 1.5 s"
            ),
            lease(cluster, timeout_s=1.5).hold("other"),
        ):
            pass
        hold.check()


def test_one_whose_holder_died_is_taken_over_once_its_time_is_up(api, cluster):
    with lease(cluster).hold("first"):
        pass
    dead = api.objects[PATH]
    dead["spec"] |= {"holderIdentity": "dead", "leaseDurationSeconds": 1}
    begun = time.monotonic()
    with lease(cluster, timeout_s=5).hold("second") as hold:
        assert hold.token == 2
    assert time.monotonic() - begun >= 1


def test_a_right_that_another_took_is_noticed(api, cluster):
    with lease(cluster).hold("me") as hold:
        taken = api.objects[PATH]
        api.put(PATH, {**taken, "spec": {**taken["spec"], "holderIdentity": "robber", "leaseTransitions": 9}})
        time.sleep(0.5)
        with pytest.raises(BusyError, match=r"promotion lock of `me on .*` was lost: `robber` has it"):
            hold.check()
    assert api.objects[PATH]["spec"]["holderIdentity"] == "robber"  # not freed: it is not ours


def test_a_label_that_a_person_puts_on_it_takes_nothing_away(api, cluster):
    with lease(cluster).hold("me") as hold:
        api.put(PATH, {**api.objects[PATH], "metadata": {"name": "a", "namespace": "here", "labels": {"by": "hand"}}})
        time.sleep(1)
        hold.check()
        assert api.objects[PATH]["metadata"]["labels"] == {"by": "hand"}


def test_a_right_that_cannot_be_renewed_ends(api, cluster):
    with lease(cluster).hold("me") as hold:
        api.refusals["PUT", PATH] = [500] * 100
        time.sleep(0.8)
        with pytest.raises(BusyError, match="could not be renewed in time"):
            hold.check()
        api.refusals.clear()


def test_a_refusal_says_what_is_refused(api, cluster):
    api.refusals["GET", PATH] = [403]
    with (
        pytest.raises(ClusterError, match="answered GET `.*/leases/a` with 403: refused") as caught,
        lease(cluster).hold("me"),
    ):
        pass
    assert "Role" in caught.value.hint


def test_of_five_that_ask_at_once_one_holds_it_at_a_time(cluster):
    inside, most, tokens = [], [], []

    def work():
        for _ in range(3):
            with lease(cluster, timeout_s=30, duration_s=5).hold("thread") as hold:
                inside.append(1)
                tokens.append(hold.token)
                time.sleep(0.005)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 15
    assert tokens == list(range(1, 16))
