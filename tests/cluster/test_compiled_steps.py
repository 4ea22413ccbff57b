"""Steps of the compiled pipeline run as pods, from their images, with a real S3 and a real MLflow, without Kubeflow.

Each gets the compiled command and arguments, `{{$}}` replaced by the executor input that Kubeflow's launcher would
write, and hands its artifacts on by a claim (see `steps`). `train` needs torch, which is only in the image for GPUs: a
small model stands in for what it gives. The whole pipeline runs in one pod where that image is in the cluster.
"""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from mlflow import MlflowClient

from manifests.charts import CHARTS
from manifests.cluster import ClusterError
from pipelines.parameters import LARGEST
from streetvision.registry.lease import PROMOTION
from tests.brightness import write_model_directory
from tests.cluster.client import Client, ObjectStore
from tests.cluster.our_images import image, image_values
from tests.cluster.steps import CLAIM, Given, Run

pytestmark = [
    pytest.mark.needs("storage", f"image:{image('pipeline-cpu')}", f"image:{image('mlflow')}"),
    pytest.mark.timeout(1200),
]

BUCKET = "streetvision"
ACCOUNT = "sv-pipelines-steps"
HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
VERDICTS = ("promote", "keep", "not enough evidence")
PARAMETERS = {
    "source": "procedural",
    "scenes": 60,
    "challenges": 150,
    "data_fingerprint": "of the test",
    "code_version": "of the test",
    "git_sha": "unknown",
    "tracking_uri": "http://mlflow:5000",
    "models_uri": f"s3://{BUCKET}/models/roadwork",
    "hub": "",
    "submitted_by": HOTKEY,
}


