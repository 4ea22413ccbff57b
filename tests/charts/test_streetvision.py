"""How the parts of one release fit together."""

from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from manifests import credentials, local_cluster
from manifests.charts import CHARTS, UMBRELLA
from manifests.cluster import OVERLAYS
from manifests.release import at
from tests.charts.cases import PROFILES, Case, cases, pods
from tests.charts.pod_security import containers
from tests.charts.render import Object, Rendered, RenderError, render

DEFAULT = CHARTS / UMBRELLA / "ci" / "default-values.yaml"
KIND, GPU = (Case(UMBRELLA, file) for file in PROFILES)
PARTS = [one["name"] for one in yaml.safe_load((CHARTS / UMBRELLA / "Chart.yaml").read_text())["dependencies"]]


def _rendered(values: dict[str, Any] | None = None) -> Rendered:
    return render(UMBRELLA, values, files=(DEFAULT,))


def _environment(rendered: Rendered, component: str) -> dict[str, str]:
    """Variables with a value of the pods of that component."""
    return {
        variable["name"]: variable["value"]
        for _, metadata, spec in pods(rendered)
        if metadata["labels"]["app.kubernetes.io/component"] == component
        for container in containers(spec)
        for variable in container.get("env", [])
        if "value" in variable
    }


def _services(rendered: Rendered) -> dict[str, set[int]]:
    """Every Service with its ports, those that KServe makes included."""
    own = {one["metadata"]["name"]: {port["port"] for port in one["spec"]["ports"]} for one in rendered.of("Service")}
    return own | {f"{one['metadata']['name']}-predictor": {80} for one in rendered.of("InferenceService")}


def _leads_to(url: str, rendered: Rendered) -> bool:
    parts = urlsplit(url)
    name, _, namespace = (parts.hostname or "").partition(".")
    return (parts.port or 80) in _services(rendered).get(name, set()) and namespace in ("", "streetvision")


def _of_part(part: str, rendered: Rendered) -> list[Object]:
    return [one for one in rendered if one["metadata"]["labels"]["helm.sh/chart"].startswith(f"{part}-")]


def _rolls_out(case: Case) -> bool:
    return all(at(case.values, key) is not False for key in ("pipelines.enabled", "pipelines.rollout.enabled"))


# Wiring


def test_the_miner_asks_the_predictor_and_the_fallback_of_its_release():
    rendered = _rendered()
    given = _environment(rendered, "miner")
    primary, fallback = given["STREETVISION_MINER_PREDICTOR_URL"], given["STREETVISION_MINER_FALLBACK_URL"]
    assert primary != fallback
    assert _leads_to(primary, rendered)
    assert _leads_to(fallback, rendered)


