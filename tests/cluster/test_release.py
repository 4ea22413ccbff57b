"""One release of everything, by `manifests.deploy kind`: from nothing, again, upgraded, rolled back, uninstalled."""

import json
import re
import shutil
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from manifests import charts, deploy
from manifests.cluster import ClusterError
from manifests.release import WAIT
from streetvision.inference.model_directory import ModelDirectory
from tests.brightness import write_model_directory
from tests.cluster import wait
from tests.cluster.client import Client
from tests.cluster.our_images import image, image_values

PARTS = {"mlflow": "mlflow", "predictor": "predictor", "miner": "miner", "pipelines": "pipeline-cpu"}
RELEASE = "sv"
OURS = f"app.kubernetes.io/instance={RELEASE}"
NEXT = "0.1.1"

pytestmark = [
    pytest.mark.needs("kserve", "storage", *(f"image:{image(name)}" for name in PARTS.values())),
    pytest.mark.timeout(1500),
]


@dataclass(frozen=True)
class Deployment:
    """One run of `manifests.deploy`."""

    code: int
    outcomes: dict[str, str]
    seconds: float


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ModelDirectory]:
    """Two models that differ."""
    folder = tmp_path_factory.mktemp("models")
    return [
        ModelDirectory.open(write_model_directory(folder / name, channels=channels))
        for name, channels in (("first", (0, 1, 2)), ("second", (0,)))
    ]