@pytest.fixture(scope="module")
def place(namespace: Client, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A namespace with S3, MLflow behind a password, and what the chart `pipelines` gives steps."""
    store = namespace.object_store()
    with s3(namespace, store) as bucket:
        bucket.create_bucket(Bucket=BUCKET)
    password = {
        "MLFLOW_TRACKING_USERNAME": "operator",
        "MLFLOW_TRACKING_PASSWORD": secrets.token_urlsafe(18),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }
    namespace.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "streetvision-mlflow"}, "stringData": password},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        },
    )
    folder = tmp_path_factory.mktemp("values")
    mlflow = {
        "image": image_values("mlflow"),
        "objectStore": {
            "bucket": BUCKET,
            "endpoint": store.endpoint,
            "region": "us-east-1",
            "existingSecret": store.secret,
        },
        "auth": {"existingSecret": "streetvision-mlflow"},
        "persistence": {"size": "1Gi", "keep": False},
        "server": {"workers": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
    }
    steps = {
        "image": image_values("pipeline-cpu"),
        "kfp": {"namespace": namespace.namespace},
        "mlflow": {"url": PARAMETERS["tracking_uri"]},
        "objectStore": {"bucket": BUCKET},
        "workspace": {"size": "1Gi", "keep": False},
        "parameters": {"submitted_by": HOTKEY},
    }
    for name, values in (("mlflow", mlflow), ("pipelines", steps)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    chart = ("pipelines", "--values", str(folder / "pipelines.yaml"))
    parts = ("--show-only=templates/steps-rbac.yaml", "--show-only=templates/workspace.yaml")
    text = namespace.helm("template", "sv", str(CHARTS / chart[0]), *chart[1:], *parts)
    namespace.apply(*(one for one in yaml.safe_load_all(text) if one))
    install = ("install", "mlflow", str(CHARTS / "mlflow"), "--values", str(folder / "mlflow.yaml"))
    namespace.helm(*install, "--wait", "--timeout=400s", timeout_s=420)
    return namespace


@pytest.fixture(scope="module")
def run(place: Client, tmp_path_factory: pytest.TempPathFactory) -> Run:
    scratch = tmp_path_factory.mktemp("compiled")
    return Run(place, "retrain", scratch, account=ACCOUNT, parameters=PARAMETERS)


@pytest.fixture(scope="module")
def data(run: Run) -> Given:
    return run.step("data")


@pytest.fixture(scope="module")
def pictures(run: Run, data: Given) -> Given:
    return run.step("synthesize", image=image("pipeline-cpu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_directory(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def evaluated(run: Run, pictures: Given, model: Path) -> Given:
    trained = run.put("model", {path.name: path.read_bytes() for path in model.iterdir()})
    run.given["train"] = Given({"Output": sha256(model)}, {"model": trained}, "")
    return run.step("evaluate")


@pytest.fixture(scope="module")
def pushed(run: Run, evaluated: Given) -> Given:
    return run.step("push")


@contextmanager
def s3(client: Client, store: ObjectStore) -> Iterator[Any]:
    with client.forwarded("service/streetvision-s3", 7070) as port:
        yield boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=store.access_key_id,
            aws_secret_access_key=store.secret_access_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


@contextmanager
def registry(client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    template = "--template={{.data.MLFLOW_TRACKING_PASSWORD | base64decode}}"
    password = client.kubectl("get", "secret", "streetvision-mlflow", "--output=go-template", template)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "operator")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with client.forwarded("service/mlflow", 5000) as port:
        yield MlflowClient(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}")


def sha256(model: Path) -> str:
    return hashlib.sha256((model / "model.onnx").read_bytes()).hexdigest()


def test_data_runs_from_its_image_by_its_compiled_command_with_its_artifacts_on_a_claim(data: Given):
    assert re.fullmatch(r"[0-9a-f]{64}", data.parameters["Output"])
    assert data.artifacts["manifest"]["metadata"]["version"] == data.parameters["Output"]
    assert data.artifacts["counts"]["metadata"]


def test_synthesize_runs_by_its_compiled_command_in_the_cpu_image_on_what_data_left(data: Given, pictures: Given):
    assert re.fullmatch(r"[0-9a-f]{64}", pictures.parameters["Output"])
    assert pictures.parameters["Output"] != data.parameters["Output"]


def test_evaluate_runs_from_its_image_by_its_compiled_command_on_a_small_model_in_place_of_trains(
    run: Run, evaluated: Given, model: Path
):
    assert evaluated.parameters["verdict"] in VERDICTS
    decision = json.loads(run.read(evaluated.artifacts["decision"]))
    assert (
        decision["verdict"] == evaluated.parameters["verdict"] == evaluated.artifacts["decision"]["metadata"]["verdict"]
    )
    assert decision["challenger_sha256"] == sha256(model)
    assert b"<html" in run.read(evaluated.artifacts["report"])[:500]


def test_evaluate_waits_for_an_mlflow_that_is_away(run: Run, place: Client, evaluated: Given):
    place.kubectl("scale", "deployment/mlflow", "--replicas=0")
    place.kubectl("wait", "pod", "--selector=app.kubernetes.io/name=mlflow", "--for=delete", "--timeout=60s")
    assert place.ready_addresses("mlflow") == set()
    pod = run.start("evaluate")
    time.sleep(20)  # it has asked in vain by now
    assert place.ready_addresses("mlflow") == set()
    assert place.get("pod", pod)["status"]["phase"] in ("Pending", "Running")  # `main` is an init container
    place.kubectl("scale", "deployment/mlflow", "--replicas=1")
    again = run.finish("evaluate", pod)
    assert again.parameters == evaluated.parameters


def test_push_runs_from_its_image_by_its_compiled_command_and_registers_the_model_in_mlflow_and_s3(
    place: Client, pushed: Given, model: Path, monkeypatch: pytest.MonkeyPatch
):
    assert pushed.parameters == {"version": 1, "revision": ""}
    folder = f"models/roadwork/{sha256(model)}/"
    with registry(place, monkeypatch) as mlflow:
        version = mlflow.get_model_version("roadwork", "1")
    assert version.source.rstrip("/") == f"s3://{BUCKET}/{folder}".rstrip("/")
    with s3(place, place.object_store()) as bucket:
        keys = [one["Key"] for one in bucket.list_objects_v2(Bucket=BUCKET, Prefix=folder)["Contents"]]
        assert {key.removeprefix(folder) for key in keys} >= {path.name for path in model.iterdir()}
        stored = bucket.get_object(Bucket=BUCKET, Key=f"{folder}model.onnx")["Body"].read()
    assert hashlib.sha256(stored).hexdigest() == sha256(model)


def test_push_of_a_decision_to_promote_makes_the_champion_under_the_lease_with_the_rights_of_the_chart(
    run: Run, place: Client, evaluated: Given, pushed: Given, monkeypatch: pytest.MonkeyPatch
):
    decided = json.loads(run.read(evaluated.artifacts["decision"])) | {"verdict": "promote"}
    decision = run.write(evaluated.artifacts["decision"], json.dumps(decided).encode())
    before = run.given["push"]
    promoted = run.step("push", decision=decision)
    assert promoted.parameters["version"] >= before.parameters["version"]
    with registry(place, monkeypatch) as mlflow:
        champion = mlflow.get_model_version_by_alias("roadwork", "champion")
    assert int(champion.version) == promoted.parameters["version"]
    assert place.get("lease", PROMOTION)["spec"].get("holderIdentity") in (None, "")


def test_no_parameter_that_a_step_gives_is_large(data: Given, pictures: Given, evaluated: Given, pushed: Given):
    for given in (data, pictures, evaluated, pushed):
        for name, value in given.parameters.items():
            assert len(json.dumps(value)) <= LARGEST, name


def test_a_step_that_may_be_root_is_refused_by_a_strict_namespace(run: Run, place: Client, pictures: Given):
    pod = run.pod("synthesize")
    (main,) = [one for one in pod["spec"]["initContainers"] if one["name"] == "main"]
    assert place.refusal(pod) is None
    del main["securityContext"]["runAsNonRoot"]
    assert "runAsNonRoot" in (place.refusal(pod) or "")


def test_a_step_that_fails_says_why_and_names_no_key(run: Run, place: Client, evaluated: Given):
    other = {"verdict": "promote", "challenger_sha256": "0" * 64}
    decided = json.loads(run.read(evaluated.artifacts["decision"])) | other
    decision = run.write(evaluated.artifacts["decision"], json.dumps(decided).encode())
    with pytest.raises(ClusterError) as caught:
        run.step("push", decision=decision)
    assert "the decision is about model 000000000000" in str(caught.value)
    store = place.object_store()
    assert store.secret_access_key not in str(caught.value)


@pytest.mark.needs(f"image:{image('pipeline-gpu')}", optional=True)
def test_the_whole_pipeline_by_kfps_local_runner_in_one_pod_of_the_image_for_gpus(place: Client):
    settings = {"scenes": 60, "challenges": 150, "views": 1, "submitted_by": HOTKEY}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = ["python", "-m", "pipelines", "local", "retrain", "--state", "/tmp/state", "--outputs", "/tmp/outputs"]
    script = f"{' '.join(command + words)} >&2 && cat /tmp/outputs"
    done = place.run(image("pipeline-gpu"), ["sh", "-ec", script], timeout_s=1100)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output[done.output.index("\n{") :])["verdict"] in VERDICTS
