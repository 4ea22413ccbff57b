"""`streetvision rollout` against a real release: MLflow, S3, KServe and helm as they are."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from manifests import credentials, tools
from streetvision.cluster import Cluster
from streetvision.errors import RolloutError
from streetvision.inference.model_directory import ModelDirectory
from streetvision.operations.proof import Predictor
from streetvision.operations.rollout_job import RolloutJob
from streetvision.registry.decision import Decision, Policy
from streetvision.registry.mlflow import RegisteredVersion, Registry
from streetvision.registry.s3_store import S3Store
from tests.brightness import describe
from tests.cluster import wait
from tests.cluster.client import Client
from tests.cluster.our_images import image
from tests.cluster.stack import BUCKET, FIRST, RELEASE, SECOND, Stack, stack
from tests.ports import free_port

pytestmark = [
    pytest.mark.needs(
        "kserve", "storage", *(f"image:{image(name)}" for name in ("miner", "predictor", "mlflow", "pipeline-cpu"))
    ),
    pytest.mark.timeout(1200),
]

ROOT = Path(__file__).parents[2]
MODELS = f"s3://{BUCKET}/models/roadwork"


@dataclass
class World:
    """A release with its registry, and what a person does with both."""

    release: Stack
    registry: Registry
    tracking_uri: str

    @property
    def served(self) -> tuple[str, str]:
        """The model's address that the InferenceService has, and the version that the predictor itself names."""
        service = self.release.client.get("inferenceservice", f"{RELEASE}-roadwork")
        predictor = Predictor(Cluster.connect(), self.release.client.namespace, f"{RELEASE}-roadwork")
        return service["spec"]["predictor"]["model"]["storageUri"], predictor.version()

    @property
    def revision(self) -> int:
        """Of the release."""
        return int(json.loads(self.release.client.helm("history", RELEASE, "--output=json"))[-1]["revision"])

    def promote(self, model: ModelDirectory) -> RegisteredVersion:
        """The model as the champion that the gate chose."""
        champion = self.registry.champion()
        decision = Decision(verdict="promote", reasons=("better",), n=4000, policy=Policy())
        version = self.registry.register(model.path, decision=decision, params={}, metrics={}).version
        return self.registry.promote(version, expected_champion=champion.version if champion else None)

    def command(self, *arguments: str, timeout_s: float = 400) -> list[str]:
        """The command line of a rollout of this release."""
        return [
            *(sys.executable, "-m", "streetvision.cli", "rollout", "--release", RELEASE, "--json"),
            *("--namespace", self.release.client.namespace, "--tracking-uri", self.tracking_uri),
            *("--chart", str(self.release.chart), "--helm", str(tools.helm())),
            *("--timeout-s", str(timeout_s), *arguments),
        ]

    def roll_out(self, *arguments: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
        """What a rollout from outside the cluster comes to."""
        command = self.command(*arguments, timeout_s=timeout_s)
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ, check=False)


@pytest.fixture(scope="module")
def release(cluster: Client) -> Iterator[Stack]:
    with stack(cluster) as made:
        yield made


