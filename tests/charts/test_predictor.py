from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from serving.predictor.settings import Settings
from tests.charts.render import CHARTS, Object, Rendered, RenderError, as_model, render

CI = CHARTS / "predictor" / "ci"
WAYS = sorted(CI.glob("*-values.yaml"))
CPU, GPU = CI / "cpu-values.yaml", CI / "gpu-values.yaml"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
URI = f"s3://streetvision/models/roadwork/{SHA256}/"

every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name.removesuffix("-values.yaml"))


def chart(values: dict[str, Any] | None = None, file: Path = CPU) -> Rendered:
    return render("predictor", values, files=(file,))


def service(rendered: Rendered, name: str = "sv-roadwork") -> Object:
    return rendered.one("InferenceService", name)


def predictor(rendered: Rendered, name: str = "sv-roadwork") -> Object:
    return service(rendered, name)["spec"]["predictor"]


def runtime(rendered: Rendered, name: str = "sv-roadwork") -> Object:
    return rendered.one("ServingRuntime", name)["spec"]


def container(rendered: Rendered, name: str = "sv-roadwork") -> client.V1Container:
    (found,) = runtime(rendered, name)["containers"]
    return as_model(found, client.V1Container)


def proof(rendered: Rendered) -> client.V1Job:
    (job,) = rendered.of("Job")
    return as_model(job, client.V1Job)


# ServingRuntime and InferenceService


@every_way
def test_the_predictor_takes_every_argument(way: Path):
    rendered = render("predictor", files=(way,))
    for one in rendered.of("ServingRuntime"):
        (found,) = one["spec"]["containers"]
        settings = Settings.from_arguments(found["args"])
        assert (settings.http_port, settings.model_name) == (8080, "roadwork")
        assert settings.model_dir == Path("/mnt/models")
        assert settings.drain_s + settings.grace_period_s < 30


@every_way
def test_nothing_is_left_for_kserve_to_choose(way: Path):
    rendered = render("predictor", files=(way,))
    for one in rendered.of("InferenceService"):
        name, model = one["metadata"]["name"], one["spec"]["predictor"]["model"]
        assert one["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
        assert model["runtime"] == name
        assert model["protocolVersion"] == "v2"
        spec = runtime(rendered, name)
        assert spec["protocolVersions"] == ["v2"]
        (form,) = spec["supportedModelFormats"]
        assert form == {**model["modelFormat"], "autoSelect": False}
    assert {one["kind"] for one in rendered} >= {"ServingRuntime"}
    assert not rendered.of("ClusterServingRuntime")


@every_way
def test_there_is_no_canary(way: Path):
    for one in render("predictor", files=(way,)).of("InferenceService"):
        assert "canary" not in one["spec"]
        assert "canaryTrafficPercent" not in one["spec"]["predictor"]


def test_the_model_is_the_one_of_the_values_for_both():
    rendered = chart()
    assert predictor(rendered)["model"]["storageUri"] == URI
    assert predictor(rendered, "sv-roadwork-fallback")["model"]["storageUri"] == URI


@pytest.mark.parametrize(
    "uri",
    [
        URI,
        URI.rstrip("/"),
        f"s3://bucket/{SHA256}/",
        f"pvc://models/{SHA256}",
        f"pvc://models/a/b/{SHA256}/",
        f"hf://owner/name:{'0a' * 20}",
    ],
)
def test_addresses_whose_content_never_changes_are_taken(uri: str):
    assert predictor(chart({"model": {"uri": uri}}))["model"]["storageUri"] == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "s3://bucket/models/latest/",
        f"s3://bucket/{SHA256[:-1]}/",
        f"s3://bucket/{SHA256}/model.onnx",
        f"https://example.com/{SHA256}/",
        f"gs://bucket/{SHA256}/",
        "hf://owner/name",
        "hf://owner/name:main",
        "pvc://models/roadwork",
    ],
)
def test_addresses_whose_content_may_change_are_refused_in_a_sentence(uri: str):
    with pytest.raises(
        RenderError, match=r"expected an address whose content never changes, s3://BUCKET/PREFIX/SHA256/"
    ):
        chart({"model": {"uri": uri}})


# Profiles


