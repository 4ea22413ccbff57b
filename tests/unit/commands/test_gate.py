"""`streetvision gate` on tables as others write them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streetvision.cli import main
from streetvision.inference.model_directory import ModelDirectory

Captured = pytest.CaptureFixture[str]
Write = Callable[..., str]
N = 4000


def columns(*, wrong: int = 0, n: int = N, group: bool = False) -> dict[str, object]:
    """Answers, every so many-th of which is wrong, in types that nobody asked for."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, n)
    right = np.ones(n, bool)
    right[: n // 2][: 2 * wrong : 2] = False
    values = {
        "challenge_id": pa.array([f"c{row}" for row in range(n)], pa.large_string()),
        "label": label,
        "probability": np.where((label == 1) == right, 0.9, 0.1).astype(np.float32),
        "source": pa.array(rng.choice(["real", "t2i", "i2i"], n)).dictionary_encode(),
        "level": rng.integers(0, 4, n),
    }
    return values | ({"group": np.arange(n) % 800} if group else {})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, values: dict[str, object], *, shuffled: bool = False, rows: int | None = None) -> str:
        table = pa.table(values)
        if shuffled:
            table = table.take(np.random.default_rng(5).permutation(len(table)))
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table.slice(0, rows), path)
        return str(path)

    return write


@pytest.fixture
def quick(tmp_path: Path) -> list[str]:
    """A policy of few resamples."""
    (tmp_path / "policy.yaml").write_text("resamples: 200\n")
    return ["--policy", str(tmp_path / "policy.yaml")]


def gate(champion: str, challenger: str, *options: str) -> int:
    return main(["gate", "--champion", champion, "--challenger", challenger, *options])


@pytest.mark.parametrize("group", [False, True])
def test_a_better_challenger_is_promoted(write: Write, quick: list[str], capsys: Captured, group: bool):
    champion = write("champion", columns(wrong=160, group=group), shuffled=True)
    challenger = write("challenger", columns(wrong=80, group=group))
    assert gate(champion, challenger, *quick, "--json") == 0
    decision = json.loads(capsys.readouterr().out)
    assert decision["verdict"] == "promote"
    assert decision["mcnemar"] | {"p_value": None} == {"worse": 0, "better": 80, "p_value": None}
    assert 0 < decision["gain"]["low"] < decision["gain"]["mean"] < decision["gain"]["high"]
    assert decision["groups"] == (800 if group else None)
    assert sum(one["n"] for one in decision["strata"]) == N


def test_the_other_way_round_it_is_kept(write: Write, quick: list[str], capsys: Captured):
    better, worse = write("better", columns(wrong=80)), write("worse", columns(wrong=160))
    assert gate(better, worse, *quick, "--json") == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "keep"


@pytest.mark.parametrize("n", [60, 3999])
def test_too_few_challenges_are_exit_code_3(write: Write, quick: list[str], capsys: Captured, n: int):
    champion, challenger = write("champion", columns(wrong=n // 10, n=n)), write("challenger", columns(n=n))
    assert gate(champion, challenger, *quick, "--json") == 3
    assert json.loads(capsys.readouterr().out)["verdict"] == "not enough evidence"


def test_a_person_reads_the_verdict_first_and_then_every_figure(write: Write, quick: list[str], capsys: Captured):
    champion, challenger = write("champion", columns(wrong=160)), write("challenger", columns(wrong=80))
    assert gate(champion, challenger, *quick) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("promote: reward changes by +0.")
    table = {line.split("  ")[0]: line for line in lines}
    for name in ("challenges", "gain", "lower bound", "strata"):
        assert "passed" in table[name]
    for name in ("groups", "brier", "latency", "consistency"):
        assert "not checked" in table[name]
    assert any("right on 80 challenges, champion alone on 0" in line for line in lines)
    assert sum(line.startswith(("real level", "t2i level", "i2i level")) for line in lines) == 12


def test_a_person_reads_every_reason_against_it(write: Write, quick: list[str], capsys: Captured):
    same = write("same", columns(wrong=80))
    assert gate(same, same, *quick) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("keep: reward changes by +0.0000")
    assert lines[1].startswith("  95 % interval of the change")


def test_the_policy_file_decides(write: Write, tmp_path: Path, capsys: Captured):
    champion, challenger = write("champion", columns(wrong=160)), write("challenger", columns(wrong=80))
    policy = tmp_path / "strict.yaml"
    policy.write_text("min_gain: 0.5\nresamples: 200\nseed: 4\n")
    assert gate(champion, challenger, "--policy", str(policy), "--json") == 1
    decision = json.loads(capsys.readouterr().out)
    assert (decision["policy"]["min_gain"], decision["policy"]["seed"]) == (0.5, 4)
    assert gate(champion, challenger, "--policy", str(policy), "--seed", "5", "--json") == 1
    assert json.loads(capsys.readouterr().out)["policy"]["seed"] == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"challenge_id": [f"d{row}" for row in range(N)]}, "8000, such as `c0`, have one answer only"),
        ({"challenge_id": ["c0", *(f"c{row}" for row in range(N - 1))]}, "challenge `c0` has 2 rows, expected one"),
        ({"label": np.zeros(N, int)}, "for the champion and `0` for the challenger"),
        ({"probability": np.full(N, 1.01)}, "is 1.01, expected a number in [0, 1]"),
        ({"probability": np.full(N, -1.0)}, "is -1.0, expected a number in [0, 1]"),
        ({"probability": np.where(np.arange(N) == 7, np.nan, 0.5)}, "`probability` of challenge `c7` is nan"),
        ({"source": None}, "lacks `source`"),
        ({"level": None, "label": None}, "lacks `label`, `level`"),
    ],
)
def test_bad_tables_are_exit_code_2_and_one_sentence(
    write: Write, capsys: Captured, change: dict[str, object], sentence: str
):
    values = {name: value for name, value in (columns() | change).items() if value is not None}
    assert gate(write("champion", columns()), write("challenger", values), "--json") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert sentence in captured.err


def test_missing_rows_are_bad_input_not_too_little_evidence(write: Write, capsys: Captured):
    assert gate(write("champion", columns()), write("challenger", columns(), rows=3000)) == 2
    assert "champion answered 4000 challenges and challenger 3000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--policy", "missing.yaml"], "cannot read policy `missing.yaml`"),
        (["--challenger-model", "missing"], "--challenger-model is `missing`, expected a folder with a model"),
        (["--seed", "-1"], "--seed is -1, expected a number from 0 on"),
    ],
)
def test_bad_options_are_exit_code_2(write: Write, capsys: Captured, options: list[str], sentence: str):
    table = write("table", columns())
    assert gate(table, table, *options) == 2
    assert sentence in capsys.readouterr().err


def test_the_challenger_s_model_directory_is_checked(
    write: Write, quick: list[str], make_model: Callable[..., ModelDirectory], capsys: Captured
):
    champion, challenger = write("champion", columns(wrong=160)), write("challenger", columns(wrong=80))
    model = make_model()
    options = [*quick, "--challenger-model", str(model.path)]
    assert gate(champion, challenger, *options) == 0
    model.model_path.write_bytes(b"altered")
    assert gate(champion, challenger, *options) == 1
    assert "keep: `model.onnx` has sha256" in capsys.readouterr().out
