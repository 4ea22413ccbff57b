"""`streetvision simulate`, as a person calls it."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streetvision.challenge_set import ChallengeSet
from streetvision.cli import main
from streetvision.evidence import Predictions
from streetvision.predictions import write_predictions
from streetvision.subnet.wallet import create_hotkey
from tests.unit.simulation.served import HOTKEY, Answer, Served

Captured = pytest.CaptureFixture[str]
Serve = Callable[[Answer], Served]


@pytest.fixture
def label_of(challenge_set: ChallengeSet) -> dict[bytes, int]:
    return {challenge_set.read_bytes(row): row.label for row in challenge_set.rows}


@pytest.fixture
def good(label_of: dict[bytes, int]) -> Answer:
    """Right but for every eighth picture."""
    wrong = set(list(label_of)[::8])
    return lambda image: (200, 0.9 if (label_of[image] == 1) != (image in wrong) else 0.1)


@pytest.fixture
def table(challenge_set: ChallengeSet, good: Answer, tmp_path: Path) -> Path:
    """What `evaluate` recorded of that miner's model."""
    rows = challenge_set.rows
    write_predictions(
        tmp_path / "predictions.parquet",
        Predictions(
            challenge_id=np.array([row.challenge_id for row in rows]),
            label=np.array([row.label for row in rows], dtype=np.uint8),
            probability=np.array([good(challenge_set.read_bytes(row))[1] for row in rows]),
            source=np.array([row.source for row in rows]),
            level=np.array([row.level for row in rows], dtype=np.int8),
        ),
    )
    return tmp_path / "predictions.parquet"


@pytest.fixture
def state(tmp_path: Path, challenge_set: ChallengeSet) -> Callable[..., list[str]]:
    """The command's options for a stack whose miner is `served`, as `make up` writes them down."""
    create_hotkey(tmp_path / "wallets", "validator", "default")

    def write(served: Served, **more: Any) -> list[str]:
        content = {
            "miner": {"url": served.miner.url, "hotkey": HOTKEY},
            "validator": {
                "wallet_path": str(tmp_path / "wallets"),
                "wallet_name": "validator",
                "hotkey_name": "default",
            },
            "images": str(challenge_set.root),
        }
        (tmp_path / "state.json").write_text(json.dumps(content | more))
        return ["simulate", "--state", str(tmp_path / "state.json")]

    return write


def test_after_make_up_the_command_alone_compares_the_miner_with_its_evaluation(
    served: Serve, good: Answer, state: Callable[..., list[str]], table: Path, capsys: Captured
):
    command = state(served(good), predictions=str(table))
    assert main([*command, "--challenges", "150"]) == 0
    out, err = capsys.readouterr()
    assert err == ""  # quiet where nobody looks at a terminal
    lines = out.splitlines()
    assert lines[0].split()[:6] == ["miner", "asked", "answered", "accuracy", "reward", "score"]
    assert lines[1].split()[1:3] == ["150", "150"]
    assert [line.split()[1] for line in lines[2:6]] == ["0", "1", "2", "3"]
    assert sum(int(line.split()[2]) for line in lines[2:6]) == 150
    [forecast] = [line for line in lines if line.startswith("forecast")]
    assert "inside" in forecast
    predicted, observed = lines[-1].split()[7], lines[1].split()[4]
    assert "predicted a mean reward of" in lines[-1]
    assert predicted == observed


