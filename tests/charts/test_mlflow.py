import json
import re
import warnings
from pathlib import Path
from typing import Any

import click
import mlflow.environment_variables
import pytest
from kubernetes import client

from tests.charts.render import CHARTS, Rendered, RenderError, as_model, render

CI = CHARTS / "mlflow" / "ci"
WAYS = sorted(CI.glob("*-values.yaml"))
STORE = {"bucket": "models", "endpoint": "http://s3.storage:7070", "existingSecret": "streetvision-object-store"}

every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name.removesuffix("-values.yaml"))


def server(rendered: Rendered) -> client.V1Container:
    (container,) = pod(rendered).containers
    return container


def pod(rendered: Rendered) -> client.V1PodSpec:
    return rendered.typed(client.V1Deployment).spec.template.spec


def environment(container: client.V1Container) -> dict[str, str | client.V1EnvVarSource]:
    return {one.name: one.value if one.value_from is None else one.value_from for one in container.env}


def flag(container: client.V1Container, name: str) -> str | None:
    found = [one.partition("=")[2] for one in container.args if one.split("=")[0] == f"--{name}"]
    assert len(found) < 2
    return found[0] if found else None


def volumes(spec: client.V1PodSpec) -> dict[str, client.V1Volume]:
    return {volume.name: volume for volume in spec.volumes}


@pytest.fixture(scope="module")
def server_command() -> click.Command:
    """`mlflow server` as the installed MLflow has it."""
    with warnings.catch_warnings(action="ignore"):
        from mlflow.cli import server
    return server


# What is rendered


@every_way
def test_the_installed_mlflow_takes_every_argument(way: Path, server_command: click.Command) -> None:
    args = server(render("mlflow", files=(way,))).args
    assert args[0] == "server"
    given = server_command.make_context("server", list(args[1:]))
    assert (given.params["host"], given.params["port"]) == ("0.0.0.0", 5000)
    assert int(given.params["workers"]) >= 1


