"""The chart `pipelines` alone, for real, before an imitation of the Kubeflow Pipelines API that runs as a pod.

The imitation is that of tests/pipelines/kfp_api.py: the real one cannot be had from package registries.
Nothing is run by it.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.charts import CHARTS
from manifests.cluster import ClusterError
from pipelines.catalogue import packages
from tests.cluster import wait
from tests.cluster.client import RESTRICTED, RESTRICTED_POD, Client
from tests.cluster.our_images import image, image_values
from tests.pipelines import kfp_api

pytestmark = [pytest.mark.needs("storage", f"image:{image('pipeline-cpu')}"), pytest.mark.timeout(900)]

CHART = str(CHARTS / "pipelines")
ROLLOUT, STEPS, UPLOAD = "sv-pipelines-rollout", "sv-pipelines-steps", "sv-pipelines"
RETRAIN = {"name": "retrain", "pipeline": "retrain", "cron": "0 3 * * 0"}
NIGHTLY = RETRAIN | {"name": "nightly", "cron": "30 2 * * *", "parameters": {"scenes": 300}}
EVERYTHING = "pods,configmaps,serviceaccounts,persistentvolumeclaims,cronjobs,jobs,roles,rolebindings"
SERVE = """
from http.server import ThreadingHTTPServer
from kfp_api import Handler, KfpApi
ThreadingHTTPServer(("0.0.0.0", 8888), type("Bound", (Handler,), {"api": KfpApi()})).serve_forever()
"""


@pytest.fixture(scope="module")
def kubeflow(namespace: Client) -> Iterator[Client]:
    """A namespace with the imitation, where steps would run."""
    client = namespace.within(f"test-kubeflow-{secrets.token_hex(3)}")
    client.create_namespace()
    try:
        client.apply(*imitation())
        client.await_condition("pod/ml-pipeline", "condition=Ready")
        yield client
    finally:
        client.delete_namespace()


def imitation() -> list[dict[str, Any]]:
    container = {
        "name": "api",
        "image": image("pipeline-cpu"),
        "command": ["python", "-c", SERVE],
        "env": [{"name": "PYTHONPATH", "value": "/imitation"}],
        "readinessProbe": {"httpGet": {"path": "/apis/v2beta1/healthz", "port": 8888}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "imitation", "mountPath": "/imitation"}],
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": RESTRICTED_POD | {"runAsUser": 10001},
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "imitation", "configMap": {"name": "ml-pipeline"}}],
    }
    source = Path(kfp_api.__file__).read_text()
    named = {"name": "ml-pipeline", "labels": {"app": "ml-pipeline"}}
    ports = {"selector": {"app": "ml-pipeline"}, "ports": [{"port": 8888}]}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"kfp_api.py": source}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": named, "spec": ports},
    ]


@pytest.fixture(scope="module")
def values(kubeflow: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("values") / "values.yaml"
    values = {
        "image": image_values("pipeline-cpu"),
        "kfp": {"host": f"http://ml-pipeline.{kubeflow.namespace}:8888", "namespace": kubeflow.namespace},
        "mlflow": {"url": "http://mlflow:5000"},
        "objectStore": {"bucket": "streetvision"},
        "parameters": {"submitted_by": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"},
        "recurringRuns": [RETRAIN],
        "workspace": {"size": "1Gi", "keep": False},
        "rollout": {"suspend": True},
        "resources": {"requests": {"cpu": "10m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
    }
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module")
def release(namespace: Client, values: Path) -> Client:
    """A release `sv` that helm found ready, its hooks done."""
    upgrade(namespace, values)
    return namespace


def upgrade(cluster: Client, values: Path, *flags: str, **changed: Any) -> None:
    """Installs or upgrades the release with these values over those of the file."""
    over = ["--set-json", json.dumps(changed)] if changed else []
    command = ("upgrade", "--install", "sv", CHART, "--values", str(values), *over, *flags)
    cluster.helm(*command, "--wait", "--timeout=300s", timeout_s=320)


@contextmanager
def seen(kubeflow: Client) -> Iterator[Any]:
    """Yields kfp's client of the imitation."""
    with kubeflow.forwarded("pod/ml-pipeline", 8888) as port:
        yield kfp_api.connect(f"http://127.0.0.1:{port}")


