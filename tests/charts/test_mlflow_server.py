"""The MLflow server, started on this machine with the arguments and the environment that the chart renders."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from urllib.request import urlopen

import pytest
from kubernetes import client
from mlflow import MlflowClient

from tests.charts.render import CHARTS, Rendered, render
from tests.ports import free_port
from tests.serving.miner import s3

pytestmark = pytest.mark.slow
PASSWORD = "a long % password"


class Started:
    """What a pod of the chart would run, on this machine: its paths in a folder, its port a free one.

    Args:
        rendered: the chart.
        folder: in place of the pod's volumes.
        values: of variables that the pod takes from Secrets or of itself.
    """

    def __init__(self, rendered: Rendered, folder: Path, values: dict[str, str]) -> None:
        self._pod = rendered.typed(client.V1Deployment).spec.template.spec
        self._folder, self._values = folder, values
        self.port = free_port()
        for name in ("data", "auth", "metrics", "tmp"):
            (folder / name).mkdir()

    def prepare(self) -> None:
        """Runs the init container."""
        for container in self._pod.init_containers:
            command = [sys.executable, str(CHARTS / "mlflow/files" / Path(container.command[1]).name)]
            arguments = [self._here(one) for one in container.args]
            subprocess.run([*command, *arguments], env=self._environment(container), check=True)

    @contextmanager
    def running(self) -> Iterator[str]:
        """The server, once it is healthy; it must end well when it is told to."""
        (container,) = self._pod.containers
        arguments = [self._here(one).replace("--port=5000", f"--port={self.port}") for one in container.args]
        arguments = [one.replace("$(POD_IP):5000", f"127.0.0.9:{self.port}") for one in arguments]
        log = self._folder / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "mlflow"), *arguments],
                env=self._environment(container),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder / "tmp",
                start_new_session=True,
            )
        try:
            while not self._healthy():
                assert process.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{self.port}"
            process.terminate()
            assert process.wait(20) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _healthy(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _environment(self, container: client.V1Container) -> dict[str, str]:
        given = {"PATH": os.environ["PATH"], "TMPDIR": str(self._folder / "tmp")}
        for one in container.env:
            given[one.name] = self._here(one.value) if one.value_from is None else self._values[one.name]
        return given | {name: self._values[name] for name in self._values if name.startswith("AWS_")}

    def _here(self, text: str) -> str:
        return re.sub(r"(?<![\w:])(/+)(data|auth|metrics|tmp)\b", rf"\1{str(self._folder)[1:]}/\2", text)


@pytest.fixture
def prove(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], int], None]:
    """Runs the program of `helm test` with every name of the cluster leading to this machine."""
    specification = importlib.util.spec_from_file_location("prove", CHARTS / "mlflow/files/prove.py")
    assert specification
    assert specification.loader
    program: ModuleType = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(program)
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *rest, **more: real("127.0.0.1", *rest, **more))

    def run(urls: list[str], port: int) -> None:
        program.main([url.replace(":5000", f":{port}") for url in urls])

    return run


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[s3.S3]:
    """An S3 server that checks signatures, where there is one."""
    s3.use_keys(monkeypatch)
    binary = s3.VersityGateway.binary()
    (folder := tmp_path / "s3").mkdir()
    store = s3.VersityGateway(binary, folder) if binary else s3.Moto()
    store.start()
    store.create_bucket()
    yield store
    store.close()


def names(rendered: Rendered) -> list[str]:
    """Addresses that `helm test` asks."""
    return rendered.one("Pod")["spec"]["containers"][0]["args"]


def test_a_server_with_passwords_and_a_bucket_does_what_helm_test_asks(
    tmp_path: Path, bucket: s3.S3, prove: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(
        "mlflow",
        {
            "objectStore": {"bucket": s3.BUCKET, "endpoint": bucket.url, "existingSecret": "keys"},
            "auth": {"existingSecret": "mlflow-auth"},
            "server": {"workers": 1},
        },
    )
    secrets = {
        "MLFLOW_AUTH_ADMIN_USERNAME": "operator",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "random",
        "POD_IP": "127.0.0.9",
    } | {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    started = Started(rendered, tmp_path, secrets)
    started.prepare()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "operator")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with started.running() as url:
        prove(names(rendered), started.port)
        mine = MlflowClient(url, url)
        run = mine.create_run(mine.create_experiment("roadwork"))
        (tmp_path / "report.json").write_text("{}")
        mine.log_artifact(run.info.run_id, str(tmp_path / "report.json"))
        (key,) = bucket.objects()
        assert key == f"mlflow/{run.info.experiment_id}/{run.info.run_id}/artifacts/report.json"
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another password")
        with pytest.raises(SystemExit, match="answers: got 401, expected 200"):
            prove(names(rendered), started.port)


def test_a_server_on_sqlite_alone_keeps_everything_across_a_restart(tmp_path: Path, prove: Callable[..., None]) -> None:
    rendered = render("mlflow", {"server": {"workers": 1}})
    started = Started(rendered, tmp_path, {"POD_IP": "127.0.0.9"})
    for attempt in range(2):
        started.prepare()
        with started.running() as url:
            prove(names(rendered), started.port)
            mine = MlflowClient(url, url)
            if attempt == 0:
                mine.create_registered_model("roadwork")
            assert mine.get_registered_model("roadwork").name == "roadwork"
            with urlopen(f"http://127.0.0.1:{started.port}/metrics") as metrics:
                assert b"mlflow_http_request_total" in metrics.read()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"mlflow.db", "mlflow.db.lock"}
