"""The images at work: no root, nothing writable but /tmp, no capability, no network but their own loopback."""

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bittensor_wallet import Keyfile, Keypair

from manifests.docker import ContainerError, Docker
from manifests.images import Image
from serving.miner.settings import PREFIX
from streetvision.imaging import encode_jpeg
from streetvision.subnet.protocol import build_request
from tests.brightness import THRESHOLD, write_model_directory
from tests.images.containers import BY_NAME, Container, images, output, running, say

UID = 10001
GREY = 51  # a fifth of white
EXPECTED = 0.5 * (GREY / 255) / THRESHOLD  # the model's threshold is moved to one half
VALIDATOR, MINER = Keypair.create_from_uri("//Alice"), Keypair.create_from_uri("//Bob")
GET = "import sys, urllib.request as u; print(u.urlopen('{}', timeout=5).read().decode())"
POST = """
import sys, urllib.request as u
request = u.Request(sys.argv[1], sys.argv[2].encode(), {"content-type": "application/json", **eval(sys.argv[3])})
try:
    print(u.urlopen(request, timeout=30).read().decode())
except u.HTTPError as refused:
    print(refused.code, refused.read().decode())
"""


def picture() -> bytes:
    return encode_jpeg(np.full((224, 224, 3), GREY, dtype=np.uint8))


def readable(folder: Path) -> Path:
    """The folder, now such that the images' user can read it, as it does what Kubernetes mounts."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return readable(write_model_directory(tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture
def predictor(docker: Docker, model: Path) -> Iterator[Container]:
    """A predictor that has just been started."""
    reference = BY_NAME["predictor"].reference
    with running(docker, reference, mounts={"/mnt/models": model}) as container:
        yield container


def await_ready(container: Container, url: str) -> float:
    return container.await_python(GET.format(url))[1]


@images("predictor")
def test_the_predictor_answers_from_a_mounted_model_and_ends_when_told(
    image: Image, predictor: Container, capsys: pytest.CaptureFixture[str]
):
    seconds = await_ready(predictor, "http://127.0.0.1:8080/v2/health/ready")
    text = base64.b64encode(picture()).decode()
    body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    reply = predictor.python(POST, "http://127.0.0.1:8080/v2/models/roadwork/infer", json.dumps(body), "{}")
    assert json.loads(reply)["outputs"][0]["data"] == [pytest.approx(EXPECTED, abs=0.01)]
    stopped_s, code = predictor.stop()
    say(capsys, f"predictor: ready after {seconds:.1f} s, stopped within {stopped_s:.1f} s")
    assert (code, stopped_s < 15) == (0, True), predictor.logs()


@images("predictor")
def test_the_rollout_s_proof_starts_in_the_predictor_and_asks_for_a_cluster(image: Image, docker: Docker):
    prove = ["streetvision", "rollout", "--prove", "s3://models/a", "--release", "r", "--namespace", "n"]
    with pytest.raises(ContainerError, match="no Kubernetes cluster can be reached from here"):
        output(docker, image.reference, prove)


@images("miner")
def test_the_probe_of_helm_test_starts_in_the_miner(image: Image, docker: Docker):
    assert "--predictor URL" in output(docker, image.reference, ["python", "-m", "serving.miner.probe", "--help"])


@images("miner")
def test_the_miner_gets_ready_beside_its_predictor_and_answers_a_signed_challenge(
    image: Image, docker: Docker, predictor: Container, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    keys = tmp_path / "keys" / "miner" / "hotkeys"
    keys.mkdir(parents=True)
    Keyfile(str(keys / "default")).set_keypair(MINER, encrypt=False, overwrite=False)
    neurons = [
        {"uid": uid, "hotkey": key.ss58_address, "stake": 5000.0, "permit": True, "ip": "127.0.0.1", "port": 8091}
        for uid, key in enumerate((VALIDATOR, MINER))
    ]
    network = tmp_path / "network"
    network.mkdir()
    (network / "metagraph.json").write_text(json.dumps(neurons))
    settings = {
        "WALLET_PATH": "/keys",
        "WALLET_NAME": "miner",
        "HOTKEY_NAME": "default",
        "NETWORK": "mock",
        "METAGRAPH_FILE": "/network/metagraph.json",
        "PREDICTOR_URL": "http://127.0.0.1:8080",
        "SPOOL_FOLDER": "/tmp/spool",
        "NONCE_FILE": "/tmp/nonces",
    }
    await_ready(predictor, "http://127.0.0.1:8080/v2/health/ready")
    mounts = {"/keys": mounted_secret(tmp_path / "keys"), "/network": readable(network)}
    environment = {PREFIX + name: value for name, value in settings.items()}
    with running(docker, image.reference, environment=environment, mounts=mounts, beside=predictor) as miner:
        seconds = await_ready(miner, "http://127.0.0.1:9091/health/ready")
        sides = {"sender": VALIDATOR.ss58_address, "receiver": MINER.ss58_address, "sign": VALIDATOR.sign}
        times = {"uuid": "a session", "nonce_ns": time.time_ns(), "host": "127.0.0.1", "port": 8091}
        headers, body = build_request(picture(), route="/ImageSynapse", **sides, **times)
        reply = miner.python(POST, "http://127.0.0.1:8091/ImageSynapse", body.decode(), repr(headers))
        assert json.loads(reply)["prediction"] == pytest.approx(EXPECTED, abs=0.01)
        assert miner.python(POST, "http://127.0.0.1:8091/ImageSynapse", body.decode(), repr(headers)).startswith("401")
        stopped_s, code = miner.stop()
        say(capsys, f"miner: ready after {seconds:.1f} s, stopped within {stopped_s:.1f} s")
        assert (code, stopped_s < 15) == (0, True), miner.logs()


def mounted_secret(folder: Path) -> Path:
    """The folder as Kubernetes mounts a Secret with mode 0440 and the pod's group."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o750 if path.is_dir() else 0o440)
        if os.geteuid() == 0:
            os.chown(path, 0, UID)
        else:
            path.chmod(0o755 if path.is_dir() else 0o444)
    return folder