def test_on_processors_onnx_runtime_serves_and_no_gpu_is_asked_for():
    found = container(chart())
    assert "--engine=onnx" in found.args
    assert found.image == "docker.io/streetvision/predictor:0.1.0"
    assert "nvidia.com/gpu" not in (found.resources.limits or {})
    strategy = predictor(chart())["deploymentStrategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 1, "maxUnavailable": 0}


def test_on_a_gpu_tensorrt_serves_and_a_rollout_needs_no_second_gpu():
    rendered = chart(file=GPU)
    found = container(rendered)
    assert "--engine=tensorrt" in found.args
    assert found.image == "docker.io/streetvision/predictor:0.1.0-tensorrt"
    assert found.resources.limits["nvidia.com/gpu"] == "1"
    spec = predictor(rendered)
    assert spec["deploymentStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_the_fallback_of_a_gpu_predictor_runs_on_processors():
    rendered = chart(file=GPU)
    found = container(rendered, "sv-roadwork-fallback")
    assert "--engine=onnx" in found.args
    assert found.image == "docker.io/streetvision/predictor:0.1.0"
    assert "nvidia.com/gpu" not in found.resources.limits
    spec = predictor(rendered, "sv-roadwork-fallback")
    assert not {"runtimeClassName", "nodeSelector", "tolerations"} & spec.keys()
    (engines,) = [one for one in runtime(rendered, "sv-roadwork-fallback")["volumes"] if one["name"] == "engines"]
    assert "emptyDir" in engines


def test_a_start_may_take_as_long_as_building_an_engine():
    for file, seconds in ((CPU, 120), (GPU, 1800)):
        probe = container(chart(file=file)).startup_probe
        assert probe.period_seconds * probe.failure_threshold == seconds
        assert probe.http_get.path == "/v2/health/ready"


def test_built_engines_outlive_the_pod_where_that_is_wanted():
    rendered = chart(file=GPU)
    claim = rendered.typed(client.V1PersistentVolumeClaim)
    assert (claim.metadata.name, claim.spec.access_modes) == ("sv-roadwork-engines", ["ReadWriteMany"])
    (volume,) = [one for one in runtime(rendered)["volumes"] if one["name"] == "engines"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim.metadata.name
    assert "--engine-cache=/engines" in container(rendered).args
    taken = chart({"engineCache": {"existingClaim": "mine"}}, GPU)
    assert not taken.of("PersistentVolumeClaim")
    (volume,) = [one for one in runtime(taken)["volumes"] if one["name"] == "engines"]
    assert volume["persistentVolumeClaim"]["claimName"] == "mine"


def test_a_fallback_can_be_left_out():
    rendered = chart({"fallback": {"enabled": False}})
    assert [one["metadata"]["name"] for one in rendered.of("InferenceService")] == ["sv-roadwork"]
    assert [one.name for one in proof(rendered).spec.template.spec.containers] == ["predictor"]


# How many


def test_as_many_as_wanted_and_scaled_by_kserves_autoscaler():
    rendered = chart(file=CI / "volume-values.yaml")
    spec = predictor(rendered)
    assert (spec["minReplicas"], spec["maxReplicas"], spec["scaleMetric"], spec["scaleTarget"]) == (2, 6, "cpu", 80)
    assert predictor(chart())["maxReplicas"] == 1


def test_a_disruption_budget_is_there_from_two_replicas_on():
    assert not chart().of("PodDisruptionBudget")
    budget = chart({"replicas": 2}).typed(client.V1PodDisruptionBudget)
    assert (budget.metadata.name, budget.spec.max_unavailable) == ("sv-roadwork", 1)
    assert budget.spec.selector.match_labels == {
        "app.kubernetes.io/name": "predictor",
        "app.kubernetes.io/instance": "sv",
        "app.kubernetes.io/component": "predictor",
    }
    both = chart({"replicas": 2, "fallback": {"replicas": 3}})
    assert {one["metadata"]["name"] for one in both.of("PodDisruptionBudget")} == {
        "sv-roadwork",
        "sv-roadwork-fallback",
    }


# Keys


def test_the_storage_initializer_gets_its_keys_through_the_service_account():
    rendered = chart({"hub": {"existingSecret": "hub"}})
    account = rendered.typed(client.V1ServiceAccount, "sv-roadwork")
    assert [one.name for one in account.secrets] == ["streetvision-object-store", "hub"]
    assert account.automount_service_account_token is False
    assert predictor(rendered)["serviceAccountName"] == "sv-roadwork"
    assert predictor(rendered)["automountServiceAccountToken"] is False


def test_no_key_reaches_the_predictor_itself():
    assert {one.name for one in container(chart()).env} == {"HOME"}


# Who may talk to it


def test_only_our_own_pods_of_the_namespace_may_ask():
    policy = chart().typed(client.V1NetworkPolicy)
    assert policy.spec.pod_selector.match_labels["app.kubernetes.io/instance"] == "sv"
    (expression,) = policy.spec.pod_selector.match_expressions
    assert set(expression.values) == {"predictor", "fallback"}
    (rule,) = policy.spec.ingress
    (caller,) = rule._from
    assert caller.namespace_selector is None
    assert caller.pod_selector.match_labels == {"app.kubernetes.io/part-of": "streetvision"}
    assert set(caller.pod_selector.match_expressions[0].values) == {"miner", "rollout", "test"}
    assert {port.port for port in rule.ports} == {8080, 8081}  # of the container, not of the Service
    further = chart(file=CI / "volume-values.yaml").typed(client.V1NetworkPolicy).spec.ingress[0]._from
    assert further[1].namespace_selector.match_labels == {"kubernetes.io/metadata.name": "monitoring"}


@pytest.mark.parametrize(
    ("values", "port"),
    [
        ({}, 7070),
        ({"objectStore": {"endpoint": "http://s3.example.com"}}, 80),
        ({"objectStore": {"endpoint": "https://s3.example.com"}}, 443),
        ({"model": {"uri": f"hf://owner/name:{'0a' * 20}"}}, 443),
        ({"model": {"uri": f"pvc://models/{SHA256}"}}, None),
    ],
)
def test_it_may_ask_dns_and_where_its_model_lies(values: dict[str, Any], port: int | None):
    policy = chart(values).typed(client.V1NetworkPolicy)
    ports = {one.port for rule in policy.spec.egress for one in rule.ports}
    assert ports == {53} | ({port} if port else set())


# The proof


@every_way
def test_no_release_is_called_deployed_before_it_is_proven(way: Path):
    rendered = render("predictor", files=(way,))
    if not rendered.of("Job"):
        assert way.name == "hub-values.yaml"
        return
    job = proof(rendered)
    annotations = job.metadata.annotations
    assert set(annotations["helm.sh/hook"].split(",")) == {"post-install", "post-upgrade", "post-rollback"}
    assert job.spec.backoff_limit == 0
    services = [one["metadata"]["name"] for one in rendered.of("InferenceService")]
    commands = {one.name: one.command for one in job.spec.template.spec.containers}
    uri = predictor(rendered)["model"]["storageUri"]
    for command, name in zip(
        (commands[key] for key in ("predictor", "fallback") if key in commands), sorted(services), strict=True
    ):
        assert command[:3] == ["streetvision", "rollout", f"--prove={uri}"]
        assert {"--release=sv", "--namespace=streetvision", f"--inference-service={name}"} < set(command)
        timeout_s = int(next(one for one in command if one.startswith("--timeout-s=")).partition("=")[2])
        assert timeout_s < job.spec.active_deadline_seconds


def test_the_job_of_another_model_has_another_name_so_that_a_failure_keeps_its_log():
    other = chart({"model": {"uri": URI.replace("9f86", "0000")}})
    assert proof(other).metadata.name != proof(chart()).metadata.name
    assert "before-hook-creation" in proof(chart()).metadata.annotations["helm.sh/hook-delete-policy"]
    assert proof(chart()).spec.ttl_seconds_after_finished == 3600


def test_the_proof_may_read_four_things_and_change_none():
    rendered = chart()
    role = rendered.typed(client.V1Role, "sv-roadwork-proof")
    granted = {(resource, verb) for rule in role.rules for resource in rule.resources for verb in rule.verbs}
    assert granted == {("deployments", "get"), ("inferenceservices", "get"), ("pods", "list"), ("pods/log", "get")}
    binding = rendered.typed(client.V1RoleBinding)
    assert (binding.role_ref.name, binding.subjects[0].name) == ("sv-roadwork-proof", "sv-roadwork-proof")
    assert proof(rendered).spec.template.spec.service_account_name == "sv-roadwork-proof"


def test_helm_test_expects_the_very_model():
    (pod,) = chart().of("Pod")
    args = pod["spec"]["containers"][0]["args"]
    assert f"--version={SHA256[:12]}" in args
    assert args[-2:] == ["http://sv-roadwork-predictor", "http://sv-roadwork-fallback-predictor"]


# What is refused


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"replicas": 3, "autoscaling": {"maxReplicas": 2}}, "autoscaling.maxReplicas is 2 and replicas is 3"),
        ({"engineCache": {"persistent": True}}, "engineCache names a claim and profile is cpu"),
        ({"proof": {"timeoutSeconds": 60}}, "proof.timeoutSeconds is 60 and a start may take 120 s"),
        ({"profile": "gpu"}, "proof.timeoutSeconds is 600 and a start may take 1800 s"),
        ({"fullnameOverride": "a" * 45}, "expected 44 characters at most"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(values: dict[str, Any], sentence: str):
    with pytest.raises(RenderError, match=sentence):
        chart(values)


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"profile": "tpu"}, "profile"),
        ({"replicas": 0}, "replicas"),
        ({"model": {"url": "s3://a"}}, "url"),
        ({"gpu": {"count": "many"}}, "count"),
        ({"image": {"digest": "sha1:abc"}}, "digest"),
        ({"resources": {"requests": {"cpu": "lots"}}}, "cpu"),
    ],
)
def test_the_schema_refuses_other_values(values: dict[str, Any], path: str):
    with pytest.raises(RenderError, match=path):
        chart(values)


def test_labels_of_the_service_reach_its_pods_and_a_monitor_finds_them():
    rendered = chart()
    monitor = rendered.one("ServiceMonitor")["spec"]
    labels = service(rendered)["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels["app.kubernetes.io/component"] in monitor["selector"]["matchExpressions"][0]["values"]
    assert monitor["endpoints"][0] == {"targetPort": 8080, "path": "/metrics", "interval": "30s"}