def test_the_rollout_asks_the_registry_of_its_release_and_moves_its_predictor():
    rendered = _rendered()
    assert _leads_to(_environment(rendered, "rollout")["MLFLOW_TRACKING_URI"], rendered)
    (container,) = rendered.one("CronJob", "sv-pipelines-rollout")["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert "--release=sv" in container["args"]
    assert "sv-roadwork" in {one["metadata"]["name"] for one in rendered.of("InferenceService")}


@pytest.mark.parametrize("case", [case for case in cases(UMBRELLA) if _rolls_out(case)], ids=str)
def test_the_rollout_may_write_every_kind_that_the_release_has(case):
    rendered = case.rendered()
    writable = {
        (group, resource)
        for rule in rendered.one("Role", "sv-pipelines-rollout")["rules"]
        if {"get", "create", "patch", "delete"} <= set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    wanted = {
        (one["apiVersion"].rpartition("/")[0], f"{one['kind'].lower()}s".replace("ys", "ies"))
        for one in rendered
        if one["metadata"].get("namespace", "streetvision") == "streetvision"
    }
    assert wanted <= writable


def test_one_object_store_reaches_every_part_that_keeps_something():
    store = {"endpoint": "http://s3.example.com:9000", "region": "eu-central-1", "existingSecret": "keys"}
    rendered = _rendered({"global": {"objectStore": store | {"bucket": "elsewhere"}}})
    for component in ("server", "miner"):
        given = _environment(rendered, component)
        assert given["AWS_ENDPOINT_URL"] == store["endpoint"], component
        assert given["AWS_DEFAULT_REGION"] == store["region"], component
    assert _environment(rendered, "miner")["STREETVISION_MINER_BUCKET"] == "elsewhere"
    accounts = [one for one in rendered.of("ServiceAccount") if {"name": "keys"} in one.get("secrets", [])]
    assert accounts, "KServe's storage initializer takes the keys from a ServiceAccount"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_off_leaves_nothing_behind(part):
    alone = {name: {"enabled": False} for name in PARTS if name != part} | {part: {"enabled": True}}
    alone["miner"] |= {"predictor": {"url": "http://elsewhere"}, "fallback": {"url": ""}}
    alone["pipelines"] |= {"mlflow": {"url": "http://elsewhere"}, "rollout": {"release": "other"}}
    rendered = _rendered(alone)
    assert _of_part(part, rendered)
    assert len(list(rendered)) == len(_of_part(part, rendered))


# Guards


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"predictor": {"enabled": False}, "pipelines": {"rollout": {"enabled": False}}},
            "miner.fallback.url is http://sv-roadwork-fallback-predictor, a part of this release that is switched off",
        ),
        (
            {"predictor": {"fallback": {"enabled": False}}},
            "miner.fallback.url is http://sv-roadwork-fallback-predictor, a part of this release that is switched off",
        ),
        (
            {"predictor": {"fullnameOverride": "other"}, "miner": {"fallback": {"url": ""}}},
            "miner.predictor.url is http://sv-roadwork-predictor, expected http://other-predictor",
        ),
        (
            {"mlflow": {"enabled": False}},
            "pipelines.mlflow.url is http://sv-mlflow.streetvision:5000, a part of this release that is switched off",
        ),
        (
            {"mlflow": {"service": {"port": 80}}},
            "pipelines.mlflow.url is http://sv-mlflow.streetvision:5000, expected http://sv-mlflow.streetvision:80",
        ),
        (
            {"predictor": {"enabled": False}, "miner": {"enabled": False}},
            "pipelines.rollout.enabled is true and this release has no predictor to roll out to",
        ),
        (
            {"monitoring": {"enabled": True}, "mlflow": {"metrics": {"serviceMonitor": {"enabled": True}}}},
            "the chart mlflow has a ServiceMonitor of its own and the chart monitoring makes another",
        ),
        (
            {"monitoring": {"enabled": True}, "predictor": {"serviceMonitor": {"enabled": True}}},
            "the chart predictor has a ServiceMonitor of its own and the chart monitoring makes another",
        ),
        (
            {"monitoring": {"enabled": True}, "miner": {"serviceMonitor": {"enabled": True}}},
            "the chart miner has a ServiceMonitor of its own and the chart monitoring makes another",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_a_sentence(values, sentence):
    with pytest.raises(RenderError) as refused:
        _rendered(values)
    assert f"streetvision: {sentence}" in " ".join(str(refused.value).split())


def test_a_name_too_long_for_the_addresses_is_refused():
    with pytest.raises(RenderError, match="expected http://a-release-name"):
        render(UMBRELLA, files=(DEFAULT,), release="a-release-name-that-has-some-forty-letters")


@pytest.mark.parametrize(
    "values",
    [
        {"global": {"objectStore": {"bucket": "Big_Bucket"}}},
        {"global": {"objectStore": {"buckets": "a"}}},
        {"global": {"objectStore": {"endpoint": "s3.example.com"}}},
        {"mlflow": {"enabled": "yes"}},
        {"minre": {}},
        {"miner": {"hotkeys": {}}},
    ],
)
def test_the_schema_refuses_what_is_misspelt_or_of_another_kind(values):
    with pytest.raises(RenderError):
        _rendered(values)


# Profiles


def test_the_local_cluster_gets_what_its_profile_names():
    values = KIND.values
    store = values["global"]["objectStore"]
    assert store["existingSecret"] == credentials.OBJECT_STORE
    assert store["endpoint"] == local_cluster.ENDPOINT
    assert store["region"] == credentials.REGION
    beside = list(yaml.safe_load_all((OVERLAYS / "kind" / "object-store.yaml").read_text()))
    (service,) = [one for one in beside if one["kind"] == "Service"]
    assert store["endpoint"] == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"


def test_the_local_cluster_needs_no_gpu_no_balancer_and_little_memory():
    rendered = KIND.rendered()
    specs = [(name, spec) for name, _, spec in pods(rendered)]
    for name, spec in specs:
        for container in containers(spec):
            assert "nvidia.com/gpu" not in container["resources"].get("limits", {}), name
    assert {one["spec"].get("type", "ClusterIP") for one in rendered.of("Service")} <= {"ClusterIP", "NodePort"}
    lasting = [spec for name, spec in specs if name.startswith(("Deployment", "InferenceService"))]
    asked = sum(_mebibytes(one["resources"]["requests"]["memory"]) for spec in lasting for one in spec["containers"])
    assert asked <= 4096


def test_an_uninstall_of_the_local_profile_leaves_no_claim():
    kept = [
        one["metadata"]["name"]
        for one in KIND.rendered()
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    ]
    assert kept == []


def test_on_a_gpu_cluster_the_predictor_has_one_and_the_fallback_none():
    gpus = {
        name: sum(int(one["resources"].get("limits", {}).get("nvidia.com/gpu", 0)) for one in containers(spec))
        for name, _, spec in pods(GPU.rendered())
    }
    assert {name: count for name, count in gpus.items() if count} == {"InferenceService sv-roadwork": 1}
    assert "InferenceService sv-roadwork-fallback" in gpus


def test_the_gpu_profile_has_passwords_a_database_and_backups():
    rendered = GPU.rendered()
    assert rendered.one("Deployment", "sv-mlflow")["spec"]["replicas"] == 2
    assert rendered.one("CronJob", "sv-mlflow-backup")
    (endpoint,) = rendered.one("ServiceMonitor", "sv-monitoring-mlflow")["spec"]["endpoints"]
    assert endpoint["basicAuth"]["password"]["name"] == GPU.values["mlflow"]["auth"]["existingSecret"]


@pytest.mark.parametrize("case", cases(UMBRELLA), ids=str)
def test_no_profile_names_a_model(case):
    if case.file in PROFILES:
        assert "model" not in (yaml.safe_load(case.file.read_text()).get("predictor") or {})


def _mebibytes(quantity: str) -> float:
    return float(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]