@images("predictor", "pipeline-cpu")
def test_onnx_runtime_tells_nobody_of_the_machine(image: Image, docker: Docker):
    code = "import onnxruntime, os; print(*(folder for folder, _, _ in os.walk('/tmp')))"
    assert output(docker, image.reference, ["python", "-W", "ignore", "-c", code]) == "/tmp"
    with_it = ["sh", "-c", f'unset ORT_DISABLE_TELEMETRY; python -W ignore -c "{code}"']
    assert "/tmp/.cache/Microsoft" in output(docker, image.reference, with_it)  # else this test sees nothing


@images("mlflow")
def test_mlflow_keeps_a_run_in_sqlite(image: Image, docker: Docker, capsys: pytest.CaptureFixture[str]):
    options = ("--backend-store-uri", "sqlite:////tmp/mlflow.db", "--default-artifact-root", "/tmp/artifacts")
    with running(
        docker,
        image.reference,
        "server",
        *options,
        "--workers",
        "1",
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    ) as mlflow:
        seconds = await_ready(mlflow, "http://127.0.0.1:5000/health")
        url = "http://127.0.0.1:5000/api/2.0/mlflow"
        created = mlflow.python(POST, f"{url}/experiments/create", json.dumps({"name": "roads"}), "{}")
        number = json.loads(created)["experiment_id"]
        run = json.loads(mlflow.python(POST, f"{url}/runs/create", json.dumps({"experiment_id": number}), "{}"))
        seen = mlflow.python(GET.format(f"{url}/runs/get?run_id={run['run']['info']['run_id']}"))
        assert json.loads(seen)["run"]["info"]["experiment_id"] == number
        assert mlflow.python(GET.format("http://127.0.0.1:5000/")).startswith("<!doctype html")
        stopped_s, _ = mlflow.stop()
        say(capsys, f"mlflow: ready after {seconds:.1f} s, stopped within {stopped_s:.1f} s")
        assert stopped_s < 15, mlflow.logs()