@contextmanager
def lasting_way(client: Client, service: str, port: int) -> Iterator[str]:
    """Yields an address that leads to a Service; kubectl's own way ends with the first idle connection."""
    local, ended = free_port(), threading.Event()
    command = [str(tools.kubectl()), "--namespace", client.namespace, "port-forward", f"service/{service}"]

    def keep_open() -> None:
        while not ended.is_set():
            with subprocess.Popen(
                [*command, f"{local}:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                while process.poll() is None and not ended.wait(0.1):
                    pass
                process.terminate()

    thread = threading.Thread(target=keep_open)
    thread.start()
    try:
        wait.until(lambda: _listens(local), what=f"a way to {service}", timeout_s=30)
        yield f"http://127.0.0.1:{local}"
    finally:
        ended.set()
        thread.join()


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def world(release: Stack) -> Iterator[World]:
    client, cache = release.client, release.folder / "cache"
    key_id, key = credentials.object_store_keys(client.cluster)
    with (
        lasting_way(client, "streetvision-s3", 7070) as s3,
        lasting_way(client, f"{RELEASE}-mlflow", 5000) as mlflow,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("AWS_ENDPOINT_URL", s3)
        environment.setenv("AWS_ACCESS_KEY_ID", key_id)
        environment.setenv("AWS_SECRET_ACCESS_KEY", key)
        environment.setenv("AWS_DEFAULT_REGION", credentials.REGION)
        yield World(release, Registry(mlflow, cache, store=S3Store(MODELS, cache=cache)), mlflow)


@pytest.fixture
def settled(world: World) -> World:
    """The first model promoted and served."""
    world.promote(world.release.model(FIRST))
    done = world.roll_out()
    assert done.returncode == 0, done.stderr
    return world


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_job_that_push_starts_moves_a_newly_promoted_version_into_the_served_predictor(settled: World):
    version = settled.promote(settled.release.model(SECOND))
    namespace = settled.release.client.namespace
    sentence = RolloutJob(Cluster.connect(), namespace, f"{RELEASE}-pipelines-rollout").run()
    assert sentence.startswith(f"rolled out: version {version.version} ({version.sha256[:12]}) is served after ")
    assert settled.served == (version.source, version.sha256[:12])
    assert settled.registry.champion() == version


@pytest.mark.parametrize("major", [3, 4])
def test_either_helm_rolls_out_from_outside_and_a_second_time_changes_nothing(settled: World, major: int):
    version = settled.promote(settled.release.model(SECOND))
    before = settled.revision
    helm = ("--helm", str(tools.helm(major)))
    assert said(settled.roll_out(*helm))["outcome"] == "rolled out"
    assert settled.served == (version.source, version.sha256[:12])
    assert said(settled.roll_out(*helm))["outcome"] == "unchanged"
    assert settled.revision == before + 1


def garbage(folder: Path) -> ModelDirectory:
    """A model directory that is whole, and whose model cannot be loaded."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"no model")
    return describe(folder)


@pytest.mark.parametrize("fault", ["a model that cannot be loaded", "a model that is gone"])
def test_a_model_that_fails_leaves_release_and_alias_as_they_were(settled: World, tmp_path: Path, fault: str):
    before, served = settled.registry.champion(), settled.served
    pods = {pod["metadata"]["uid"] for pod in settled.release.client.pods(f"app=isvc.{settled.release.predictor}")}
    if fault == "a model that is gone":
        version = settled.promote(settled.release.model((1, 2)))
        with settled.release.s3() as s3:
            prefix = version.source.removeprefix(f"s3://{BUCKET}/")
            for one in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
                s3.delete_object(Bucket=BUCKET, Key=one["Key"])
    else:
        version = settled.promote(garbage(tmp_path / "garbage"))

    done = settled.roll_out(timeout_s=45)

    assert done.returncode == 1
    assert f"version {version.version} was not rolled out" in done.stderr
    assert "status.modelStatus: " in done.stderr
    assert f"version {before.version} is champion again; what was served before is served" in done.stderr
    assert settled.registry.champion().version == before.version
    assert "does not serve" in settled.registry.version(version.version).tags["rollout_failed"]
    assert settled.served == served
    assert pods <= {
        pod["metadata"]["uid"] for pod in settled.release.client.pods(f"app=isvc.{settled.release.predictor}")
    }
    assert said(settled.roll_out())["outcome"] == "unchanged"


def test_the_job_of_a_failing_model_tells_push_why(settled: World, tmp_path: Path):
    before = settled.registry.champion()
    version = settled.promote(garbage(tmp_path / "garbage"))
    client = settled.release.client
    cron_job = client.get("cronjob", f"{RELEASE}-pipelines-rollout")
    # a copy: helm would refuse to upgrade a release whose objects somebody else changed
    spec = cron_job["spec"] | {"suspend": True}
    spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"].append("--timeout-s=30")
    client.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "impatient"}, "spec": spec})
    with pytest.raises(RolloutError, match=f"version {version.version} was not rolled out") as caught:
        RolloutJob(Cluster.connect(), client.namespace, "impatient").run()
    assert "status.modelStatus: " in caught.value.message
    assert f"version {before.version} is champion again; what was served before is served" in caught.value.message
    assert settled.registry.champion().version == before.version


def test_a_release_of_another_chart_version_is_refused(settled: World, tmp_path: Path):
    settled.promote(settled.release.model(SECOND))
    before = settled.served
    chart = Path(shutil.copytree(settled.release.chart, tmp_path / "streetvision"))
    text = (chart / "Chart.yaml").read_text()
    (chart / "Chart.yaml").write_text(text.replace("\nversion: 0.1.0", "\nversion: 0.9.0"))
    done = settled.roll_out("--chart", str(chart))
    assert done.returncode == 2
    assert f"release `{RELEASE}` is of chart streetvision 0.1.0, expected streetvision 0.9.0" in done.stderr
    assert settled.served == before


def test_a_champion_moved_by_hand_is_refused_until_somebody_approves_it(settled: World):
    decision = Decision(verdict="keep", reasons=("worse",), n=4000, policy=Policy())
    model = settled.release.model((2,))
    version = settled.registry.register(model.path, decision=decision, params={}, metrics={}).version
    before, champion = settled.served, settled.registry.champion().version
    client: Any = settled.registry._client
    client.set_registered_model_alias("roadwork", "champion", str(version))
    done = settled.roll_out()
    assert done.returncode == 2
    assert f"version {version} of `roadwork` has the alias `champion`, but the verdict `keep`" in done.stderr
    assert settled.served == before
    settled.registry.tag(version, "approved_by", "a person")
    assert said(settled.roll_out())["version"] == version
    assert settled.served[1] == model.sha256[:12]
    assert champion != version


def test_two_rollouts_at_once_come_one_after_the_other(settled: World):
    version = settled.promote(settled.release.model(SECOND))
    before = settled.revision
    running = [
        subprocess.Popen(
            settled.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
        )
        for _ in range(2)
    ]
    outcomes: Sequence[str] = sorted(json.loads(one.communicate(timeout=600)[0])["outcome"] for one in running)
    assert outcomes == ["rolled out", "unchanged"]
    assert settled.revision == before + 1
    assert settled.served == (version.source, version.sha256[:12])