def versions(kubeflow: Client) -> dict[str, list[str]]:
    """Names of the versions of each pipeline."""
    with seen(kubeflow) as api:
        pipelines = api.list_pipelines().pipelines or []
        found = {one.display_name: api.list_pipeline_versions(one.pipeline_id) for one in pipelines}
    return {name: [one.display_name for one in page.pipeline_versions or []] for name, page in found.items()}


def recurring(kubeflow: Client) -> dict[str, Any]:
    with seen(kubeflow) as api:
        return {one.recurring_run_id: one for one in api.list_recurring_runs().recurring_runs or []}


def test_an_install_uploads_schedules_and_binds_the_workspace(release: Client, kubeflow: Client, tmp_path: Path):
    assert versions(kubeflow) == {name: [one.version] for name, one in packages(tmp_path).items()}
    (run,) = recurring(kubeflow).values()
    assert (run.status, run.trigger.cron_schedule.cron) == ("ENABLED", "0 0 3 * * 0")
    assert run.service_account == STEPS
    given = run.runtime_config.parameters
    assert given["tracking_uri"] == "http://mlflow:5000"
    assert given["models_uri"] == "s3://streetvision/models/roadwork"
    assert given["rollout"] == f"{release.namespace}/{ROLLOUT}"
    assert kubeflow.get("pvc", "streetvision-workspace")["status"]["phase"] == "Bound"
    (job,) = kubeflow.objects("jobs")
    assert "/workspace" in kubeflow.await_job(job["metadata"]["name"])
    assert release.objects("jobs") == []  # hooks that have succeeded are gone


def test_helm_test_finds_these_very_pipelines(release: Client):
    assert "retrain" in release.helm("test", "sv", "--logs", "--timeout=200s", timeout_s=220)


def test_the_same_again_makes_no_new_version_and_no_new_run(release: Client, kubeflow: Client, values: Path):
    before = versions(kubeflow), list(recurring(kubeflow))
    upgrade(release, values)
    assert (versions(kubeflow), list(recurring(kubeflow))) == before


def test_recurring_runs_become_those_of_the_values(release: Client, kubeflow: Client, values: Path):
    (first,) = recurring(kubeflow)
    upgrade(release, values, recurringRuns=[RETRAIN | {"enabled": False}, NIGHTLY])
    now = {one.display_name: one for one in recurring(kubeflow).values()}
    assert now.keys() == {"retrain", "nightly"}
    assert (now["retrain"].recurring_run_id, now["retrain"].status) == (first, "DISABLED")
    assert now["nightly"].runtime_config.parameters["scenes"] == 300
    upgrade(release, values, recurringRuns=[NIGHTLY])
    assert [one.display_name for one in recurring(kubeflow).values()] == ["nightly"]


def test_what_kubeflow_lost_is_missed_by_helm_test_and_there_again_after_an_upgrade(
    release: Client, kubeflow: Client, values: Path
):
    before = versions(kubeflow)
    with seen(kubeflow) as api:
        (pipeline,) = api.list_pipelines().pipelines
        (version,) = api.list_pipeline_versions(pipeline.pipeline_id).pipeline_versions
        api._pipelines_api.pipeline_service_delete_pipeline(pipeline.pipeline_id, cascade=True)
    with pytest.raises(ClusterError):
        release.helm("test", "sv", "--timeout=200s", timeout_s=220)
    assert version.display_name in release.kubectl("logs", "sv-pipelines-test")
    upgrade(release, values)
    assert versions(kubeflow) == before
    release.helm("test", "sv", "--timeout=200s", timeout_s=220)


