"""Where pods that ask for a GPU land: on nodes that have one, one pod per GPU; and how drains go. kwok plays nodes."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manifests.cluster import ClusterError, Object
from pipelines.catalogue import packages
from tests.charts.render import render
from tests.cluster import wait
from tests.cluster.client import FAKE, RESTRICTED, RESTRICTED_POD, Client, storage_initializer
from tests.pipelines.ir import Compiled

pytestmark = pytest.mark.needs("kserve", "kwok")

GPU = "nvidia.com/gpu"
# Lets a pod on a node that is only played; nodes with GPUs have a taint of their own besides.
PLAYED: Object = {"key": FAKE, "operator": "Exists", "effect": "NoSchedule"}
GPU_TOLERATION: Object = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
SERVICE = "sv-roadwork"
PREDICTOR = f"{SERVICE}-predictor"
PODS = f"app=isvc.{PREDICTOR}"


@contextmanager
def predictor(client: Client, **values: Any) -> Iterator[None]:
    """Brings the chart's objects for the profile `gpu` to the cluster; KServe makes the Deployment."""
    client.apply(*objects(client, **values))
    try:
        wait.until(lambda: client.find("deployment", PREDICTOR), what="the Deployment", timeout_s=60)
        yield
    finally:
        client.delete("inferenceservices,servingruntimes,poddisruptionbudgets")
        wait.until(lambda: not client.pods(PODS), what="the end of the predictor", timeout_s=60)


def objects(client: Client, **values: Any) -> list[Object]:
    given = {
        "profile": "gpu",
        "model": {"uri": f"s3://streetvision/models/roadwork/{'a' * 64}/"},
        "tolerations": [PLAYED],
        "fallback": {"enabled": False},
        "proof": {"enabled": False},
        **values,
    }
    return [
        one
        for one in render("predictor", given, namespace=client.namespace)
        if "helm.sh/hook" not in one["metadata"].get("annotations", {})
    ]


def nodes(client: Client) -> dict[str, str | None]:
    """Where each predictor pod is, nothing where it waits."""
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in client.pods(PODS)}


def ready(client: Client) -> set[str]:
    """The nodes with a pod that is ready."""
    return {
        pod["spec"]["nodeName"]
        for pod in client.pods(PODS)
        for condition in pod["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def why_it_waits(client: Client, selector: str = PODS) -> str:
    """What the scheduler says of the pods without a node."""
    conditions = [one for pod in client.pods(selector) for one in pod["status"].get("conditions", [])]
    return " ".join(one.get("message", "") for one in conditions if one.get("reason") == "Unschedulable")


def drain(client: Client, node: str, *, timeout_s: int) -> None:
    """What a person does before working on a node; kwok takes its time to end a pod, so none is given.

    Raises:
        ClusterError: a pod could not be moved in time.
    """
    client.kubectl(
        "drain", node, f"--pod-selector={PODS}", "--delete-emptydir-data", "--grace-period=0", f"--timeout={timeout_s}s"
    )


def test_a_gpu_predictor_waits_for_a_gpu_and_takes_the_only_node_that_has_one(namespace: Client):
    with predictor(namespace), namespace.fake_gpu_node(gpus=0):
        waits = wait.until(lambda: why_it_waits(namespace), what="the scheduler's word", timeout_s=60)
        assert f"Insufficient {GPU}" in waits
        with namespace.fake_gpu_node() as node:
            wait.until(lambda: ready(namespace) == {node}, what="a pod on the node with a GPU", timeout_s=60)


def test_an_upgrade_on_the_only_gpu_goes_through_because_no_pod_is_added_first(namespace: Client):
    with predictor(namespace), namespace.fake_gpu_node() as node:
        wait.until(lambda: ready(namespace) == {node}, what="the first pod", timeout_s=60)
        before = set(nodes(namespace))
        namespace.apply(*objects(namespace, podAnnotations={"example.com/turn": "2"}))

        def replaced() -> bool:
            return ready(namespace) == {node} and not before & set(nodes(namespace))

        wait.until(replaced, what="the new pod on the same node", timeout_s=90)


def test_with_a_surge_the_same_upgrade_would_stand_still(namespace: Client):
    template = pod_template(GPU_TOLERATION, resources={"limits": {GPU: "1"}})
    deployment: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "surge"},
        "spec": {
            "selector": {"matchLabels": {"app": "surge"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "surge"}}, "spec": template},
        },
    }
    try:
        with namespace.fake_gpu_node():
            namespace.apply(deployment)
            namespace.await_rollout("deployment/surge", timeout_s=60)
            deployment["spec"]["template"]["metadata"]["annotations"] = {"example.com/turn": "2"}
            namespace.apply(deployment)
            waits = wait.until(lambda: why_it_waits(namespace, "app=surge"), what="the scheduler's word", timeout_s=60)
            assert f"Insufficient {GPU}" in waits
            with pytest.raises(ClusterError):
                namespace.await_rollout("deployment/surge", timeout_s=5)
    finally:
        namespace.delete("deployment", "surge")