@images("mlflow")
def test_mlflow_asks_for_a_password_where_it_is_told_to(image: Image, docker: Docker):
    settings = {
        "default_permission": "READ",
        "database_uri": "sqlite:////tmp/auth.db",
        "admin_username": "admin",
        "admin_password": "a-long-password",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    configuration = "[mlflow]\\n" + "".join(f"{name} = {value}\\n" for name, value in settings.items())
    start = (
        f"printf '{configuration}' > /tmp/auth.ini && exec mlflow server --app-name basic-auth --workers 1"
        " --backend-store-uri sqlite:////tmp/mlflow.db --default-artifact-root /tmp/artifacts"
    )
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": "/tmp/auth.ini",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 32,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with running(docker, image.reference, "-c", start, environment=environment, entrypoint="sh") as mlflow:
        await_ready(mlflow, "http://127.0.0.1:5000/health")
        url, body = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/create", json.dumps({"name": "roads"})
        assert mlflow.python(POST, url, body, "{}").startswith("401")
        header = {"authorization": "Basic " + base64.b64encode(b"admin:a-long-password").decode()}
        assert "experiment_id" in mlflow.python(POST, url, body, repr(header))


@images("mlflow")
def test_mlflow_has_what_it_takes_for_postgresql_and_s3(image: Image, docker: Docker):
    code = (
        "import boto3, prometheus_flask_exporter\n"
        "from sqlalchemy import create_engine\n"
        "print(create_engine('postgresql://user@127.0.0.1:1/none').driver)"
    )
    assert output(docker, image.reference, ["python", "-c", code]) == "psycopg"


@images("pipeline-cpu")
def test_the_steps_that_run_there_can_import_what_their_bodies_import(image: Image, docker: Docker):
    code = (
        "import ast, inspect, sys\n"
        "from components import data, evaluate, push\n"
        "count = 0\n"
        "for module in (data, evaluate, push):\n"
        "    for node in ast.walk(ast.parse(inspect.getsource(module))):\n"
        "        if isinstance(node, ast.Import | ast.ImportFrom):\n"
        "            exec(compile(ast.Module([node], []), module.__name__, 'exec'))\n"
        "            count += 1\n"
        "print(count, 'torch' in sys.modules)"
    )
    count, torch = output(docker, image.reference, ["python", "-W", "ignore", "-c", code]).split()
    assert int(count) >= 12
    assert torch == "False"


@images("pipeline-cpu")
def test_the_step_data_runs_there(image: Image, docker: Docker):
    code = (
        "from components.data import data\n"
        "from kfp import dsl\n"
        "outputs = {n: dsl.Artifact(uri=f'/tmp/{n}') for n in ('manifest', 'summary', 'counts')}\n"
        "print(data.python_func('procedural', 6, 0, 'f', 'c', **outputs), outputs['manifest'].metadata['version'])"
    )
    first, second = output(docker, image.reference, ["python", "-W", "ignore", "-c", code]).splitlines()[-1].split()
    assert first == second
    assert len(first) == 64


@images("pipeline-cpu")
def test_the_programs_of_a_release_run_there(image: Image, docker: Docker):
    with pytest.raises(ContainerError, match="no registry is named"):
        output(docker, image.reference, ["streetvision", "rollout", "--release", "r", "--namespace", "n"])
    assert "--check" in output(docker, image.reference, ["python", "-m", "pipelines", "upload", "--help"])
    assert output(docker, image.reference, ["helm", "version", "--template", "{{.Version}}"]) == "v4.1.4"
    rendered = output(docker, image.reference, ["helm", "show", "chart", "/app/charts/streetvision"])
    assert "name: streetvision" in rendered
    parts = output(docker, image.reference, ["helm", "dependency", "list", "/app/charts/streetvision"])
    assert [line.split()[-1] for line in parts.splitlines()[1:] if line] == ["ok"] * 5


@images("pipeline-cpu")
def test_the_committed_pipelines_are_those_that_it_compiles(image: Image, docker: Docker):
    output(docker, image.reference, ["python", "-m", "pipelines", "compile", "--check"])


@images("predictor", "miner")
def test_a_program_that_lacks_its_settings_says_so_in_one_sentence(image: Image, docker: Docker):
    with pytest.raises(ContainerError) as failed:
        docker.run("run", "--rm", "--network", "none", image.reference)
    assert "Traceback" not in str(failed.value)
    assert "STREETVISION_MINER_WALLET_PATH" in str(failed.value) or "/mnt/models" in str(failed.value)


def test_the_context_is_what_images_are_made_of_and_nothing_else(
    docker: Docker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Asked of the engine: what a build can copy."""
    root = Path(__file__).parents[2]
    tree = tmp_path / "tree"
    ignored = (".git", ".venv", ".streetvision", ".tools")
    shutil.copytree(root, tree, ignore=shutil.ignore_patterns(*ignored, "__pycache__", ".cache"), symlinks=True)
    for name in ignored:
        (tree / name).mkdir()
        (tree / name / "large").write_bytes(b"x" * 1_000_000)
    (tree / ".env").write_text("AWS_SECRET_ACCESS_KEY=x")
    (tree / "src" / "streetvision" / "__pycache__").mkdir(exist_ok=True)
    (tree / "src" / "streetvision" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (tree / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    sent = tmp_path / "sent"
    docker.build(
        ["--file", str(tree / "Dockerfile"), "--output", f"type=local,dest={sent}", str(tree)],
        log=tmp_path / "log",
        tell=lambda _: None,
    )
    files = [path.relative_to(sent) for path in sent.rglob("*") if path.is_file()]
    megabytes = sum((sent / path).stat().st_size for path in files) / 1e6
    say(capsys, f"build context: {len(files)} files, {megabytes:.1f} MB")
    assert {path.parts[0] for path in files} <= {
        *("LICENSE", "README.md", "constraints.txt", "pyproject.toml"),
        *("charts", "components", "manifests", "pipelines", "serving", "src"),
    }
    assert not [path for path in files if path.suffix in (".pyc", ".tmp") or path.name == ".env"]
    assert {path.suffix for path in files if path.parts[0] == "manifests"} == {".py"}
    assert megabytes < 5
    assert Path("src/streetvision/cli.py") in files
