"""Every command explains itself, and its exit code says what came of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from streetvision.cli import main
from streetvision.predictions import write_predictions

Captured = pytest.CaptureFixture[str]
COMMANDS = [
    ["data", "build"],
    ["synthesize"],
    ["train"],
    ["subnet", "challenges"],
    ["subnet", "replay"],
    ["subnet", "weights"],
    ["subnet", "sentinel"],
    ["evaluate"],
    ["gate"],
    ["engine"],
    ["simulate"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_json(command: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["data", "build", "missing", "--out", "out"], "missing"),
        (["synthesize", "--manifest", "missing", "--out", "out"], "no `manifest.parquet` in `missing`"),
        (["train", "--manifest", "missing", "--out", "out"], "no `manifest.parquet` in `missing`"),
        (["subnet", "challenges", "--images", "missing", "--out", "out"], "`missing` does not exist"),
        (["evaluate", "--model-dir", "m", "--challenge-set", "missing", "--out", "out"], "no `challenges.parquet`"),
        (["gate", "--challenger", "missing"], "cannot read prediction table `missing`"),
        (
            ["train", "--manifest", "missing", "--out", "out", "--seed", "-1"],
            "--seed is -1, expected a number from 0 on",
        ),
        (["simulate"], "does not say `validator.wallet_path`"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    command: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "wrong", "verdict", "code"),
    [(4000, 0.05, "promote", 0), (4000, 0.45, "keep", 1), (400, 0.05, "not enough evidence", 3)],
)
def test_the_gate_s_exit_code_is_its_verdict(
    count: int,
    wrong: float,
    verdict: str,
    code: int,
    tmp_path: Path,
    make_predictions,
    capsys: pytest.CaptureFixture[str],
):
    rows = np.arange(int(count * wrong)) * int(1 / wrong) % count
    write_predictions(tmp_path / "a.parquet", make_predictions(count, wrong=rows, groups=min(count, 800)))
    assert main(["gate", "--challenger", str(tmp_path / "a.parquet"), "--json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict
