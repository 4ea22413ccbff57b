"""`streetvision subnet replay` on files, on pipes, and on what is no event."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from streetvision.cli import main

Captured = pytest.CaptureFixture[str]
COMMAND = [sys.executable, "-m", "streetvision.cli", "subnet", "replay"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
GOLDEN = Path(__file__).parents[2] / "data" / "subnet" / "reward_vectors.json"


def line(prediction: float | str = 0.9, label: int = 1, hotkey: str = "a") -> str:
    return json.dumps({"prediction": prediction, "label": label, "hotkey": hotkey}) + "\n"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "events.jsonl"
    path.write_text("".join(lines))
    return path


def strict(text: str) -> dict[str, float]:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("vector", json.loads(GOLDEN.read_text())["vectors"], ids=lambda vector: vector["name"])
def test_every_event_gives_a_line_with_what_the_network_recorded(vector, tmp_path: Path, capsys: Captured):
    events = write(tmp_path, *(line(one["prediction"], one["label"], one["hotkey"]) for one in vector["steps"]))
    assert main(["subnet", "replay", str(events), "--json"]) == 0
    steps = [strict(text) for text in capsys.readouterr().out.splitlines()]
    score = 0.0
    for step, expected in zip(steps, vector["expected"], strict=True):
        assert list(step) == ["reward", "mcc", "accuracy", "penalty", "score"]
        assert step["reward"] == pytest.approx(expected["reward"], abs=1e-11)
        assert step["mcc"] == pytest.approx(expected["mcc_100"], abs=1e-11)
        assert step["accuracy"] == pytest.approx(expected["accuracy_10"], abs=1e-11)
        score = 0.05 * expected["reward"] + 0.95 * score
        assert step["score"] == pytest.approx(score, abs=1e-10)
    assert list(tmp_path.iterdir()) == [events]


def test_no_line_has_a_nan(tmp_path: Path, capsys: Captured):
    events = write(tmp_path, *(line(p) for p in ("NaN", "Infinity", math.nan, -math.inf, 0.9)))
    assert main(["subnet", "replay", str(events), "--json"]) == 0
    assert [strict(text)["penalty"] for text in capsys.readouterr().out.splitlines()] == [1, 0, 1, 0, 1]


def test_a_line_comes_out_as_soon_as_one_went_in():
    with subprocess.Popen(
        [*COMMAND, "-", "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=BUFFERED
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for reward in (0.125, 0.125):
            process.stdin.write(line())
            process.stdin.flush()
            assert strict(process.stdout.readline())["reward"] == reward  # while standard input stays open
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "summary"])
def test_a_reader_that_went_away_is_no_traceback(options: list[str], tmp_path: Path):
    events = write(tmp_path, *[line()] * 3000)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, str(events), *options], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=BUFFERED
    )
    os.close(writer)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_bad_line_is_named_after_the_lines_before_it(tmp_path: Path, capsys: Captured):
    events = write(tmp_path, line(), line(), line(label=2))
    assert main(["subnet", "replay", str(events), "--json"]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err.startswith(f"error: `{events}`, line 3: label is 2.0, expected 0 or 1\n")


def test_a_bad_line_leaves_no_summary_and_no_plot(tmp_path: Path, capsys: Captured):
    events = write(tmp_path, line(), "nonsense\n")
    assert main(["subnet", "replay", str(events)]) == 2
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == [events]


def test_standard_input_is_named_in_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured):
    with write(tmp_path, "nonsense\n").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["subnet", "replay", "-", "--json"]) == 2
    assert "`standard input`, line 1: no JSON" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_what_cannot_be_read_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
):
    monkeypatch.chdir(tmp_path)
    assert main(["subnet", "replay", name]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot read `{name}`: ")


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "summary"])
def test_no_events_are_refused(options: list[str], tmp_path: Path, capsys: Captured):
    assert main(["subnet", "replay", str(write(tmp_path)), *options]) == 2
    assert "has no events" in capsys.readouterr().err


def test_without_json_there_are_a_summary_and_a_plot(tmp_path: Path, capsys: Captured):
    lines = [line(i % 2, i % 2) for i in range(150)] + [line("NaN"), line(-1)] + [line(hotkey="b")] * 3
    assert main(["subnet", "replay", str(write(tmp_path, *lines))]) == 0
    out = capsys.readouterr().out
    assert "events             155, 154 of them answered" in out
    assert "hotkey changes     1" in out
    assert "poisoned events    2, by 1 answers of neither class" in out
    assert "accuracy           1.0000, of the last 10 answers" in out
    assert f"plot               {tmp_path / 'events.replay.png'}" in out
    with Image.open(tmp_path / "events.replay.png") as picture:
        assert picture.width > 1000


def test_the_plot_goes_where_it_is_asked_for(tmp_path: Path, capsys: Captured):
    plot = tmp_path / "plots" / "score.PNG"
    assert main(["subnet", "replay", str(write(tmp_path, line())), "--json", "--plot", str(plot)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_a_pipe_goes_into_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
):
    monkeypatch.chdir(tmp_path)
    with write(tmp_path, line()).open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["subnet", "replay", "-"]) == 0
    assert "plot               replay.png" in capsys.readouterr().out
    assert (tmp_path / "replay.png").is_file()


def test_a_plot_never_replaces_the_events(tmp_path: Path, capsys: Captured):
    events = write(tmp_path, line()).rename(tmp_path / "events.png")
    assert main(["subnet", "replay", str(events), "--plot", str(events)]) == 2
    assert "which holds the events" in capsys.readouterr().err
    assert main(["subnet", "replay", str(events)]) == 0
    assert events.read_text() == line()


def test_a_plot_is_a_png(tmp_path: Path, capsys: Captured):
    assert main(["subnet", "replay", str(write(tmp_path, line())), "--plot", "score.pdf"]) == 2
    assert "`score.pdf`, expected a name that ends in `.png`" in capsys.readouterr().err


def test_the_reward_is_the_regime_s(tmp_path: Path, capsys: Captured):
    events = write(tmp_path, line())
    for regime, reward in (("R0", 0.5), ("R1", 0.125), ("R2", 0.125), ("R3", 0.125)):
        assert main(["subnet", "replay", str(events), "--regime", regime, "--json"]) == 0
        assert strict(capsys.readouterr().out)["reward"] == reward


@pytest.mark.parametrize(
    ("regime", "sentence"), [("R4", "regime `R4` is halted"), ("R9", "regime is `R9`, expected one of R0")]
)
def test_a_regime_without_rewards_is_refused(regime: str, sentence: str, tmp_path: Path, capsys: Captured):
    assert main(["subnet", "replay", str(write(tmp_path, line())), "--regime", regime]) == 2
    assert sentence in capsys.readouterr().err
