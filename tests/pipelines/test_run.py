"""A run is started with checked parameters; watched, it tells its steps, why one failed, and ends with their fate."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import versions
from tests.pipelines import kubernetes_api
from tests.pipelines.conftest import GIVEN, Command, Outcome
from tests.pipelines.kfp_api import KfpApi
from tests.pipelines.kubernetes_api import KubernetesApi

SETTINGS = [word for value in GIVEN for word in ("--set", value)]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    with kubernetes_api.serve() as served:
        monkeypatch.setenv("KUBECONFIG", str(served.kubeconfig(tmp_path / "kubeconfig")))
        yield served


@pytest.fixture
def run(api: KfpApi, command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    monkeypatch.setattr("pipelines.commands.run.POLL_S", 0.02)
    return lambda *options: command("run", "retrain", "--host", api.url, *SETTINGS, *options)


Run = Callable[..., Outcome]


def test_a_run_is_started_from_an_uploaded_version(api: KfpApi, run: Run):
    outcome = run("--name", "first", "--service-account", "steps", "--pipeline-root", "s3://b/kfp", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    started = api.runs[told["run_id"]]
    assert (started["display_name"], started["service_account"]) == ("first", "steps")
    assert started["runtime_config"]["pipeline_root"] == "s3://b/kfp"
    version = api.versions[started["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["display_name"] == told["version"]
    assert api.experiments[started["experiment_id"]]["display_name"] == "streetvision"
    assert (told["state"], told["url"]) == (None, f"{api.url}/#/runs/details/{told['run_id']}")
    assert outcome.err.startswith("first: started as ")


def test_the_same_pictures_and_code_have_the_same_keys(api: KfpApi, run: Run):
    run()
    run()
    first, second = (one["runtime_config"]["parameters"] for one in api.runs.values())
    assert first == second
    assert first["code_version"].startswith("0.1.0+")
    run("--set", "scenes=20")
    third = list(api.runs.values())[-1]["runtime_config"]["parameters"]
    assert third["data_fingerprint"] != first["data_fingerprint"]
    assert len(api.versions) == 1


def test_an_image_without_the_repository_is_known_by_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    library = tmp_path / "streetvision"
    library.mkdir()
    (library / "__init__.py").write_text("a = 1")
    monkeypatch.setattr("pipelines.versions.streetvision.__file__", str(library / "__init__.py"))
    before = versions.image_version(tag="0.1.0")
    assert versions.image_version(tag="0.1.0") == before
    (library / "__init__.py").write_text("a = 2")
    assert versions.image_version(tag="0.1.0") != before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("--set", "invented=1"), "pipeline has no parameter `invented`"),
        (("--set", "scenes=many"), "parameter `scenes` is `many`, expected Integer"),
        (("--set", "views=0"), "parameter `views` is 0, expected at least 1"),
        (("--set", "node_selector={"), "parameter `node_selector` is `{`, expected Dict"),
        (("--set", "source=/photos"), "which only the cluster sees, and `data_fingerprint` is missing"),
        (("--parameters", "none.yaml"), "`none.yaml` cannot be read"),
        (("--watch-timeout-s", "soon"), "`--watch-timeout-s` is `soon`, expected seconds"),
        (("--set", "views"), "`--set views` has no `=`"),
    ],
)
def test_a_bad_parameter_is_one_sentence_and_starts_nothing(
    api: KfpApi, run: Run, settings: tuple[str, ...], sentence: str
):
    outcome = run(*settings)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert api.requests == []


def test_a_start_whose_answer_was_lost_is_not_repeated(api: KfpApi, run: Run):
    run()
    at = next(index for index, one in enumerate(api.requests) if (one.method, one.path[-5:]) == ("POST", "/runs"))
    api.requests.clear()
    api.faults = [None] * (at - 3) + ["lose"]  # pipeline, version and experiment are there now
    outcome = run("--timeout-s", "5")
    assert outcome.code == 3
    assert "was asked to start run `retrain " in outcome.err
    assert "its answer was lost" in outcome.err
    assert "see in Kubeflow's UI whether it was done" in outcome.err
    assert len(api.asked("POST", "/runs")) == 1
    assert len(api.runs) == 2


def test_steps_are_told_as_they_change(api: KfpApi, cluster: KubernetesApi, run: Run):
    api.plot = [
        lambda run_id: api.move(run_id, "RUNNING", root="RUNNING", data_driver="SUCCEEDED", data="SKIPPED"),
        lambda run_id: api.move(run_id, "RUNNING", synthesize_driver="SUCCEEDED", synthesize="RUNNING"),
        lambda run_id: api.move(run_id, "SUCCEEDED", synthesize="SUCCEEDED", executor="SUCCEEDED"),
    ]
    outcome = run("--name", "a", "--watch")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()[1:]
    assert lines[0] == "data: SKIPPED (nothing it depends on has changed: taken from the cache)"
    assert lines[1] == "synthesize: RUNNING"
    assert lines[2].startswith("synthesize: SUCCEEDED after ")
    assert lines[3:] == ["a: SUCCEEDED"]


def test_a_failed_step_shows_the_log_of_its_pod(api: KfpApi, cluster: KubernetesApi, run: Run):
    def fail(run_id: str) -> None:
        cluster.logs["a-1", "main"] = "\n".join(f"line {number}" for number in range(200)) + "\nDataError: no pictures"
        cluster.add_pod(
            "a-1", run=run_id, node="retrain-x.root.data.executor(0)", phase="Failed",
            main={"terminated": {"exitCode": 1, "reason": "Error"}}, wait={"terminated": {"exitCode": 0}},
        )  # fmt: skip
        cluster.add_pod(
            "other", run="another run", node="retrain-y.root.train.executor", phase="Failed",
            main={"terminated": {"exitCode": 1, "reason": "Error"}},
        )  # fmt: skip
        api.move(run_id, "FAILED", data="FAILED")

    api.plot = [lambda run_id: api.move(run_id, "RUNNING", data="RUNNING"), fail]
    outcome = run("--name", "a", "--watch")
    assert outcome.code == 1
    assert "data: container `main` ended with 1 (Error) (pod a-1)\n" in outcome.out
    assert outcome.out.count("  | ") == 60
    assert outcome.out.count("  | DataError: no pictures\n") == 1
    assert "other" not in outcome.out
    assert outcome.out.endswith("a: FAILED\n")


def test_a_pod_that_fails_after_the_run_did_is_still_shown(api: KfpApi, cluster: KubernetesApi, run: Run):
    def fail() -> None:
        cluster.logs["a-1", "main"] = "late words"
        cluster.add_pod(
            "a-1", run=next(iter(api.runs)), node="x.root.data.executor", phase="Failed",
            main={"terminated": {"exitCode": 1, "reason": "Error"}},
        )  # fmt: skip

    api.plot = [lambda run_id: api.move(run_id, "FAILED", data="FAILED")]
    cluster.plot = [lambda: None, fail]
    assert "  | late words\n" in run("--watch").out


def test_an_image_that_cannot_be_pulled_is_told_once_while_the_run_hangs(api: KfpApi, cluster: KubernetesApi, run: Run):
    def stick(run_id: str) -> None:
        message = 'Back-off pulling image "docker.io/streetvision/pipeline-cpu:0.1.0"'
        cluster.add_pod(
            "a-1", run=run_id, node="x.root.data.executor", phase="Pending",
            main={"waiting": {"reason": "ImagePullBackOff", "message": message}},
        )  # fmt: skip
        api.move(run_id, "RUNNING", data="RUNNING")

    api.plot = [stick]
    outcome = run("--name", "a", "--watch", "--watch-timeout-s", "1")
    assert outcome.code == 3
    assert outcome.out.count("data: container `main` waits: ImagePullBackOff: Back-off pulling image") == 1
    assert outcome.out.endswith("a: still at work after 1 s\n")


@pytest.mark.parametrize(
    ("reason", "message"),
    [("FailedScheduling", "0/1 nodes: 1 Insufficient nvidia.com/gpu"), ("FailedMount", 'secret "a" not found')],
)
def test_a_warning_about_a_pod_that_waits_is_told(
    api: KfpApi, cluster: KubernetesApi, run: Run, reason: str, message: str
):
    def stick(run_id: str) -> None:
        waiting = {"main": {"waiting": {"reason": "ContainerCreating"}}} if reason == "FailedMount" else {}
        cluster.add_pod("a-1", run=run_id, node="x.root.train.executor", phase="Pending", **waiting)
        cluster.add_warning("a-1", reason, message)
        cluster.add_warning("other", "BackOff", "not ours")
        api.move(run_id, "RUNNING", train="RUNNING")

    api.plot = [stick]
    outcome = run("--watch", "--watch-timeout-s", "1")
    assert outcome.out.count(f"train: {reason}: {message} (pod a-1)\n") == 1
    assert "not ours" not in outcome.out


def test_a_driver_that_fails_is_told_as_its_step(api: KfpApi, cluster: KubernetesApi, run: Run):
    api.plot = [lambda run_id: api.move(run_id, "FAILED", train_driver="FAILED")]
    assert "train: FAILED before its own pod started\n" in run("--watch").out


@pytest.mark.parametrize("why", ["forbidden", "no cluster", "gone"])
def test_without_the_cluster_the_run_is_watched_all_the_same(
    api: KfpApi, cluster: KubernetesApi, run: Run, why: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):  # fmt: skip
    if why == "forbidden":
        cluster.forbidden = True
    elif why == "no cluster":
        monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    else:
        cluster.url = "http://127.0.0.1:9"
        cluster.kubeconfig(tmp_path / "kubeconfig")
    api.plot = [lambda run_id: api.move(run_id, "RUNNING"), lambda run_id: api.move(run_id, "FAILED", data="FAILED")]
    outcome = run("--watch")
    assert outcome.code == 1
    assert outcome.out.count("logs of steps cannot be shown") == 1
    assert "Traceback" not in outcome.out + outcome.err


def test_an_api_that_restarts_is_waited_for(
    api: KfpApi, cluster: KubernetesApi, run: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.api._PAUSE_S", 0.01)

    def restart(run_id: str) -> None:
        api.faults = ["drop", 503, 502]

    api.plot = [restart, lambda run_id: api.move(run_id, "SUCCEEDED")]
    assert run("--watch").code == 0


def test_whoever_stops_watching_leaves_the_run_at_work(
    api: KfpApi, cluster: KubernetesApi, run: Run, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.watch.time.sleep", interrupt)
    outcome = run("--watch")
    assert outcome.code == 130
    assert "goes on in Kubeflow" in outcome.out
    assert not api.asked("POST", ":terminate")
