"""The main job on a person's own few photos, by the commands behind `make run`, `make up` and `make down`."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from serving.local import processes
from streetvision.curation.prediction_log import read_log, segment_files
from streetvision.data.procedural import ProceduralSource
from streetvision.inference.model_directory import ModelDirectory
from streetvision.registry.decision import Decision, Policy
from streetvision.registry.mlflow import Registry
from tests.brightness import describe, write_model_directory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]  # every step is a process of its own that imports its libraries

ROOT = Path(__file__).parents[3]
SMALL = (
    "--challenges",
    "20",
    "--set",
    "challenges=150",
    "--set",
    "views=1",
    "--set",
    "share_t2i=0.1",
    "--set",
    "share_i2i=0.1",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, picture in enumerate(ProceduralSource(scenes=24, seed=5, frames=(1, 1), workers=1)):
        path = folder / ("none", "roadwork")[picture.label] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture.data)
    (folder / "none" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return folder


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


def python(module: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def local(state: Path, *arguments: str, **environment: str) -> str:
    result = python("serving.local", "--state", str(state), *arguments, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def ours(state: Path) -> list[str]:
    """Command lines of processes that name the state."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(state) in line and file.parent.name != str(os.getpid()):
            found.append(line)
    return found


@pytest.fixture(scope="module")
def first(photos: Path, state: Path) -> str:
    return local(state, "run", "--data", str(photos), *SMALL)


def test_a_few_photos_end_in_a_served_challenger_and_honest_words(first: str, state: Path):
    summary = json.loads((state / "summary.json").read_text())
    assert summary["verdict"] == "not enough evidence"
    assert summary["champion"] is None
    assert summary["simulation"]["answered"] == 20
    assert summary["simulation"]["reward_observed"] == pytest.approx(
        summary["simulation"]["reward_predicted"], abs=1e-9
    )
    seen = summary["simulation"]
    for name, observed in (("score", seen["score"]), ("mean_reward", seen["reward_observed"])):
        ends = seen["forecast"][name]
        assert seen["forecast"][f"{name}_inside"] is (ends["low"] <= observed <= ends["high"])
        assert f"the forecast [{ends['low']:.3f}, {ends['high']:.3f}]" in first
    assert "forecast, 95 of 100 runs" in Path(seen["report"]).read_text()
    assert "for this demonstration only" in first
    assert "broken.jpg" in first  # left out, and said
    assert (state / "report.html").stat().st_size < 4_000_000
    assert ours(state) == []


@pytest.mark.usefixtures("first")
def test_the_second_run_takes_what_it_can_from_the_cache_and_a_new_photo_does_not(photos: Path, state: Path):
    again = local(state, "run", "--data", str(photos), *SMALL)
    assert again.count("taken from the cache") == 3
    edited = local(state, "run", "--data", str(photos), *SMALL, STREETVISION_CODE_VERSION="another library")
    assert edited.count("taken from the cache") == 0
    (photos / "none" / "broken.jpg").unlink()
    fewer = local(state, "run", "--data", str(photos), *SMALL)
    assert fewer.count("taken from the cache") == 0


@pytest.mark.usefixtures("first")
def test_a_stack_stays_up_answers_a_validator_as_forecast_and_leaves_nothing_behind(state: Path):
    local(state, "up")
    try:
        content = json.loads((state / "state.json").read_text())
        assert set(content) == {"predictor", "miner", "validator", "mlflow", "model_dir", "images", "predictions"}
        running = json.loads(local(state, "status", "--json"))["running"]
        assert running == {"predictor": True, "miner": True, "mlflow": True}
        assert "is up already" in python("serving.local", "--state", str(state), "up").stderr
        with urllib.request.urlopen(f"{content['mlflow']['url']}/health", timeout=5) as answer:
            assert answer.status == 200
        simulated = python("streetvision.cli", "simulate", "--state", str(state / "state.json"), "--json")
        value = json.loads(simulated.stdout)
        assert value["miners"][0]["answered"] == 500, simulated.stderr
        comparison = value["comparison"]
        assert comparison["reward_observed"] == pytest.approx(comparison["reward_predicted"], abs=1e-9)
        assert (comparison["score_inside"], comparison["reward_inside"]) == (True, True), comparison
    finally:
        local(state, "down")
    log = read_log(segment_files(state / "miner" / "predictions"))
    assert [row.outcome for row in log.rows] == ["answered"] * 500
    assert not any(processes.alive(content[name]["pid"]) for name in ("predictor", "miner", "mlflow"))
    assert ours(state) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_that_is_stopped_leaves_no_process_and_nothing_half_written(
    photos: Path, tmp_path: Path, number: signal.Signals
):
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.local", "--state", str(tmp_path), "run", "--data", str(photos), *SMALL],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("synthesize"):
            break
    time.sleep(2)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), errors
    assert number == signal.SIGKILL or "interrupted" in errors
    deadline = time.monotonic() + 15
    while ours(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ours(tmp_path) == []
    assert not (tmp_path / "summary.json").exists()


def served_version(state: Path) -> str:
    url = json.loads((state / "state.json").read_text())["predictor"]["url"]
    with urllib.request.urlopen(f"{url}/v2/models/roadwork", timeout=5) as answer:
        return json.load(answer)["versions"][0]


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.usefixtures("first")
def test_a_rollout_replaces_the_predictor_that_is_up_and_a_broken_model_comes_back_out(state: Path, tmp_path: Path):
    registry = Registry(f"sqlite:///{state}/mlflow.db", state / "models")

    def promote(model: ModelDirectory) -> int:
        champion = registry.champion()
        decision = Decision(verdict="promote", reasons=("better",), n=4000, policy=Policy())
        version = registry.register(model.path, decision=decision, params={}, metrics={}).version
        return registry.promote(version, expected_champion=champion.version if champion else None).version

    def roll_out() -> "subprocess.CompletedProcess[str]":
        return python("streetvision.cli", "rollout", "--state", str(state), "--json")

    assert "no predictor is up" in roll_out().stderr
    local(state, "up")
    try:
        nobody = roll_out()
        assert (nobody.returncode, "has the alias `champion`" in nobody.stderr) == (2, True)
        good = ModelDirectory.open(write_model_directory(tmp_path / "good"))
        version = promote(good)
        assert json.loads(roll_out().stdout) == {"outcome": "rolled out", "version": version, "sha256": good.sha256}
        assert served_version(state) == good.sha256[:12]
        assert json.loads(roll_out().stdout)["outcome"] == "unchanged"

        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "model.onnx").write_bytes(b"no model")
        bad = promote(describe(tmp_path / "bad"))
        failed = roll_out()
        assert failed.returncode == 1
        assert f"version {bad} was not rolled out" in failed.stderr
        assert served_version(state) == good.sha256[:12]
        assert registry.champion().version == version
        running = json.loads(local(state, "status", "--json"))["running"]
        assert running == {"predictor": True, "miner": True, "mlflow": True}
    finally:
        local(state, "down")
    assert ours(state) == []