def test_json_is_one_document(
    served: Serve, good: Answer, state: Callable[..., list[str]], table: Path, capsys: Captured
):
    command = state(served(good), predictions=str(table))
    assert main([*command, "--challenges", "20", "--competitors", "5", "--organic", "0.5", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    value = json.loads(out)
    [miner] = value["miners"]
    assert miner["asked"] == miner["answered"] == 20
    assert miner["organic"]["asked"] > 0
    assert set(value["weights"]) <= {str(uid) for uid in range(1, 7)}
    assert len(value["competitors"]) == 5
    assert value["complete"] is True
    comparison = value["comparison"]
    assert comparison["reward_observed"] == pytest.approx(comparison["reward_predicted"], abs=1e-12)
    assert comparison["forecast"]["challenges"] == 20
    assert value["long_run"] is None


def test_without_a_table_it_says_why_there_is_no_forecast(
    served: Serve, good: Answer, state: Callable[..., list[str]], capsys: Captured
):
    miner = served(good)
    for more in ({}, {"predictions": None}):  # written by an older `make up`; a model that never answered the set
        command = state(miner, **more)
        assert main([*command, "--challenges", "3"]) == 0
        assert "state.json` does not say `predictions`" in capsys.readouterr().out
    assert main([*command, "--challenges", "3", "--miner", f"http://127.0.0.1:1={HOTKEY}"]) == 0
    out = capsys.readouterr().out
    assert "forecast    none: name --predictions" in out
    assert "3 x cannot connect" in out


def test_a_table_of_another_set_is_refused_before_anything_is_sent(
    served: Serve, good: Answer, state: Callable[..., list[str]], tmp_path: Path, make_predictions, capsys: Captured
):
    miner = served(good)
    write_predictions(tmp_path / "other.parquet", make_predictions(n=200))
    assert main([*state(miner), "--predictions", str(tmp_path / "other.parquet")]) == 2
    assert "predictions lack challenge" in capsys.readouterr().err
    assert miner.requests == []


def test_a_report_is_one_page(
    served: Serve, good: Answer, state: Callable[..., list[str]], table: Path, tmp_path: Path, capsys: Captured
):
    report = tmp_path / "new" / "simulation.html"
    command = state(served(good), predictions=str(table))
    assert main([*command, "--challenges", "5", "--report", str(report)]) == 0
    assert str(report) in capsys.readouterr().out
    assert "forecast, 95 of 100 runs" in report.read_text()


@pytest.mark.parametrize("as_json", [True, False])
def test_ctrl_c_shows_what_was_reached(
    served: Serve, good: Answer, state: Callable[..., list[str]], tmp_path: Path, capsys: Captured, as_json: bool
):
    def interrupting(image: bytes) -> tuple[int, Any]:
        if len(miner.requests) == 8:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return good(image)

    miner = served(interrupting)
    report = tmp_path / "r.html"
    code = main([*state(miner), "--challenges", "500", "--report", str(report), *(["--json"] if as_json else [])])
    out, err = capsys.readouterr()
    assert code == 130
    assert "interrupted: this is what was reached" in err
    assert "Interrupted" in report.read_text()
    if as_json:
        value = json.loads(out)
        assert (value["complete"], value["miners"][0]["asked"]) == (False, 7)
    else:
        assert out.splitlines()[1].split()[1:3] == ["7", "7"]


def test_a_terminal_shows_how_it_stands(
    served: Serve, label_of: dict[bytes, int], state: Callable[..., list[str]], capsys: Captured, monkeypatch
):
    command = state(served(lambda image: (500, None)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*command, "--challenges", "12"]) == 0
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "reward 0.000, score 0.000, 12 errors" in shown


def test_without_any_miner_an_accuracy_is_placed_in_the_network(capsys: Captured):
    assert main(["simulate", "--accuracy", "0.96", "--challenges", "200"]) == 0
    out = capsys.readouterr().out
    assert "accuracy 0.96 comes to score 0.83" in out
    assert "percentile 5." in out
    assert "P10 0.873, median 0.949, mean 0.935, P90 0.997" in out


def test_an_accuracy_has_a_rank_among_competitors(capsys: Captured):
    ranks = {}
    for accuracy in ("0.7", "1"):
        command = ["simulate", "--accuracy", accuracy, "--no-answer-rate", "0.01", "--competitors", "30"]
        assert main([*command, "--challenges", "100", "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        ranks[accuracy] = value["miners"][0]["rank"]
        assert value["long_run"]["no_answer_rate"] == 0.01
        assert value["miners"][0]["answered"] < 102
    assert ranks["0.7"] == 31
    assert ranks["1"] < 12


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--regime", "R4"], "regime `R4` is halted"),
        (["--regime", "R4", "--accuracy", "0.9"], "regime `R4` is halted"),
        (["--regime", "R7"], "regime is `R7`, expected one of"),
        (["--accuracy", "1.5"], "accuracy is 1.5, expected a share from 0 to 1"),
        (["--accuracy", "0.9", "--no-answer-rate", "-1"], "no-answer rate is -1.0, expected a share"),
        (["--accuracy", "0.9", "--competitors", "-1"], "-1 competitors were asked for"),
        (["--accuracy", "0.9", "--competitors", "1", "--competitor-latency-ms", "0"], "expected a median above 0"),
        (["--accuracy", "0.9", "--challenges", "0"], "0 challenges"),
        (["--accuracy", "0.9", "--time-scale", "-1"], "time scale is -1.0"),
        (["--accuracy", "0.9", "--organic", "-1"], "expected 0 to 100"),
        (["--no-answer-rate", "0.1"], "--no-answer-rate is given without --accuracy"),
        (["--miner", "http://m"], "expected URL=HOTKEY"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_without_sense_are_one_sentence(
    options: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", *options]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert sentence in err
    assert out == ""


def test_a_regime_with_other_pictures_than_the_set_s_is_refused(
    served: Serve, good: Answer, state: Callable[..., list[str]], capsys: Captured
):
    miner = served(good)
    assert main([*state(miner), "--regime", "R2"]) == 2
    assert "was drawn for R1, whose pictures are others" in capsys.readouterr().err
    assert miner.requests == []


def test_r0_calls_its_own_route_and_is_not_compared(
    served: Serve, good: Answer, state: Callable[..., list[str]], table: Path, capsys: Captured
):
    miner = served(good)
    assert main([*state(miner, predictions=str(table)), "--regime", "R0", "--challenges", "3"]) == 0
    assert {request.path for request in miner.requests} == {"/ExtendedImageSynapse"}
    assert "forecast    none: regime is `R0`" in capsys.readouterr().out