def test_with_two_replicas_a_drain_waits_until_the_other_one_is_back(namespace: Client):
    with (
        namespace.fake_gpu_node() as first,
        namespace.fake_gpu_node() as second,
        predictor(namespace, replicas=2),
    ):
        wait.until(lambda: ready(namespace) == {first, second}, what="a pod on each node", timeout_s=60)
        assert len(namespace.objects("poddisruptionbudgets")) == 1
        drain(namespace, first, timeout_s=30)
        with pytest.raises(ClusterError, match="disruption budget|timed out|global timeout"):
            drain(namespace, second, timeout_s=8)
        assert ready(namespace) == {second}, "the budget let go of the last pod that answers"
        namespace.kubectl("uncordon", first)
        wait.until(lambda: first in ready(namespace), what="the pod that is back", timeout_s=60)
        drain(namespace, second, timeout_s=30)
        wait.until(lambda: ready(namespace) == {first}, what="the one pod", timeout_s=30)


def test_one_replica_has_no_budget_and_its_node_can_be_drained(namespace: Client):
    with namespace.fake_gpu_node() as node, predictor(namespace):
        wait.until(lambda: ready(namespace) == {node}, what="the pod", timeout_s=60)
        assert namespace.objects("poddisruptionbudgets") == []
        drain(namespace, node, timeout_s=30)
        assert ready(namespace) == set()


def test_the_autoscaler_has_the_replicas_of_the_values(namespace: Client):
    with predictor(namespace, replicas=2, autoscaling={"maxReplicas": 5, "targetCPUPercent": 70}):
        scaler = wait.until(
            lambda: namespace.find("horizontalpodautoscalers", PREDICTOR), what="the autoscaler", timeout_s=60
        )
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 5)
    (metric,) = scaler["spec"]["metrics"]
    assert (metric["resource"]["name"], metric["resource"]["target"]["averageUtilization"]) == ("cpu", 70)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder: Path = tmp_path_factory.mktemp("compiled")
    return Compiled.read(packages(folder)["retrain"].path)


@pytest.mark.parametrize("name", ["train", "synthesize"])
def test_a_gpu_step_of_the_compiled_pipeline_lands_only_where_a_gpu_is(
    name: str, namespace: Client, compiled: Compiled
):
    (step,) = [one for one in compiled.steps if one.name == name]
    accelerator = step.container["resources"]["accelerator"]
    tolerations = [dict(one) for one in step.platform["tolerations"]]
    spec = pod_template(*tolerations, resources={"limits": {accelerator["resourceType"]: "1"}})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-{secrets.token_hex(3)}"}, "spec": spec}
    pod["metadata"]["labels"] = {"app": name}
    try:
        with namespace.fake_gpu_node(gpus=0):
            namespace.apply(pod)
            waits = wait.until(lambda: why_it_waits(namespace, f"app={name}"), what="the scheduler", timeout_s=60)
            assert f"Insufficient {GPU}" in waits
            with namespace.fake_gpu_node() as node:
                wait.until(
                    lambda: [one["spec"].get("nodeName") for one in namespace.pods(f"app={name}")] == [node],
                    what="the node with a GPU",
                    timeout_s=60,
                )
    finally:
        namespace.delete("pod", pod["metadata"]["name"])


def pod_template(*tolerations: Object, resources: Object) -> Object:
    container = {"name": "main", "image": storage_initializer(), "resources": resources, "securityContext": RESTRICTED}
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": RESTRICTED_POD,
        "tolerations": [PLAYED, *tolerations],
        "containers": [container],
    }
