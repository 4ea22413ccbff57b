"""A real API server takes every object of every chart without a warning, and refuses what it should, saying why."""

from typing import Any

import pytest
import yaml

from manifests.cluster import ClusterError, Object
from tests.charts.cases import CASES, Case
from tests.charts.render import render
from tests.cluster.client import RESTRICTED, RESTRICTED_POD, Client, server, storage_initializer

pytestmark = pytest.mark.needs("kserve")

SERVICE: Object = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "roadwork"},
    "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storageUri": "s3://bucket/model/"}}},
}


@pytest.fixture(scope="module")
def served(cluster: Client) -> frozenset[str]:
    """The API versions that the cluster has."""
    return frozenset(cluster.cluster.api_versions()) | {"v1"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_object_is_taken_without_a_warning(case: Case, namespace: Client, served: frozenset[str]):
    mine = [
        {**one, "metadata": {**one["metadata"], "namespace": namespace.namespace}}
        for one in render(case.chart, files=case.files, namespace=namespace.namespace)
    ]
    known = [one for one in mine if one["apiVersion"] in served]
    # The Prometheus operator's kinds are checked against their CRDs in tests/charts.
    assert {one["apiVersion"] for one in mine} - served <= {"monitoring.coreos.com/v1"}
    # A pod is refused where its account is missing, so these are made.
    accounts = [one for one in known if one["kind"] == "ServiceAccount"]
    if accounts:
        namespace.apply(*accounts)
    others = [one for one in known if one["kind"] != "ServiceAccount"]
    text = yaml.safe_dump_all(others)
    if others:
        made = namespace.kubectl("create", "--dry-run=server", "--warnings-as-errors", "--filename=-", stdin=text)
        assert made.count("(server dry run)") == len(others)


def test_a_pod_that_is_not_restricted_is_refused_and_one_of_a_deployment_warned_of(namespace: Client):
    pod = server()
    del pod["spec"]["securityContext"]
    refused = namespace.refusal(pod) or ""
    assert 'violates PodSecurity "restricted:latest"' in refused
    assert "runAsNonRoot != true" in refused
    template = {"metadata": {"labels": {"app": "server"}}, "spec": pod["spec"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "server"},
        "spec": {"selector": {"matchLabels": {"app": "server"}}, "template": template},
    }
    command = ("create", "--dry-run=server", "--warnings-as-errors", "--filename=-")
    with pytest.raises(ClusterError, match="would violate PodSecurity|1 warning"):
        namespace.kubectl(*command, stdin=yaml.safe_dump(deployment))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"minReplicas": 3, "maxReplicas": 2}, "'MinReplicas' cannot be greater than MaxReplicas"),
        ({"minReplicas": -1}, "'MinReplicas' cannot be less than 0"),
        ({"logger": {"mode": "some"}}, "logger"),
    ],
    ids=["more replicas than at most", "fewer than none", "unknown log mode"],
)
def test_kserve_refuses_what_it_cannot_serve(change: dict[str, Any], sentence: str, namespace: Client):
    assert namespace.refusal(SERVICE) is None
    service = {**SERVICE, "spec": {"predictor": {**SERVICE["spec"]["predictor"], **change}}}
    assert sentence in (namespace.refusal(service) or "")


def test_kserve_refuses_a_name_that_no_address_can_have(namespace: Client):
    service = {**SERVICE, "metadata": {"name": "9-roadwork"}}
    assert "9-roadwork" in (namespace.refusal(service) or "")


def test_an_unknown_field_is_refused(namespace: Client):
    container = {"name": "main", "image": storage_initializer(), "securityContext": RESTRICTED, "comand": ["true"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "typo"},
        "spec": {"securityContext": RESTRICTED_POD, "containers": [container]},
    }
    assert 'unknown field "spec.containers[0].comand"' in (namespace.refusal(pod) or "")