@pytest.fixture(scope="module")
def installed(namespace: Client, models: list[ModelDirectory], tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The first run, in an empty namespace, with the first model."""
    assert namespace.objects("deployments") == []
    return _deploy(namespace, tmp_path_factory.mktemp("state"), "--model-dir", str(models[0].path))


def _deploy(namespace: Client, state: Path, *arguments: str) -> Deployment:
    steps = deploy.Steps()
    images = {f"{part}.image": image_values(name) for part, name in PARTS.items()}
    settings = [f"--set={key}.{name}={value}" for key, one in images.items() for name, value in one.items()]
    parsed = deploy.parse(["kind", "--namespace", namespace.namespace, "--state", str(state), *settings, *arguments])
    code = deploy.deploy(parsed, steps)
    sys.stdout.write(f"{steps.table()}\n")
    return Deployment(code, {name: outcome for name, outcome, _ in steps.rows}, sum(row[2] for row in steps.rows))


def _served(namespace: Client, service: str = f"{RELEASE}-roadwork-predictor") -> str:
    """Version of the model that a predictor says it has."""
    with (
        namespace.forwarded(f"service/{service}", 80) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/roadwork", timeout=10) as answer,
    ):
        return json.load(answer)["versions"][0]


def _uids(namespace: Client) -> dict[str, tuple[str, int]]:
    """Every workload of the release with its identity and how often its specification changed."""
    return {
        f"{one['kind']} {one['metadata']['name']}": (one["metadata"]["uid"], one["metadata"].get("generation", 0))
        for one in namespace.objects("deployments,inferenceservices,services,cronjobs", selector=OURS)
    }


def test_the_gpu_profile_names_the_secrets_that_are_missing_and_makes_nothing(
    namespace: Client, capsys: pytest.CaptureFixture[str]
):
    assert deploy.main(["gpu", "--namespace", namespace.namespace, "--release", "gpu", "--check"]) == deploy.MISSING
    said = capsys.readouterr().out
    assert "MISSING  a model: `predictor.model.uri`: it is not set" in said
    for name in ("streetvision-mlflow-database", "streetvision-miner-hotkey"):
        assert f"MISSING  Secret `{namespace.namespace}/{name}` with" in said
        assert f"kubectl --namespace {namespace.namespace} create secret generic {name} --from-" in said
    labelled = namespace.objects("all,secrets,configmaps", selector="app.kubernetes.io/instance=gpu")
    assert labelled == []


def test_everything_is_up_after_one_command_in_an_empty_namespace(
    namespace: Client, installed: Deployment, models: list[ModelDirectory]
):
    assert installed.code == 0
    assert installed.outcomes[f"release {RELEASE}"] == "revision 1"
    for one in namespace.objects("deployments", selector=OURS):
        conditions = {found["type"]: found["status"] for found in one["status"]["conditions"]}
        assert conditions["Available"] == "True", one["metadata"]["name"]
    for one in namespace.objects("inferenceservices"):
        conditions = {found["type"]: found["status"] for found in one["status"]["conditions"]}
        assert conditions["Ready"] == "True", one["metadata"]["name"]
    assert _served(namespace) == models[0].version
    assert _served(namespace, f"{RELEASE}-roadwork-fallback-predictor") == models[0].version


def test_what_is_served_is_the_champion_and_says_that_nobody_compared_it(
    namespace: Client, installed: Deployment, models: list[ModelDirectory]
):
    with namespace.forwarded(f"service/{RELEASE}-mlflow", 5000) as port:
        url = f"http://127.0.0.1:{port}/api/2.0/mlflow/registered-models/alias?name=roadwork&alias=champion"
        with urllib.request.urlopen(url, timeout=30) as answer:
            version = json.load(answer)["model_version"]
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert version["source"].rstrip("/") == f"s3://streetvision/models/roadwork/{models[0].sha256}"
    assert tags["approved_by"] == "python -m manifests.deploy kind"
    assert tags["verdict"] == "not enough evidence"


def test_a_second_run_changes_nothing(namespace: Client, installed: Deployment, tmp_path: Path):
    before = _uids(namespace)
    again = _deploy(namespace, tmp_path)
    assert again.code == 0
    assert again.outcomes.pop("cluster")
    assert again.outcomes.pop("what the cluster has")
    assert all(outcome.startswith("unchanged") for outcome in again.outcomes.values()), again.outcomes
    assert _uids(namespace) == before
    assert again.seconds < 60


def test_helm_test_passes(namespace: Client, installed: Deployment):
    said = namespace.helm("test", RELEASE, "--logs", "--timeout", "5m", timeout_s=600)
    assert dict(re.findall(r"TEST SUITE: +(\S+)\n(?:.*\n){2}Phase: +(\w+)", said)) == {
        f"{RELEASE}-{part}-test": "Succeeded" for part in ("mlflow", "roadwork", "miner")
    }


def test_another_model_is_served_after_an_upgrade_and_the_first_after_a_rollback(
    namespace: Client, installed: Deployment, models: list[ModelDirectory], tmp_path: Path
):
    assert _deploy(namespace, tmp_path, "--model-dir", str(models[1].path)).code == 0
    assert _served(namespace) == models[1].version
    namespace.helm("rollback", RELEASE, WAIT, "--timeout", "10m", timeout_s=660)
    assert _served(namespace) == models[0].version, "the rollback's own hook waits for it"


def test_the_next_version_of_the_charts_goes_in_and_back_out(namespace: Client, installed: Deployment, tmp_path: Path):
    before = _chart_labels(namespace)
    upgrade = ("upgrade", RELEASE, str(_next_charts(tmp_path)), "--reset-then-reuse-values", "--rollback-on-failure")
    namespace.helm(*upgrade, WAIT, "--timeout", "10m", timeout_s=660)
    assert {version for _, version in _chart_labels(namespace)} == {NEXT}
    namespace.helm("rollback", RELEASE, WAIT, "--timeout", "10m", timeout_s=660)
    assert _chart_labels(namespace) == before


def test_an_upgrade_that_cannot_come_up_is_taken_back(namespace: Client, installed: Deployment, tmp_path: Path):
    revision = _deployed_revision(namespace)
    with pytest.raises(ClusterError):
        namespace.helm(
            *("upgrade", RELEASE, str(charts.build(tmp_path / "charts") / charts.UMBRELLA)),
            *("--reset-then-reuse-values", "--set", "miner.image.tag=none", "--rollback-on-failure", WAIT),
            *("--timeout", "45s"),
            timeout_s=300,
        )
    assert _deployed_revision(namespace) == revision + 2, "one that failed, one that went back"
    namespace.await_rollout(f"deployment/{RELEASE}-miner")


def test_uninstall_leaves_no_labelled_object(namespace: Client, installed: Deployment):
    namespace.helm("uninstall", RELEASE, "--wait", "--timeout", "3m", timeout_s=240)
    kinds = namespace.cluster.run_kubectl(
        "api-resources", "--namespaced", "--verbs=list", "--output=name", in_namespace=False
    ).split()
    kept = {"events", "events.events.k8s.io"}
    asked = ",".join(kind for kind in kinds if kind not in kept)

    def left() -> list[str]:
        found = namespace.kubectl("get", asked, f"--selector={OURS}", "--output=name", "--ignore-not-found")
        return found.split()

    wait.until(lambda: not left() or None, what="nothing left", timeout_s=120)


def _next_charts(folder: Path) -> Path:
    """The umbrella as its next version, images as they are."""
    source = folder / "source"
    shutil.copytree(charts.CHARTS, source)
    for file in source.glob("*/Chart.yaml"):
        text = file.read_text()
        file.write_text(re.sub(r"^(  +|)version: \S+", rf"\g<1>version: {NEXT}", text, flags=re.MULTILINE))
    (source / charts.UMBRELLA / "Chart.lock").unlink(missing_ok=True)
    return charts.build(folder / "built", source=source) / charts.UMBRELLA


def _chart_labels(namespace: Client) -> set[tuple[str, str]]:
    """Chart and version of the release's own objects; what KServe makes of them follows in its own time."""
    kinds = "deployments,services,configmaps,cronjobs,networkpolicies,inferenceservices,servingruntimes"
    labels = [
        one["metadata"]["labels"]["helm.sh/chart"]
        for one in namespace.objects(kinds, selector=OURS)
        if "ownerReferences" not in one["metadata"]
    ]
    return {(name, version) for name, _, version in (label.rpartition("-") for label in labels)}


def _deployed_revision(namespace: Client) -> int:
    (newest,) = json.loads(namespace.helm("history", RELEASE, "--max", "1", "--output", "json"))
    assert newest["status"] == "deployed"
    return newest["revision"]