@every_way
def test_every_environment_variable_is_one_that_somebody_reads(way: Path, server_command: click.Command) -> None:
    of_mlflow = {option.envvar for option in server_command.params if option.envvar}
    of_mlflow |= {name for name in dir(mlflow.environment_variables) if name.startswith("MLFLOW_")}
    others = {"HOME", "POD_IP", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    others |= {"AWS_REGION", "AWS_DEFAULT_REGION"}
    rendered = render("mlflow", files=(way,))
    specs = [pod(rendered), as_model(rendered.one("Pod")["spec"], client.V1PodSpec)]
    specs += [as_model(one, client.V1CronJob).spec.job_template.spec.template.spec for one in rendered.of("CronJob")]
    for spec in specs:
        for container in [*spec.containers, *(spec.init_containers or [])]:
            assert {one.name for one in container.env or []} <= of_mlflow | others, container.name


def test_the_address_of_the_database_and_passwords_are_in_no_argument() -> None:
    rendered = render("mlflow", files=(CI / "postgresql-values.yaml",))
    (prepare,) = pod(rendered).init_containers
    for container in (server(rendered), prepare):
        assert "postgresql" not in " ".join(container.args)
        key = environment(container)["MLFLOW_BACKEND_STORE_URI"].secret_key_ref
        assert (key.name, key.key) == ("mlflow-database", "uri")
        for name in ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
            assert environment(container)[name].secret_key_ref.name == "mlflow-auth"
    assert prepare.command == ["python", "/programs/database.py"]
    assert flag(server(rendered), "app-name") == "basic-auth"


def test_every_name_of_the_service_is_allowed_with_and_without_a_port() -> None:
    hosts = (flag(server(render("mlflow")), "allowed-hosts") or "").split(",")
    names = ["sv-mlflow", "sv-mlflow.streetvision", "sv-mlflow.streetvision.svc"]
    for name in [*names, "sv-mlflow.streetvision.svc.cluster.local", "localhost", "127.0.0.1"]:
        assert name in hosts
        assert f"{name}:*" in hosts
    assert "$(POD_IP):5000" in hosts  # Prometheus asks the pod
    assert "POD_IP" in environment(server(render("mlflow")))
    assert not {"*", "10.*"} & set(hosts)


def test_further_names_and_the_ingress_are_allowed_too() -> None:
    ingress = {"enabled": True, "hosts": ["mlflow.example.com"], "tlsSecret": "tls"}
    values = {
        "server": {"allowedHosts": ["other:5000"], "allowedOrigins": ["https://portal.example.com"]},
        "clusterDomain": "example.internal",
        "ingress": ingress,
    }
    container = server(render("mlflow", values))
    hosts = (flag(container, "allowed-hosts") or "").split(",")
    assert {"other:5000", "mlflow.example.com", "sv-mlflow.streetvision.svc.example.internal:*"} <= set(hosts)
    assert flag(container, "cors-allowed-origins") == "https://portal.example.com,https://mlflow.example.com"
    plain = server(render("mlflow", {"ingress": ingress | {"tlsSecret": ""}}))
    assert flag(plain, "cors-allowed-origins") == "http://mlflow.example.com"
    assert flag(server(render("mlflow")), "cors-allowed-origins") is None


def test_jobs_and_telemetry_are_off() -> None:
    given = environment(server(render("mlflow")))
    assert given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert given["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_sqlite_lies_on_a_claim_that_one_server_at_a_time_opens() -> None:
    rendered = render("mlflow")
    deployment = rendered.typed(client.V1Deployment)
    assert deployment.spec.strategy.type == "Recreate"
    assert environment(server(rendered))["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////data/mlflow.db"
    assert volumes(pod(rendered))["data"].persistent_volume_claim.claim_name == "sv-mlflow"
    claim = rendered.typed(client.V1PersistentVolumeClaim)
    assert claim.spec.resources.requests == {"storage": "10Gi"}
    assert claim.metadata.annotations["helm.sh/resource-policy"] == "keep"
    assert flag(server(rendered), "artifacts-destination") == "/data/artifacts"


def test_a_claim_of_somebody_else_is_used_and_none_is_made() -> None:
    rendered = render("mlflow", {"persistence": {"existingClaim": "theirs"}})
    assert rendered.of("PersistentVolumeClaim") == []
    assert volumes(pod(rendered))["data"].persistent_volume_claim.claim_name == "theirs"
    mine = render("mlflow", {"persistence": {"keep": False}}).one("PersistentVolumeClaim")
    assert "annotations" not in mine["metadata"]


def test_with_postgresql_and_a_bucket_there_is_no_volume_and_no_gap() -> None:
    rendered = render("mlflow", files=(CI / "postgresql-values.yaml",))
    assert rendered.of("PersistentVolumeClaim") == []
    strategy = rendered.typed(client.V1Deployment).spec.strategy
    assert (strategy.type, strategy.rolling_update.max_unavailable) == ("RollingUpdate", 0)
    assert "data" not in volumes(pod(rendered))


def test_the_object_store_of_the_umbrella_serves_and_the_charts_own_goes_before_it() -> None:
    rendered = render("mlflow", {"global": {"objectStore": STORE}})
    given = environment(server(rendered))
    assert flag(server(rendered), "artifacts-destination") == "s3://models/mlflow"
    assert given["AWS_ENDPOINT_URL"] == "http://s3.storage:7070"
    assert given["AWS_SECRET_ACCESS_KEY"].secret_key_ref.name == "streetvision-object-store"
    own = render("mlflow", {"global": {"objectStore": STORE}, "objectStore": {"bucket": "own", "region": "eu-west-1"}})
    assert flag(server(own), "artifacts-destination") == "s3://own/mlflow"
    assert environment(server(own))["AWS_DEFAULT_REGION"] == "eu-west-1"  # AWS_REGION is nothing to boto3


def test_a_database_of_somebody_else_is_not_upgraded() -> None:
    assert "--upgrade" in pod(render("mlflow")).init_containers[0].args
    assert pod(render("mlflow", {"database": {"upgrade": False}})).init_containers is None
    rendered = render("mlflow", {"database": {"upgrade": False}, "auth": {"existingSecret": "mlflow-auth"}})
    assert "--upgrade" not in pod(rendered).init_containers[0].args


def test_what_users_may_do_by_default_is_what_the_installed_mlflow_knows() -> None:
    with warnings.catch_warnings(action="ignore"):
        from mlflow.server.auth.permissions import ALL_PERMISSIONS
    schema = json.loads((CHARTS / "mlflow/values.schema.json").read_text())
    allowed = set(schema["properties"]["auth"]["properties"]["defaultPermission"]["enum"])
    assert allowed <= set(ALL_PERMISSIONS)


def test_health_is_asked_where_no_password_and_no_name_is_needed() -> None:
    container = server(render("mlflow", files=(CI / "postgresql-values.yaml",)))
    for probe in (container.startup_probe, container.readiness_probe, container.liveness_probe):
        assert (probe.http_get.path, probe.http_get.port, probe.http_get.http_headers) == ("/health", "http", None)
    assert container.startup_probe.period_seconds * container.startup_probe.failure_threshold >= 300
    patient = server(render("mlflow", {"startupSeconds": 900})).startup_probe
    assert patient.period_seconds * patient.failure_threshold == 900


def test_a_budget_comes_with_two_servers() -> None:
    assert render("mlflow").of("PodDisruptionBudget") == []
    rendered = render("mlflow", files=(CI / "postgresql-values.yaml",))
    budget = rendered.typed(client.V1PodDisruptionBudget)
    labels = rendered.typed(client.V1Deployment).spec.template.metadata.labels
    assert budget.spec.selector.match_labels.items() <= labels.items()
    assert budget.spec.max_unavailable == 1


def test_the_backup_copies_the_database_that_the_server_writes() -> None:
    rendered = render("mlflow", files=(CI / "s3-values.yaml",))
    job = rendered.typed(client.V1CronJob)
    spec = job.spec.job_template.spec.template.spec
    (container,) = spec.containers
    assert job.spec.concurrency_policy == "Forbid"
    assert container.command == ["python", "/programs/database.py"]
    assert container.args == ["backup", "--to=s3://streetvision/mlflow-backups/streetvision-sv-mlflow", "--keep=7"]
    assert (
        environment(container)["MLFLOW_BACKEND_STORE_URI"] == environment(server(rendered))["MLFLOW_BACKEND_STORE_URI"]
    )
    assert volumes(spec)["data"] == volumes(pod(rendered))["data"]
    (term,) = spec.affinity.pod_affinity.required_during_scheduling_ignored_during_execution
    server_labels = rendered.typed(client.V1Deployment).spec.template.metadata.labels
    backup_labels = job.spec.job_template.spec.template.metadata.labels
    assert term.label_selector.match_labels.items() <= server_labels.items()
    assert not term.label_selector.match_labels.items() <= backup_labels.items()


def test_the_backup_of_a_postgresql_runs_anywhere() -> None:
    job = render("mlflow", files=(CI / "postgresql-values.yaml",)).typed(client.V1CronJob)
    spec = job.spec.job_template.spec.template.spec
    assert spec.affinity is None
    assert "data" not in volumes(spec)


def test_prometheus_gets_metrics_by_name_and_password() -> None:
    values = {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}}
    rendered = render("mlflow", values | {"auth": {"existingSecret": "mlflow-auth"}})
    monitor = rendered.one("ServiceMonitor")
    service = rendered.typed(client.V1Service)
    (endpoint,) = monitor["spec"]["endpoints"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service.metadata.labels.items()
    assert endpoint["port"] in [port.name for port in service.spec.ports]
    assert endpoint["basicAuth"]["password"] == {"name": "mlflow-auth", "key": "MLFLOW_TRACKING_PASSWORD"}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    mounts = {mount.mount_path for mount in server(rendered).volume_mounts}
    assert flag(server(rendered), "expose-prometheus") in mounts


def test_traffic_is_let_in_on_the_servers_port_and_out_where_it_must_go() -> None:
    rendered = render("mlflow", files=(CI / "postgresql-values.yaml",))
    policy = rendered.typed(client.V1NetworkPolicy).spec
    (rule,) = policy.ingress
    assert [port.port for port in rule.ports] == ["http"]
    assert rule._from[0].pod_selector.match_labels is None
    assert rule._from[1].namespace_selector.match_labels == {"kubernetes.io/metadata.name": "kubeflow"}
    assert {port.port for one in policy.egress for port in one.ports} == {53, 443, 5432}
    in_cluster = render("mlflow", files=(CI / "s3-values.yaml",)).typed(client.V1NetworkPolicy).spec
    assert {port.port for one in in_cluster.egress for port in one.ports} == {53, 7070}
    pods = {one.key: set(one.values) for one in policy.pod_selector.match_expressions}
    assert pods == {"app.kubernetes.io/component": {"server", "backup"}}


@pytest.mark.parametrize(
    ("endpoint", "port"), [("http://s3.example.com", 80), ("https://s3.example.com", 443), ("", 443)]
)
def test_the_port_of_the_bucket_is_that_of_its_address(endpoint: str, port: int) -> None:
    policy = render("mlflow", {"objectStore": STORE | {"endpoint": endpoint}}).typed(client.V1NetworkPolicy).spec
    assert {port.port for one in policy.egress for port in one.ports} == {53, port}


# What is refused


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"replicas": 2},
            "replicas is 2 and the database is SQLite, which only one server may open: set replicas to 1, or "
            "database.existingSecret to a Secret with the address of a PostgreSQL",
        ),
        (
            {"replicas": 2, "database": {"existingSecret": "db"}},
            "replicas is 2 and artifacts lie on the volume of one server: set objectStore.bucket, or replicas to 1",
        ),
        (
            {"backup": {"enabled": True}},
            "there is no bucket to copy to: set objectStore.bucket, or backup.enabled to false",
        ),
        (
            {
                "backup": {"enabled": True},
                "objectStore": STORE,
                "persistence": {"accessModes": ["ReadWriteOncePod"]},
            },
            "persistence.accessModes has ReadWriteOncePod, which lets no second pod read the database: expected "
            "ReadWriteOnce or ReadWriteMany",
        ),
        (
            {"backup": {"enabled": True}, "objectStore": STORE, "persistence": {"enabled": False}},
            "the database is SQLite in the pod itself, where a backup cannot reach it: set persistence.enabled to true",
        ),
        (
            {"ingress": {"enabled": True}},
            "ingress.hosts is empty, expected the names that clients ask for: MLflow refuses every other",
        ),
        (
            {"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}},
            "metrics.enabled is false: set both to true, or the first to false",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RenderError, match=re.escape(sentence)):
        render("mlflow", values)


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": "2"},
        {"server": {"workers": 0}},
        {"server": {"worker": 2}},
        {"server": {"allowedHosts": ["http://mlflow.example.com"]}},
        {"server": {"allowedOrigins": ["mlflow.example.com"]}},
        {"database": {"uri": "postgresql://user:password@host/db"}},
        {"auth": {"password": "x"}},
        {"auth": {"defaultPermission": "WRITE"}},
        {"backup": {"schedule": "every day"}},
        {"backup": {"keep": 0}},
        {"objectStore": {"bucket": "Upper_Case"}},
        {"objectStore": {"endpoint": "s3.example.com:9000"}},
        {"persistence": {"size": "ten"}},
        {"service": {"port": 0}},
        {"image": {"digest": "latest"}},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses(values: dict[str, Any]) -> None:
    path = ".".join(_path(values))
    with pytest.raises(RenderError, match="values don't meet the specifications") as refused:
        render("mlflow", values)
    assert path.split(".")[0] in str(refused.value)


def _path(values: Any) -> list[str]:
    return [key for key, value in values.items() for key in [key, *(_path(value) if isinstance(value, dict) else [])]]
