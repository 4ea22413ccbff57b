"""The chart `mlflow` alone, for real: passwords, artifacts in S3, a killed pod, backup and restore, an uninstall."""

import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from manifests.charts import CHARTS
from manifests.cluster import ClusterError
from tests.cluster import wait
from tests.cluster.client import Client, ObjectStore
from tests.cluster.our_images import image, image_values

pytestmark = [pytest.mark.needs("storage", f"image:{image('mlflow')}"), pytest.mark.timeout(900)]

BUCKET = "streetvision"
USER = "operator"
SMALL = {"requests": {"cpu": "10m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
SERVER = "app.kubernetes.io/instance=mlflow,app.kubernetes.io/component=server"
EVERYTHING = (
    "deployments,replicasets,pods,services,configmaps,serviceaccounts,persistentvolumeclaims,cronjobs,jobs,"
    "networkpolicies,poddisruptionbudgets"
)


class Bucket:
    """What is in the S3 server of the namespace."""

    def __init__(self, cluster: Client, store: ObjectStore) -> None:
        self._cluster, self._store = cluster, store

    def create(self) -> None:
        with self._s3() as s3:
            s3.create_bucket(Bucket=BUCKET)

    def keys(self, prefix: str) -> list[str]:
        with self._s3() as s3:
            return [one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]

    @contextmanager
    def _s3(self) -> Iterator[Any]:
        with self._cluster.forwarded("service/streetvision-s3", 7070) as port:
            yield boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                aws_access_key_id=self._store.access_key_id,
                aws_secret_access_key=self._store.secret_access_key,
                region_name="us-east-1",
                config=Config(s3={"addressing_style": "path"}),
            )


@pytest.fixture(scope="module")
def bucket(namespace: Client) -> Bucket:
    found = Bucket(namespace, namespace.object_store())
    found.create()
    return found


@pytest.fixture(scope="module")
def values(namespace: Client, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQLite on a volume, artifacts and backups in S3, passwords."""
    file = tmp_path_factory.mktemp("values") / "values.yaml"
    values = {
        "image": image_values("mlflow"),
        "objectStore": {
            "bucket": BUCKET,
            "endpoint": "http://streetvision-s3:7070",
            "region": "us-east-1",
            "existingSecret": "streetvision-object-store",
        },
        "auth": {"existingSecret": "mlflow-auth"},
        "backup": {"enabled": True, "schedule": "0 0 1 1 *", "keep": 3, "resources": SMALL},
        "persistence": {"size": "1Gi", "keep": False},
        "server": {"workers": 1},
        "resources": SMALL,
        "scratchSize": "256Mi",
    }
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.fixture(scope="module")
def release(namespace: Client, values: Path) -> Client:
    """A release `mlflow` that helm found ready."""
    set_password(namespace, secrets.token_urlsafe(18))
    install = ("install", "mlflow", str(CHARTS / "mlflow"), "--values", str(values))
    namespace.helm(*install, "--wait", "--timeout=400s", timeout_s=420)
    return namespace


def set_password(cluster: Client, password: str) -> None:
    given = {
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mlflow-auth"}, "stringData": given})


def password_of(cluster: Client) -> str:
    template = "--template={{.data.MLFLOW_TRACKING_PASSWORD | base64decode}}"
    return cluster.kubectl("get", "secret", "mlflow-auth", "--output=go-template", template)


@contextmanager
def connected(cluster: Client, monkeypatch: pytest.MonkeyPatch, *, password: str | None = None) -> Iterator[str]:
    """Yields the server's address on this machine; MLflow's client has the password of the Secret, or this one."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password or password_of(cluster))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")  # the bucket is out of reach from here
    with cluster.forwarded("service/mlflow", 5000) as port:
        yield f"http://127.0.0.1:{port}"


def server_pod(cluster: Client) -> dict[str, Any]:
    (pod,) = cluster.pods(SERVER)
    return pod


def restart(cluster: Client) -> None:
    cluster.kubectl("rollout", "restart", "deployment/mlflow")
    cluster.await_rollout("deployment/mlflow", timeout_s=300)


def test_helm_test_finds_every_name_answered_and_strangers_refused(release: Client):
    said = release.helm("test", "mlflow", "--logs", "--timeout=300s", timeout_s=320)
    for url in ("http://mlflow:5000", f"http://mlflow.{release.namespace}:5000"):
        for claim in ("answers", "refuses another name", "refuses who has no password", "keeps the tag"):
            assert f"{url}: {claim}" in said


def test_the_server_runs_nothing_but_itself(release: Client):
    script = (
        "import pathlib\n"
        "for one in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    print(one.read_bytes().replace(bytes(1), b' ').decode())\n"
    )
    name = server_pod(release)["metadata"]["name"]
    running = release.kubectl("exec", name, "--container=mlflow", "--", "python", "-c", script)
    assert "mlflow" in running
    assert not re.search(r"huey|jobs", running)


def test_a_registered_model_and_its_files_outlive_a_killed_pod(
    release: Client, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "report.json").write_text('{"mcc": 0.9}')
    with connected(release, monkeypatch) as url:
        client = MlflowClient(url, url)
        run = client.create_run(client.create_experiment("roadwork"))
        client.log_metric(run.info.run_id, "mcc", 0.9)
        client.log_artifact(run.info.run_id, str(tmp_path / "report.json"))
        client.create_registered_model("roadwork")
        source = f"s3://{BUCKET}/models/roadwork/{'a' * 64}/"
        version = client.create_model_version("roadwork", source, run.info.run_id)
        client.set_registered_model_alias("roadwork", "champion", version.version)
    key = f"mlflow/{run.info.experiment_id}/{run.info.run_id}/artifacts/report.json"
    assert bucket.keys("mlflow/") == [key]

    before = server_pod(release)["metadata"]
    release.kubectl("delete", "pod", before["name"], "--grace-period=0", "--force")
    release.await_rollout("deployment/mlflow", timeout_s=300)
    assert server_pod(release)["metadata"]["uid"] != before["uid"]

    with connected(release, monkeypatch) as url:
        client = MlflowClient(url, url)
        assert client.get_model_version_by_alias("roadwork", "champion").source == source
        assert client.get_run(run.info.run_id).data.metrics == {"mcc": 0.9}
        (there := tmp_path / "there").mkdir()
        found = Path(client.download_artifacts(run.info.run_id, "report.json", str(there)))
        assert json.loads(found.read_text()) == {"mcc": 0.9}


def test_a_pod_fetches_a_runs_file_from_the_bucket_by_an_address_that_the_server_signed(release: Client):
    script = (
        "import mlflow\n"
        "client = mlflow.MlflowClient()\n"
        "run = client.get_model_version_by_alias('roadwork', 'champion').run_id\n"
        "print(open(client.download_artifacts(run, 'report.json')).read())\n"
    )
    given = {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": password_of(release),
        "HOME": "/tmp",
    }
    done = release.run(image("mlflow"), ["python", "-c", script], environment=given)
    assert done.exit_code == 0, done.output
    assert '{"mcc": 0.9}' in done.output
    assert "presigned" in release.kubectl("logs", "deployment/mlflow", "--container=mlflow")


def test_what_was_deleted_after_a_backup_is_there_again_by_the_commands_of_the_readme(
    release: Client, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    release.kubectl("create", "job", "backup-now", "--from=cronjob/mlflow-backup")
    release.await_job("backup-now")
    folder = f"mlflow-backups/{release.namespace}-mlflow/"
    (copy,) = bucket.keys(folder)
    with connected(release, monkeypatch) as url:
        client = MlflowClient(url, url)
        client.delete_registered_model("roadwork")
        assert client.search_registered_models() == []
    readme_commands(release, "restore", tmp_path)
    release.await_rollout("deployment/mlflow", timeout_s=300)
    with connected(release, monkeypatch) as url:
        client = MlflowClient(url, url)
        assert client.get_model_version_by_alias("roadwork", "champion").version in (1, "1")
    assert bucket.keys(folder)[0] == copy
    assert len(bucket.keys(folder)) == 2  # what was there instead is kept


def readme_commands(cluster: Client, word: str, folder: Path) -> str:
    """Runs the block of the chart's README that has this word, in the release's namespace."""
    blocks = re.findall(r"```sh\n(.*?)```", (CHARTS / "mlflow/README.head.md").read_text(), re.DOTALL)
    (block,) = [one for one in blocks if word in one]
    block = block.replace("BUCKET", BUCKET).replace("NAMESPACE", cluster.namespace)
    configuration = folder / "kubeconfig"
    configuration.write_text(cluster.kubectl("config", "view", "--minify", "--flatten", "--raw"))
    configuration.chmod(0o600)
    environment = os.environ | {
        "KUBECONFIG": str(configuration),
        "PATH": f"{cluster.cluster.kubectl.parent}:{os.environ['PATH']}",
    }
    here = ("kubectl", "config", "set-context", "--current", f"--namespace={cluster.namespace}")
    subprocess.run(here, env=environment, check=True, capture_output=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_password_in_the_secret_is_the_only_one_after_a_restart(release: Client, monkeypatch: pytest.MonkeyPatch):
    old = password_of(release)
    set_password(release, secrets.token_urlsafe(18))
    restart(release)
    with connected(release, monkeypatch) as url:
        assert MlflowClient(url, url).get_registered_model("roadwork").name == "roadwork"
    with (
        connected(release, monkeypatch, password=old) as url,
        pytest.raises(MlflowException, match="401|authenticated"),
    ):
        MlflowClient(url, url).search_registered_models()


def test_an_upgrade_that_cannot_start_is_taken_back_with_everything_there(
    release: Client, values: Path, monkeypatch: pytest.MonkeyPatch
):
    upgrade = ("upgrade", "mlflow", str(CHARTS / "mlflow"), "--values", str(values))
    with pytest.raises(ClusterError):
        broken = ("--set", "server.extraArgs={--no-such-option}", "--rollback-on-failure", "--timeout=40s")
        release.helm(*upgrade, *broken, timeout_s=400)
    release.await_rollout("deployment/mlflow", timeout_s=300)
    history = json.loads(release.helm("history", "mlflow", "--output=json"))
    assert [one["status"] for one in history] == ["superseded", "failed", "deployed"]
    with connected(release, monkeypatch) as url:
        assert MlflowClient(url, url).get_registered_model("roadwork").name == "roadwork"


def test_an_uninstall_leaves_nothing_but_the_bucket(release: Client, bucket: Bucket):
    kept = bucket.keys("mlflow")
    release.helm("uninstall", "mlflow", "--wait", "--timeout=200s", timeout_s=220)

    def left() -> list[str]:
        return [
            one["metadata"]["name"] for one in release.objects(EVERYTHING, selector="app.kubernetes.io/name=mlflow")
        ]

    wait.until(lambda: not left(), what="the end of the release's last objects", timeout_s=120)
    assert bucket.keys("mlflow") == kept
    assert kept
