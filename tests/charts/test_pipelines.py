import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from pipelines import placement
from pipelines.__main__ import main
from pipelines.catalogue import PIPELINES
from streetvision.cli import _parser
from tests.charts.render import CHARTS, Rendered, RenderError, as_model, render

CI = CHARTS / "pipelines" / "ci"
WAYS = sorted(CI.glob("*-values.yaml"))
DEFAULT, MULTI_USER, ROLLOUT_ONLY = (CI / f"{name}-values.yaml" for name in ("default", "multi-user", "rollout-only"))
STORE = {"bucket": "streetvision"}
LEAST = {"mlflow": {"url": "http://mlflow:5000"}, "objectStore": STORE}
ENABLED = {"name": "retrain", "pipeline": "retrain", "cron": "0 3 * * 0"}

every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name.removesuffix("-values.yaml"))


def job(rendered: Rendered, name: str) -> client.V1PodSpec:
    return rendered.typed(client.V1Job, name).spec.template.spec


def rollout(rendered: Rendered) -> client.V1PodSpec:
    return rendered.typed(client.V1CronJob).spec.job_template.spec.template.spec


def environment(container: client.V1Container) -> dict[str, str | client.V1EnvVarSource]:
    return {one.name: one.value if one.value_from is None else one.value_from for one in container.env}


def file(rendered: Rendered, name: str) -> Any:
    return yaml.safe_load(rendered.one("ConfigMap")["data"][name])


