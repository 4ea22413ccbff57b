"""`streetvision evaluate` with a real, tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from streetvision.challenge_set import ChallengeSet
from streetvision.cli import main
from streetvision.data.manifest import Manifest
from streetvision.evaluation import Report
from streetvision.inference.model_directory import write_config
from streetvision.predictions import read_predictions

Evaluate = Callable[..., int]


@pytest.fixture
def evaluate(model_dir: Path, challenge_set: ChallengeSet, challenge_manifest: Manifest, tmp_path: Path) -> Evaluate:
    """Runs the command on a model that is trained on `challenge_manifest`, as far as it says."""
    settings = {"preset": "brightness", "input_size_px": 32, "threshold": 0.49, "temperature": 1.0, "git_sha": ""}
    write_config(model_dir, data_version=challenge_manifest.version, code_version="c" * 64, **settings)

    def run(*options: object) -> int:
        paths = ["--model-dir", model_dir, "--challenge-set", challenge_set.root, "--out", tmp_path / "out"]
        return main(["evaluate", *map(str, (*paths, *options))])

    return run


def test_it_leaves_report_page_and_answers(
    evaluate: Evaluate, challenge_set: ChallengeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluate("--challenges", 60, "--seed", 3, "--json") == 0
    report = Report.model_validate_json((tmp_path / "out/report.json").read_text())
    assert json.loads(capsys.readouterr().out) == json.loads(report.model_dump_json())
    assert (report.n, report.seed, report.forecast.challenges) == (len(challenge_set), 3, 60)
    assert report.accuracy > 0.9  # the pictures with roadwork are bright
    assert 0 < report.forecast.score.low < report.forecast.score.high < 1 - 0.95**60
    assert len(read_predictions(tmp_path / "out/predictions.parquet")) == len(challenge_set)
    assert "After 60 challenges" in (tmp_path / "out/report.html").read_text()


def test_without_json_it_says_in_which_range_a_run_ends(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluate() == 0
    run = Report.model_validate_json((tmp_path / "out/report.json").read_text()).forecast
    printed = capsys.readouterr().out
    assert "500 challenges from score 0" in printed
    for pictures, outcome in (("these pictures", run), ("others like them", run.new_pictures)):
        (line,) = [line for line in printed.splitlines() if pictures in line]
        assert f"score in [{outcome.score.low:.3f}, {outcome.score.high:.3f}]" in line
        assert f"mean reward in [{outcome.mean_reward.low:.3f}, {outcome.mean_reward.high:.3f}]" in line


def test_a_run_of_nothing_is_refused_before_anything_is_answered(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluate("--challenges", 0) == 2
    assert "a run of 0 challenges was asked for" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_set_of_pictures_that_are_trained_on_is_refused(
    evaluate: Evaluate, challenge_manifest: Manifest, model_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluate("--trained-on", challenge_manifest.root) == 0  # all of it is of the split `challenge`
    (model_dir / "config.json").write_text(
        (model_dir / "config.json").read_text().replace(challenge_manifest.version, "e" * 64)
    )
    assert evaluate("--trained-on", challenge_manifest.root) == 2
    assert "expected eeeeeeeeeeee as the model was trained on" in capsys.readouterr().err
