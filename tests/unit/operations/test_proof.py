import copy

import pytest

from streetvision.errors import ClusterError, RolloutError
from streetvision.operations.proof import SOURCE, Predictor
from tests.kubernetes_objects import connected, kubernetes_objects

OLD, NEW = "s3://bucket/models/old/", "s3://bucket/models/new/"
DEPLOYMENT = "/apis/apps/v1/namespaces/here/deployments/r-roadwork-predictor"
SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/here/inferenceservices/r-roadwork"
PODS = "/api/v1/namespaces/here/pods"
METADATA = "/api/v1/namespaces/here/services/r-roadwork-predictor:80/proxy/v2/models/roadwork"


@pytest.fixture
def api():
    with kubernetes_objects() as running:
        serve(running, OLD)
        yield running


@pytest.fixture
def predictor(api, tmp_path, monkeypatch):
    monkeypatch.setattr("streetvision.operations.proof._EVERY_S", 0.01)
    predictor = Predictor(connected(api, tmp_path, monkeypatch), "here", "r-roadwork")
    yield predictor
    predictor.cluster.close()


def serve(api, uri, *, generation=1, observed=1, replicas=1, new=1, available=1, ready="True", of=None):
    api.put(
        DEPLOYMENT,
        {
            "metadata": {"generation": generation},
            "spec": {"replicas": of or replicas, "template": {"metadata": {"annotations": {SOURCE: uri}}}},
            "status": {
                "observedGeneration": observed,
                "replicas": replicas,
                "updatedReplicas": new,
                "availableReplicas": available,
            },
        },
    )
    api.put(SERVICE, {"status": {"observedGeneration": 77, "conditions": [{"type": "Ready", "status": ready}]}})


def add_pod(api, name, *, uri=NEW, init=None, container=None, created="2026-01-01T00:00:00Z"):
    statuses = {
        key: [value] for key, value in {"initContainerStatuses": init, "containerStatuses": container}.items() if value
    }
    metadata = {"name": name, "creationTimestamp": created, "annotations": {SOURCE: uri}}
    api.put(f"{PODS}/{name}", {"metadata": metadata, "status": statuses})


def failing(name, *, restarts):
    return {"name": name, "restartCount": restarts, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}


@pytest.mark.parametrize("uri", [OLD, OLD.rstrip("/")])
def test_what_is_served_is_proven_at_once(predictor, uri):
    predictor.prove(uri, timeout_s=1)


def test_a_ready_service_whose_deployment_has_the_old_model_proves_nothing(predictor):
    with pytest.raises(
        RolloutError, match=r"`here/r-roadwork` does not serve .*not within 0.1 s, it waits for .* given this"
    ):
        predictor.prove(NEW, timeout_s=0.1)


@pytest.mark.parametrize(
    ("state", "waiting"),
    [
        ({"generation": 2}, "to be looked at"),
        ({"replicas": 2, "of": 1}, "2 pods, 1 of them new, 1 available, 1 wanted"),
        ({"replicas": 2}, "2 pods, 1 of them new, 1 available, 2 wanted"),
        ({"replicas": 2, "new": 2}, "2 pods, 2 of them new, 1 available, 2 wanted"),
        ({"ready": "False"}, "InferenceService `here/r-roadwork` to be Ready"),
    ],
)
def test_each_step_of_a_rollout_is_waited_for(api, predictor, state, waiting):
    serve(api, NEW, **state)
    with pytest.raises(RolloutError, match=waiting):
        predictor.prove(NEW, timeout_s=0.05)


def test_the_end_of_the_rollout_ends_the_wait(api, predictor):
    serve(api, NEW, new=0, available=0)
    looks = []

    def finish(path):
        looks.append(path)
        if len(looks) == 12:
            serve(api, NEW)

    api.on_get = finish
    predictor.prove(NEW, timeout_s=30)
    assert len(looks) > 12


def test_a_release_without_an_inference_service_says_so(api, predictor):
    api.objects.clear()
    with pytest.raises(RolloutError) as caught:
        predictor.prove(NEW, timeout_s=0.05)
    assert "there is no InferenceService `here/r-roadwork`" in caught.value.message


def test_a_failure_tells_what_kserve_says_and_the_container_said_last(api, predictor):
    serve(api, NEW, new=1, available=0)
    service = copy.deepcopy(api.objects[SERVICE])
    service["status"]["modelStatus"] = {"transitionStatus": "BlockedByFailedLoad"}
    api.put(SERVICE, service)
    add_pod(api, "old", uri=OLD, init=failing("storage-initializer", restarts=9))
    add_pod(api, "older", init=failing("storage-initializer", restarts=9), created="2025-01-01T00:00:00Z")
    add_pod(api, "new", init=failing("storage-initializer", restarts=2))
    api.texts[f"{PODS}/new/log"] = "\n".join(f"line {number}" for number in range(100)) + "\nno model found\n"
    with pytest.raises(RolloutError) as caught:
        predictor.prove(NEW, timeout_s=0.1)
    message = caught.value.message
    assert 'status.modelStatus: {"transitionStatus": "BlockedByFailedLoad"}' in message
    assert "pod `new`, container `storage-initializer`: CrashLoopBackOff" in message
    assert "  line 99\n  no model found" in message
    assert "line 80\n" not in message
    assert "older" not in message


def test_a_container_that_fails_again_and_again_ends_the_wait_early(api, predictor):
    serve(api, NEW, new=1, available=0)
    add_pod(api, "new", container=failing("kserve-container", restarts=5))
    with pytest.raises(RolloutError, match="container `kserve-container` of pod `new` failed 6 times"):
        predictor.prove(NEW, timeout_s=60)


def test_a_container_that_only_waits_for_the_init_container_has_not_failed(api, predictor):
    serve(api, NEW, new=1, available=0)
    add_pod(api, "new", container={"name": "a", "restartCount": 7, "state": {"waiting": {"reason": "PodInitializing"}}})
    with pytest.raises(RolloutError, match="not within"):
        predictor.prove(NEW, timeout_s=0.1)


def test_an_api_that_is_away_for_a_moment_ends_nothing_and_a_refusal_does(api, predictor):
    api.refusals["GET", DEPLOYMENT] = [503] * 3
    predictor.prove(OLD, timeout_s=10)
    api.refusals["GET", DEPLOYMENT] = [403]
    with pytest.raises(ClusterError, match="with 403"):
        predictor.prove(OLD, timeout_s=10)


def test_the_version_is_what_the_predictor_says(api, predictor):
    api.put(METADATA, {"name": "roadwork", "versions": ["0123456789ab"]})
    predictor.await_version("0123456789ab", timeout_s=1)
    with pytest.raises(
        RolloutError, match="does not serve version `ba9876543210` within 0.1 s: it says `0123456789ab`"
    ):
        predictor.await_version("ba9876543210", timeout_s=0.1)


def test_a_predictor_that_names_no_version_is_not_believed(api, predictor):
    api.put(METADATA, {"name": "roadwork"})
    with pytest.raises(RolloutError, match="names no version of its model"):
        predictor.await_version("0123456789ab", timeout_s=0.05)


def test_a_pod_that_no_node_takes_is_told(api, predictor):
    serve(api, NEW, new=1, available=0)
    condition = {"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}
    metadata = {"name": "new", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {SOURCE: NEW}}
    api.put(f"{PODS}/new", {"metadata": metadata, "status": {"conditions": [condition]}})
    with pytest.raises(RolloutError, match="pod `new` has no node: Insufficient cpu"):
        predictor.prove(NEW, timeout_s=0.05)
