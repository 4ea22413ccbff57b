"""Promotions of several processes at once, and the registry on a real MLflow server."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from streetvision.errors import RegistryError
from streetvision.inference.model_directory import write_config
from streetvision.registry.gate import Decision, Policy
from streetvision.registry.mlflow import Registry
from streetvision.registry.store import FolderStore

pytestmark = [
    pytest.mark.slow,  # starts processes that each import MLflow, and a server: half a minute and more
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

ACTORS, ROUNDS = 5, 10


def _model(folder, content):
    path = folder / content
    path.mkdir()
    (path / "model.onnx").write_text(content)
    settings = {"preset": "tiny", "input_size_px": 8, "threshold": 0.5, "temperature": 1.0}
    return write_config(path, **settings, data_version="d", code_version="c", git_sha="").path


def _register(registry, folder, content):
    decision = Decision(verdict="promote", reasons=("good",), n=4000, policy=Policy())
    return registry.register(_model(folder, content), decision=decision, params={"k": 1}, metrics={"reward": 0.8})


def _actor(uri, root, start, jobs, answers):
    registry = Registry(uri, root)
    for version, expected in iter(jobs.get, None):
        start.wait(60)
        try:
            answers.put(registry.promote(version, expected_champion=expected).version)
        except RegistryError as err:
            answers.put(err.message)


def test_exactly_one_of_five_processes_wins_each_of_ten_rounds(tmp_path):
    uri, root = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "models"
    registry = Registry(uri, root)
    versions = [_register(registry, tmp_path, f"m{number}").version for number in range(ACTORS + 1)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["streetvision.registry.mlflow"])
    start, answers = context.Barrier(ACTORS), context.Queue()
    jobs = [context.Queue() for _ in range(ACTORS)]
    actors = [context.Process(target=_actor, args=(uri, root, start, queue, answers), daemon=True) for queue in jobs]
    for actor in actors:
        actor.start()
    champion = None
    for _ in range(ROUNDS):
        candidates = [version for version in versions if version != champion][:ACTORS]
        for queue, version in zip(jobs, candidates, strict=True):
            queue.put((version, champion))
        given = [answers.get(timeout=120) for _ in range(ACTORS)]
        won = [answer for answer in given if isinstance(answer, int)]
        assert len(won) == 1, given
        assert registry.champion().version == won[0]
        if champion is not None:
            assert registry.by_alias("previous").version == champion
        champion = won[0]
    for queue in jobs:
        queue.put(None)
    for actor in actors:
        actor.join(30)
        assert actor.exitcode == 0


@pytest.fixture
def server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(f"{url}/health", process)
            yield url
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


def _wait(url, process):
    for _ in range(240):
        assert process.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"no answer from {url}")


def test_server_holds_the_same_registry(server, tmp_path):
    class Bucket(FolderStore):
        def put(self, model):
            return f"s3://bucket/models/roadwork/{model.sha256}/"

    registry = Registry(server, tmp_path / "models", store=Bucket(tmp_path))
    assert registry.champion() is None
    first = _register(registry, tmp_path, "a")
    assert registry.promote(first.version, expected_champion=None).source == first.source
    second = _register(registry, tmp_path, "b")
    assert registry.promote(second.version, expected_champion=1).version == 2
    assert (registry.champion().version, registry.by_alias("previous").version) == (2, 1)
    with pytest.raises(RegistryError, match="Invalid model version source") as caught:
        _register(Registry(server, tmp_path / "models"), tmp_path, "c")
    assert "a server needs a model store that it can reach too" in caught.value.hint
    with pytest.raises(RegistryError, match="version=9"):
        registry.version(9)
