"""What each ServiceAccount of the release may do, as the API server answers: that much and no more."""

import json

import pytest
import yaml

from manifests.cluster import Object
from tests.charts.cases import CASES
from tests.charts.render import render
from tests.cluster.client import Client

RELEASE = "sv"
RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
PROOF, ROLLOUT, STEPS = "sv-roadwork-proof", "sv-pipelines-rollout", "sv-pipelines-steps"
# Those whose pods never speak to the API server.
SILENT = ("sv-roadwork", "sv-miner", "sv-mlflow", "sv-pipelines")
ELSEWHERE = "kube-system"

# account, verb, resource (with its group, subresource or name), where it may
ALLOWED = [
    (PROOF, "get", "deployments.apps"),
    (PROOF, "get", "inferenceservices.serving.kserve.io"),
    (PROOF, "list", "pods"),
    (PROOF, "get", "pods/log"),
    (ROLLOUT, "patch", "inferenceservices.serving.kserve.io"),
    (ROLLOUT, "create", "secrets"),  # helm's record of the release
    (ROLLOUT, "update", "leases.coordination.k8s.io"),
    (ROLLOUT, "get", "pods/log"),
    (STEPS, "create", "leases.coordination.k8s.io"),
    (STEPS, "create", "jobs.batch"),
    (STEPS, "get", "cronjobs.batch=sv-pipelines-rollout"),
    (STEPS, "get", "pods/log"),
    (STEPS, "create", "workflowtaskresults.argoproj.io"),
]
DENIED = [
    (PROOF, "get", "secrets"),
    (PROOF, "patch", "deployments.apps"),
    (PROOF, "delete", "pods"),
    (ROLLOUT, "create", "clusterroles.rbac.authorization.k8s.io"),
    (ROLLOUT, "create", "pods/exec"),
    (ROLLOUT, "escalate", "roles.rbac.authorization.k8s.io"),
    (ROLLOUT, "impersonate", "users"),
    (STEPS, "get", "secrets"),
    (STEPS, "list", "secrets"),
    (STEPS, "patch", "deployments.apps"),
    (STEPS, "patch", "inferenceservices.serving.kserve.io"),
    (STEPS, "get", "cronjobs.batch=another"),
    (STEPS, "create", "pods"),
    (STEPS, "create", "pods/exec"),
    *((account, "get", "pods") for account in SILENT),
    *((account, "get", "secrets") for account in SILENT),
    *((account, "list", "configmaps") for account in SILENT),
    *((account, "create", "pods/exec") for account in (PROOF, *SILENT)),
]


@pytest.fixture(scope="module")
def accounts(namespace: Client) -> Client:
    """The namespace with every right that the profile `kind` gives, and nothing else of it."""
    (case,) = [one for one in CASES if str(one) == "streetvision-values-kind"]
    values = {"pipelines": {"kfp": {"namespace": namespace.namespace}}}
    rendered = render(case.chart, values, files=case.files, release=RELEASE, namespace=namespace.namespace)
    namespace.apply(*(one for one in rendered if one["kind"] in RIGHTS))
    return namespace


def review(client: Client, account: str, verb: str, what: str, *, namespace: str) -> Object:
    """The question whether an account may do that."""
    path, _, name = what.partition("=")
    kind, _, subresource = path.partition("/")
    resource, _, group = kind.partition(".")
    attributes = {"verb": verb, "resource": resource, "group": group, "subresource": subresource, "name": name}
    if namespace:
        attributes["namespace"] = namespace
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{client.namespace}:{account}",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": attributes,
        },
    }


def answers(client: Client, questions: list[Object]) -> list[bool]:
    """What the API server says to each, in one call."""
    text = client.kubectl("create", "--filename=-", "--output=json", stdin=yaml.safe_dump_all(questions))
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        one, at = decoder.raw_decode(text, at)
        found += one.get("items", [one])
        at += len(text[at:]) - len(text[at:].lstrip())
    assert len(found) == len(questions)
    return [bool(one["status"].get("allowed")) for one in found]


def test_every_account_may_do_what_it_is_for(accounts: Client):
    questions = [review(accounts, *one, namespace=accounts.namespace) for one in ALLOWED]
    allowed = answers(accounts, questions)
    assert [one for one, yes in zip(ALLOWED, allowed, strict=True) if not yes] == []


def test_no_account_may_do_more(accounts: Client):
    questions = [review(accounts, *one, namespace=accounts.namespace) for one in DENIED]
    allowed = answers(accounts, questions)
    assert [one for one, yes in zip(DENIED, allowed, strict=True) if yes] == []


@pytest.mark.parametrize("where", [ELSEWHERE, ""], ids=["another namespace", "the whole cluster"])
def test_nothing_is_allowed_outside_the_release(where: str, accounts: Client):
    allowed = answers(accounts, [review(accounts, *one, namespace=where) for one in ALLOWED])
    assert [one for one, yes in zip(ALLOWED, allowed, strict=True) if yes] == []


def test_every_account_of_the_release_is_in_the_tables(accounts: Client):
    names = {one["metadata"]["name"] for one in accounts.objects("serviceaccounts")} - {"default"}
    assert names == {account for account, *_ in ALLOWED + DENIED}