def role(rendered: Rendered, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What a Role allows, by group and resource."""
    return {
        (group, resource): rule
        for rule in rendered.one("Role", name)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


# Upload and recurring runs


def test_the_hook_uploads_and_then_schedules_after_install_upgrade_and_rollback() -> None:
    rendered = render("pipelines", files=(DEFAULT,))
    hook = rendered.one("Job", "sv-pipelines-upload")["metadata"]["annotations"]
    assert set(hook["helm.sh/hook"].split(",")) == {"post-install", "post-upgrade", "post-rollback"}
    spec = job(rendered, "sv-pipelines-upload")
    (first,), (then,) = spec.init_containers, spec.containers
    assert (first.command, first.args) == (["python", "-m", "pipelines"], ["upload"])
    assert (then.command, then.args) == (
        ["python", "-m", "pipelines"],
        ["schedule", "/etc/streetvision/recurring-runs.yaml"],
    )
    assert environment(first) == environment(then)


def test_recurring_runs_are_deleted_with_the_release_and_nothing_else_is() -> None:
    rendered = render("pipelines", files=(DEFAULT,))
    hook = rendered.one("Job", "sv-pipelines-unschedule")["metadata"]["annotations"]["helm.sh/hook"]
    assert hook == "pre-delete"
    (container,) = job(rendered, "sv-pipelines-unschedule").containers
    assert container.args == ["schedule", "/etc/streetvision/none.yaml"]
    assert file(rendered, "none.yaml") == []
    upload = job(rendered, "sv-pipelines-upload").containers[0]
    assert environment(container)["STREETVISION_KFP_OWNER"] == environment(upload)["STREETVISION_KFP_OWNER"]
    kept = render("pipelines", {"upload": {"deleteRecurringRuns": False}}, files=(DEFAULT,))
    assert "sv-pipelines-unschedule" not in [one["metadata"]["name"] for one in kept.of("Job")]


def test_two_releases_never_own_the_same_recurring_runs() -> None:
    owners = {
        environment(job(rendered, f"{release}-pipelines-upload").containers[0])["STREETVISION_KFP_OWNER"]
        for release, namespace in (("a", "one"), ("b", "one"), ("a", "two"))
        for rendered in [render("pipelines", files=(DEFAULT,), release=release, namespace=namespace)]
    }
    assert len(owners) == 3


def test_recurring_runs_reach_the_program_as_the_values_list_them() -> None:
    assert file(render("pipelines", LEAST), "recurring-runs.yaml") == []
    run = ENABLED | {"enabled": False, "parameters": {"scenes": 1200, "submitted_by": "5F"}}
    rendered = render("pipelines", LEAST | {"recurringRuns": [run]})
    assert file(rendered, "recurring-runs.yaml") == [run]


@every_way
def test_every_parameter_is_one_that_the_pipeline_declares(way: Path) -> None:
    rendered = render("pipelines", files=(way,))
    shared = file(rendered, "parameters.yaml")
    for run in file(rendered, "recurring-runs.yaml"):
        declared = PIPELINES[run["pipeline"]].component_spec.inputs
        assert shared.keys() | run.get("parameters", {}).keys() <= declared.keys()


def test_what_the_chart_knows_is_in_the_parameters_and_the_values_go_before_it() -> None:
    assert file(render("pipelines", files=(DEFAULT,)), "parameters.yaml") == {
        "tracking_uri": "http://sv-mlflow.streetvision:5000",
        "models_uri": "s3://streetvision/models/roadwork",
        "submitted_by": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
        "hub": "hf:example/roadwork",
        "gpus": "1",
        "node_selector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
        "rollout": "streetvision/sv-pipelines-rollout",
    }
    values = {"parameters": {"models_uri": "s3://other/models"}}
    assert file(render("pipelines", values, files=(DEFAULT,)), "parameters.yaml")["models_uri"] == "s3://other/models"
    without = render("pipelines", {"rollout": {"enabled": False}}, files=(DEFAULT,))
    assert "rollout" not in file(without, "parameters.yaml")
    assert "gpus" not in file(render("pipelines", LEAST), "parameters.yaml")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The variables that our programs read, as their help and sources name them."""
    said = io.StringIO()
    for command in ("upload", "schedule"):
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
            main([command, "--help"])
    sources = "".join(path.read_text() for path in (CHARTS.parent / "components").glob("*.py"))
    libraries = {"HOME", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    return set(re.findall(r"\bSTREETVISION_[A-Z_]+\b", said.getvalue() + sources)) | libraries


@every_way
def test_every_variable_is_one_that_our_programs_read(way: Path, known: set[str]) -> None:
    rendered = render("pipelines", files=(way,))
    specs = [rollout(rendered), *(as_model(one["spec"], client.V1PodSpec) for one in rendered.of("Pod"))]
    specs += [as_model(one, client.V1Job).spec.template.spec for one in rendered.of("Job")]
    for spec in specs:
        for container in [*spec.containers, *(spec.init_containers or [])]:
            assert {one.name for one in container.env or []} <= known, container.name


def test_images_of_a_mirror_or_of_another_tag_reach_the_steps() -> None:
    def images(values: dict[str, Any]) -> tuple[Any, Any]:
        rendered = render("pipelines", values, files=(DEFAULT,))
        given = environment(job(rendered, "sv-pipelines-upload").containers[0])
        return given.get("STREETVISION_IMAGE_PREFIX"), given.get("STREETVISION_IMAGE_TAG")

    assert images({}) == (None, None)  # the compiled pipelines as they are committed
    assert images({"image": {"tag": "0.1.1"}}) == ("docker.io/streetvision", "0.1.1")
    assert images({"global": {"imageRegistry": "mirror:5000"}}) == ("mirror:5000/streetvision", "0.1.0")


def test_a_kubeflow_of_several_users_gets_a_token_of_its_audience() -> None:
    rendered = render("pipelines", files=(MULTI_USER,))
    spec = job(rendered, "sv-pipelines-upload")
    (token,) = [volume.projected.sources[0].service_account_token for volume in spec.volumes if volume.projected]
    assert token.audience == "pipelines.kubeflow.org"
    given = environment(spec.containers[0])
    mounts = {mount.name: mount.mount_path for mount in spec.containers[0].volume_mounts}
    assert given["STREETVISION_KFP_TOKEN_FILE"] == f"{mounts['token']}/{token.path}"
    assert given["STREETVISION_KFP_NAMESPACE"] == "team-vision"
    assert spec.automount_service_account_token is False
    assert not any(
        volume.projected for volume in job(render("pipelines", files=(DEFAULT,)), "sv-pipelines-upload").volumes
    )


def test_helm_test_asks_for_these_very_pipelines() -> None:
    rendered = render("pipelines", files=(DEFAULT,))
    (container,) = as_model(rendered.one("Pod")["spec"], client.V1PodSpec).containers
    assert container.args == ["upload", "--check"]
    upload = job(rendered, "sv-pipelines-upload").containers[0]
    assert environment(container) == environment(upload)


# Steps


def test_the_claim_is_the_one_that_the_pipelines_mount_where_the_steps_run() -> None:
    claim = render("pipelines", files=(DEFAULT,)).typed(client.V1PersistentVolumeClaim)
    assert claim.metadata.name == placement.WORKSPACE_CLAIM
    assert claim.metadata.namespace == "kubeflow"
    assert claim.metadata.annotations == {"helm.sh/resource-policy": "keep"}
    assert render("pipelines", files=(MULTI_USER,)).of("PersistentVolumeClaim") == []


def test_the_readme_names_the_secrets_and_keys_that_steps_take() -> None:
    text = (CHARTS / "pipelines/README.md").read_text()
    taken = {placement.OBJECT_STORE_SECRET, placement.MLFLOW_SECRET, placement.HUB_SECRET, placement.WORKSPACE_CLAIM}
    taken |= {*placement._OBJECT_STORE_KEYS, *placement._MLFLOW_KEYS} - {"AWS_REGION"}
    assert {name for name in taken if name not in text} == set()


def test_the_workspace_is_bound_and_writable_before_a_step_needs_it() -> None:
    rendered = render("pipelines", {"nodeSelector": {"pool": "cpu"}}, files=(DEFAULT,))
    (found,) = [one for one in rendered.of("Job") if one["metadata"]["namespace"] == "kubeflow"]
    spec = as_model(found, client.V1Job).spec.template.spec
    (volume,) = [one for one in spec.volumes if one.persistent_volume_claim]
    assert volume.persistent_volume_claim.claim_name == placement.WORKSPACE_CLAIM
    assert (spec.security_context.run_as_user, spec.security_context.fs_group) == (10001, 10001)
    assert spec.node_selector == {"nvidia.com/gpu.product": "NVIDIA-L4"}  # in the zone of the steps with GPUs
    assert "nvidia.com/gpu" in [one.key for one in spec.tolerations]
    assert file(rendered, "parameters.yaml")["node_selector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert render("pipelines", {"workspace": {"create": False}}, files=(DEFAULT,)).of("Job")[0] != found


def test_a_changed_workspace_job_is_another_one_as_jobs_cannot_be_changed() -> None:
    def name(values: dict[str, Any]) -> str:
        jobs = render("pipelines", values, files=(DEFAULT,)).of("Job")
        (found,) = [one["metadata"]["name"] for one in jobs if one["metadata"]["namespace"] == "kubeflow"]
        return found

    assert name({}) == name({"rollout": {"schedule": "0 * * * *"}})
    assert name({}) != name({"image": {"tag": "0.1.1"}})


def test_the_rollout_may_send_what_lies_beside_the_steps_again_and_no_more() -> None:
    rendered = render("pipelines", files=(DEFAULT,))
    there = {(one["kind"], one["metadata"]["name"]) for one in rendered if one["metadata"]["namespace"] == "kubeflow"}
    *watched, named = rendered.one("Role", "sv-pipelines-upgrade")["rules"]
    assert {name for _, name in there} == set(named["resourceNames"])
    assert {f"{kind.lower()}s" for kind, _ in there} == set(named["resources"])
    assert named["verbs"] == ["get", "update", "patch"]
    assert {resource for rule in watched for resource in rule["resources"]} == set(named["resources"])
    assert all(rule["verbs"] == ["list", "watch"] for rule in watched)
    (subject,) = rendered.one("RoleBinding", "sv-pipelines-upgrade")["subjects"]
    assert (subject["name"], subject["namespace"]) == ("sv-pipelines-rollout", "streetvision")
    together = render("pipelines", {"kfp": {"namespace": "streetvision"}}, files=(DEFAULT,))
    assert "sv-pipelines-upgrade" not in {one["metadata"]["name"] for one in together.of("Role")}


def test_steps_may_do_what_argo_the_launcher_and_the_lock_need_and_no_more() -> None:
    rendered = render("pipelines", files=(DEFAULT,))
    allowed = role(rendered, "sv-pipelines-steps")
    assert {key: set(rule["verbs"]) for key, rule in allowed.items()} == {
        ("argoproj.io", "workflowtaskresults"): {"create", "patch"},
        ("", "configmaps"): {"get"},
        ("", "pods"): {"get"},
        ("", "secrets"): {"get"},
    }
    assert allowed["", "configmaps"]["resourceNames"] == ["kfp-launcher"]
    assert allowed["", "secrets"]["resourceNames"] == ["mlpipeline-minio-artifact"]


def test_the_step_push_may_lock_and_start_the_rollout_and_not_do_it() -> None:
    allowed = role(render("pipelines", files=(DEFAULT,)), "sv-pipelines-push")
    assert {key: set(rule["verbs"]) for key, rule in allowed.items()} == {
        ("coordination.k8s.io", "leases"): {"get", "create", "update"},
        ("batch", "cronjobs"): {"get"},
        ("batch", "jobs"): {"get", "create"},
        ("", "pods"): {"list"},
        ("", "pods/log"): {"get"},
    }
    assert allowed["batch", "cronjobs"]["resourceNames"] == ["sv-pipelines-rollout"]
    without = render("pipelines", {"rollout": {"enabled": False}}, files=(DEFAULT,))
    assert role(without, "sv-pipelines-push").keys() == {("coordination.k8s.io", "leases")}


def test_rights_are_bound_where_they_are_used_to_the_account_that_the_runs_get() -> None:
    rendered = render("pipelines", files=(DEFAULT,))
    account = rendered.one("ServiceAccount", "sv-pipelines-steps")["metadata"]
    upload = environment(job(rendered, "sv-pipelines-upload").containers[0])
    assert upload["STREETVISION_KFP_SERVICE_ACCOUNT"] == account["name"]
    for name, namespace in (("sv-pipelines-steps", "kubeflow"), ("sv-pipelines-push", "streetvision")):
        binding = rendered.one("RoleBinding", name)
        assert binding["metadata"]["namespace"] == rendered.one("Role", name)["metadata"]["namespace"] == namespace
        assert binding["roleRef"]["name"] == name
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": "kubeflow"}]


def test_an_account_of_somebody_else_is_named_and_not_made() -> None:
    rendered = render("pipelines", files=(MULTI_USER,))
    assert {one["metadata"]["name"] for one in rendered.of("ServiceAccount")} == {
        "sv-pipelines",
        "sv-pipelines-rollout",
    }
    upload = environment(job(rendered, "sv-pipelines-upload").containers[0])
    assert upload["STREETVISION_KFP_SERVICE_ACCOUNT"] == "default-editor"


# Rollout


def test_one_rollout_at_a_time_ends_in_time_and_is_not_tried_again_blindly() -> None:
    spec = render("pipelines", files=(DEFAULT,)).typed(client.V1CronJob).spec
    assert (spec.schedule, spec.time_zone, spec.suspend) == ("*/15 * * * *", "Etc/UTC", False)
    assert spec.concurrency_policy == "Forbid"
    assert spec.job_template.spec.backoff_limit == 0
    assert spec.job_template.spec.active_deadline_seconds == 3 * 1200 + 120
    assert (spec.successful_jobs_history_limit, spec.failed_jobs_history_limit) == (3, 3)
    assert render("pipelines", files=(MULTI_USER,)).typed(client.V1CronJob).spec.suspend is True


def test_the_rollout_upgrades_the_release_it_is_told_from_the_registry_it_is_told() -> None:
    (container,) = rollout(render("pipelines", files=(DEFAULT,))).containers
    assert container.command == ["streetvision", "rollout"]
    assert {"--release=sv", "--namespace=streetvision", "--alias=champion", "--timeout-s=1200"} <= set(container.args)
    given = environment(container)
    assert given["MLFLOW_TRACKING_URI"] == "http://sv-mlflow.streetvision:5000"
    (other,) = rollout(render("pipelines", files=(MULTI_USER,))).containers
    assert "--release=streetvision" in other.args
    assert environment(other)["MLFLOW_TRACKING_PASSWORD"].secret_key_ref.name == "streetvision-mlflow"
    (alone,) = rollout(render("pipelines", files=(ROLLOUT_ONLY,))).containers
    assert {"--chart=/app/charts/predictor", "--inference-service=roadwork"} <= set(alone.args)
    for one, way in ((container, "streetvision"), (alone, "predictor")):
        assert f"--chart=/app/charts/{way}" in one.args
        assert (CHARTS / way).is_dir()


@every_way
def test_the_command_line_takes_the_rollouts_arguments(way: Path) -> None:
    (container,) = rollout(render("pipelines", files=(way,))).containers
    program, *command = [*container.command, *container.args]
    assert program == "streetvision"
    given = _parser().parse_args(command)
    assert (given.release, given.namespace) in {("sv", "streetvision"), ("streetvision", "streetvision")}
    assert (given.alias, given.timeout_s, given.json) == ("champion", 1200.0, True)
    assert given.prove is None


def test_only_the_rollout_may_upgrade_and_only_in_its_namespace() -> None:
    rendered = render("pipelines", files=(DEFAULT,))
    assert rendered.of("ClusterRole") == rendered.of("ClusterRoleBinding") == []
    allowed = role(rendered, "sv-pipelines-rollout")
    assert {"get", "patch"} <= set(allowed["serving.kserve.io", "inferenceservices"]["verbs"])
    assert {"get", "list", "create", "update"} <= set(allowed["", "secrets"]["verbs"])
    binding = rendered.one("RoleBinding", "sv-pipelines-rollout")
    assert binding["metadata"]["namespace"] == "streetvision"
    assert [one["name"] for one in binding["subjects"]] == ["sv-pipelines-rollout"]
    assert rollout(rendered).service_account_name == "sv-pipelines-rollout"
    assert "*" not in json.dumps(rendered.of("Role"))


def test_without_the_rollout_there_are_no_rights_for_it() -> None:
    rendered = render("pipelines", {"rollout": {"enabled": False}}, files=(DEFAULT,))
    assert rendered.of("CronJob") == []
    assert {one["metadata"]["name"] for one in rendered.of("Role")} == {"sv-pipelines-steps", "sv-pipelines-push"}


def test_a_cluster_without_kubeflow_has_the_rollout_alone() -> None:
    rendered = render("pipelines", files=(ROLLOUT_ONLY,))
    assert rendered.of("Job") == []
    assert {one["metadata"]["namespace"] for one in rendered} == {"streetvision"}


# What is refused


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"rollout": {"enabled": True}},
            "rollout.enabled is true and mlflow.url is empty, expected the address of the registry: set mlflow.url, or "
            "rollout.enabled to false",
        ),
        (
            LEAST | {"recurringRuns": [ENABLED, ENABLED | {"cron": "0 4 * * 0"}], "parameters": {"submitted_by": "5F"}},
            "two entries of recurringRuns are called `retrain`, expected names of their own",
        ),
        (
            LEAST | {"recurringRuns": [ENABLED]},
            "the recurring run `retrain` has no parameter submitted_by: set parameters.submitted_by, or leave "
            "the run out",
        ),
        (
            {"mlflow": LEAST["mlflow"], "recurringRuns": [ENABLED], "parameters": {"submitted_by": "5F"}},
            "the recurring run `retrain` has no parameter models_uri: set objectStore.bucket, or leave the run out",
        ),
        (
            {
                "objectStore": STORE,
                "rollout": {"enabled": False},
                "recurringRuns": [ENABLED],
                "parameters": {"submitted_by": "5F"},
            },
            "the recurring run `retrain` has no parameter tracking_uri: set mlflow.url, or leave the run out",
        ),
        (
            LEAST | {"kfp": {"pipelineRoot": "/mnt/kfp"}},
            "kfp.pipelineRoot is `/mnt/kfp`, expected s3://BUCKET/FOLDER",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RenderError, match=re.escape(sentence)):
        render("pipelines", values)


@pytest.mark.parametrize(
    "values",
    [
        {"recurringRuns": [{"name": "retrain", "pipeline": "retrain"}]},
        {"recurringRuns": [ENABLED | {"cron": "0 0 3 * * 0"}]},  # Kubeflow would read seconds first
        {"recurringRuns": [ENABLED | {"schedule": "0 3 * * 0"}]},
        {"recurringRuns": [ENABLED | {"name": "Retrain it"}]},
        {"kfp": {"host": "ml-pipeline:8888"}},
        {"kfp": {"hosts": "http://ml-pipeline:8888"}},
        {"rollout": {"timeoutSeconds": 0}},
        {"rollout": {"schedule": "hourly"}},
        {"steps": {"gpus": "1"}},
        {"workspace": {"size": "much"}},
        {"mlflow": {"password": "x"}},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(RenderError, match="values don't meet the specifications"):
        render("pipelines", LEAST | values)