@pytest.mark.parametrize(
    ("account", "verb", "what", "name", "where", "allowed"),
    [
        (STEPS, "create", "workflowtaskresults.argoproj.io", "", "kubeflow", True),
        (STEPS, "get", "secrets", "mlpipeline-minio-artifact", "kubeflow", True),
        (STEPS, "get", "secrets", "streetvision-hub", "kubeflow", False),
        (STEPS, "list", "secrets", "", "kubeflow", False),
        (STEPS, "update", "leases.coordination.k8s.io", "streetvision-promotion", "release", True),
        (STEPS, "get", "cronjobs.batch", ROLLOUT, "release", True),
        (STEPS, "create", "jobs.batch", "", "release", True),
        (STEPS, "get", "pods/log", "rollout-abc", "release", True),
        (STEPS, "delete", "jobs.batch", "", "release", False),
        (STEPS, "patch", "inferenceservices.serving.kserve.io", "sv-roadwork", "release", False),
        (STEPS, "get", "secrets", "", "release", False),
        (ROLLOUT, "patch", "inferenceservices.serving.kserve.io", "sv-roadwork", "release", True),
        (ROLLOUT, "create", "secrets", "", "release", True),
        (ROLLOUT, "get", "pods/log", "", "release", True),
        (ROLLOUT, "create", "pods/exec", "", "release", False),
        (ROLLOUT, "bind", "roles.rbac.authorization.k8s.io", "", "release", False),
        (ROLLOUT, "patch", "persistentvolumeclaims", "streetvision-workspace", "kubeflow", True),
        (ROLLOUT, "delete", "persistentvolumeclaims", "streetvision-workspace", "kubeflow", False),
        (ROLLOUT, "get", "secrets", "", "kubeflow", False),
        (UPLOAD, "get", "configmaps", "", "release", False),
    ],
)
def test_the_api_server_lets_accounts_do_this_much(
    release: Client, kubeflow: Client, account: str, verb: str, what: str, name: str, where: str, allowed: bool
):
    home, there = (kubeflow if one else release for one in (account == STEPS, where == "kubeflow"))
    kind, _, group = what.partition(".")
    resource, _, part = kind.partition("/")
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": part, "name": name}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{home.namespace}:{account}",
            "resourceAttributes": {"namespace": there.namespace, **asked},
        },
    }
    answer = json.loads(release.kubectl("create", "--filename=-", "--output=json", stdin=yaml.safe_dump(review)))
    assert answer["status"].get("allowed", False) == allowed


def test_the_rollouts_account_may_upgrade_the_release_and_the_steps_account_may_not(release: Client, kubeflow: Client):
    command = ("upgrade", "sv", CHART, "--reuse-values", "--no-hooks", "--wait", "--timeout=120s")
    rollout = f"--kube-as-user=system:serviceaccount:{release.namespace}:{ROLLOUT}"
    release.helm(*command, "--set=rollout.suspend=true", rollout, timeout_s=140)
    (last,) = json.loads(release.helm("history", "sv", "--max=1", "--output=json"))
    assert last["status"] == "deployed"
    with pytest.raises(ClusterError, match="forbidden"):
        release.helm(*command, f"--kube-as-user=system:serviceaccount:{kubeflow.namespace}:{STEPS}", timeout_s=140)


def test_a_kubeflow_out_of_reach_fails_the_release_with_a_sentence_and_a_rollback_mends_it(
    release: Client, kubeflow: Client, values: Path
):
    before = list(recurring(kubeflow))
    nowhere = json.loads(json.dumps(yaml.safe_load(values.read_text())["kfp"]))
    nowhere |= {"host": "http://ml-pipeline.nowhere:8888", "timeoutSeconds": 3}
    with pytest.raises(ClusterError):
        upgrade(release, values, kfp=nowhere, upload={"retries": 0})
    said = release.kubectl("logs", "job/sv-pipelines-upload", "--container=upload")
    assert "error: " in said
    assert "http://ml-pipeline.nowhere:8888" in said
    assert "Traceback" not in said
    release.helm("rollback", "sv", "--wait", "--timeout=300s", timeout_s=320)
    release.helm("test", "sv", "--timeout=200s", timeout_s=220)
    assert list(recurring(kubeflow)) == before


def test_an_uninstall_ends_the_recurring_runs_and_leaves_the_pipelines(release: Client, kubeflow: Client):
    release.helm("uninstall", "sv", "--wait", "--timeout=200s", timeout_s=220)
    assert recurring(kubeflow) == {}
    assert versions(kubeflow).keys() == {"retrain"}

    def left() -> list[str]:
        found = [one for where in (release, kubeflow) for one in where.objects(EVERYTHING, selector="helm.sh/chart")]
        return [f"{one['kind']} {one['metadata']['name']}" for one in found]

    wait.until(lambda: not left(), what="the end of the release's last objects", timeout_s=120)
