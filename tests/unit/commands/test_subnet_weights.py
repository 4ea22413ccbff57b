"""`streetvision subnet weights` on scores as others write them."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from streetvision.cli import main

Captured = pytest.CaptureFixture[str]
GOLDEN = Path(__file__).parents[2] / "data" / "subnet" / "reward_vectors.json"


def scores(folder: Path, text: str) -> list[str]:
    (folder / "scores.json").write_text(text)
    return ["subnet", "weights", "--scores", str(folder / "scores.json")]


@pytest.mark.parametrize("vector", json.loads(GOLDEN.read_text())["weight_vectors"], ids=lambda vector: vector["name"])
def test_weights_are_the_recorded_ones(vector, tmp_path: Path, capsys: Captured):
    limits = [f"--min-allowed={vector['min_allowed_weights']}", f"--max-limit={vector['max_weight_limit']}"]
    assert main([*scores(tmp_path, json.dumps(vector["scores"])), *limits, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"uids": vector["emit_uids"], "weights": vector["emit_u16"]}


def test_scores_are_numbers_or_texts_that_float_reads(tmp_path: Path, capsys: Captured):
    assert main([*scores(tmp_path, '[NaN, "nan", " 0.5 ", 1, "-1"]'), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"uids": [2, 3], "weights": [32768, 65535]}


def test_scores_come_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: Captured):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"[0, 1]")))
    assert main(["subnet", "weights", "--scores", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"uids": [1], "weights": [65535]}


def test_the_limit_cuts_the_largest(tmp_path: Path, capsys: Captured):
    assert main([*scores(tmp_path, "[1, 0.1, 0.1, 0.1, 0.1]"), "--max-limit", "0.4", "--json"]) == 0
    weights = json.loads(capsys.readouterr().out)["weights"]
    assert max(weights) / sum(weights) == pytest.approx(0.4, abs=1e-4)


def test_without_json_there_is_a_table_with_shares(tmp_path: Path, capsys: Captured):
    assert main(scores(tmp_path, "[0.5, 0, 1.5]")) == 0
    assert capsys.readouterr().out.splitlines() == [
        "   UID     score  weight    share",
        "     0    0.5000   21845   25.00%",
        "     2    1.5000   65535   75.00%",
    ]


def test_the_table_says_why_uid_0_gets_all(tmp_path: Path, capsys: Captured):
    assert main([*scores(tmp_path, "[0.5, 0, 1.5]"), "--min-allowed", "3"]) == 0
    assert "2 of 3 scores are positive, fewer than needed: UID 0 gets all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "got {}, expected a list of scores"),
        ("[]", "0 scores, expected 1 to 65,536"),
        (json.dumps([0.5] * 65_537), "65,537 scores, expected 1 to 65,536"),
        ("[0.5, true]", "the score of UID 1 is true, expected a finite number or NaN"),
        ("[0.5, null]", "the score of UID 1 is null"),
        ('["half"]', 'the score of UID 0 is "half"'),
        ("[Infinity]", "the score of UID 0 is Infinity"),
        ("[1e300]", "the score of UID 0 is 1e+300"),
        ("[0.5", "no JSON, Expecting ',' delimiter at character 5"),
        ("", "no JSON"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_scores_are_one_sentence(text: str, sentence: str, tmp_path: Path, capsys: Captured):
    assert main(scores(tmp_path, text)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: `{tmp_path / 'scores.json'}`: {sentence}")


def test_a_huge_file_is_not_read_to_its_end(capsys: Captured):
    assert main(["subnet", "weights", "--scores", "/dev/zero"]) == 2
    assert "`/dev/zero`: more than 8,388,608 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--min-allowed", "-1"], "--min-allowed is -1, expected 0 or more"),
        (["--max-limit", "1.5"], "--max-limit is 1.5, expected a share from 0 to 1"),
        (["--max-limit", "nan"], "--max-limit is nan, expected a share from 0 to 1"),
    ],
)
def test_limits_that_no_chain_has_are_refused(options: list[str], sentence: str, tmp_path: Path, capsys: Captured):
    assert main([*scores(tmp_path, "[1]"), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_file_is_one_sentence(capsys: Captured):
    assert main(["subnet", "weights", "--scores", "missing.json"]) == 2
    assert "cannot read `missing.json`: No such file or directory" in capsys.readouterr().err
