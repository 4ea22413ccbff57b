"""One command at a time holds the state, and what it says is up is checked."""

import json
import os
from pathlib import Path

import pytest

from serving.local.__main__ import main
from serving.local.state import MODULES, State
from streetvision.errors import BusyError, SettingsError


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def test_a_second_run_at_the_same_time_is_refused(state: State, capsys: pytest.CaptureFixture[str]):
    with state.locked():
        with pytest.raises(BusyError, match="another `make run`, `make up` or `make down` is at work"), state.locked():
            pass
        assert main(["--state", str(state.root), "run"]) == 1
    assert "another `make run`" in capsys.readouterr().err
    with state.locked():  # free again
        pass


def test_nothing_is_up_at_first(state: State, capsys: pytest.CaptureFixture[str]):
    assert state.servers() == []
    assert main(["--state", str(state.root), "status"]) == 1
    assert "`make up` starts" in capsys.readouterr().out


def test_a_process_that_took_the_number_of_ours_is_left_alone(state: State, capsys: pytest.CaptureFixture[str]):
    state.root.mkdir()
    entry = {"url": "http://127.0.0.1:1", "pid": os.getpid(), "hotkey": "5", "metrics_url": "http://127.0.0.1:2"}
    content = dict.fromkeys(("predictor", "miner", "mlflow"), entry)
    state.file.write_text(json.dumps({**content, "model_dir": "m", "images": "i"}))
    assert [server.running for server in state.servers()] == [False] * 3
    assert main(["--state", str(state.root), "down"]) == 0
    assert capsys.readouterr().out == "nothing was up\n"
    assert not state.file.exists()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "[]",
        '{"predictor": {"pid": "x"}}',
        json.dumps({name: {"pid": 1} for name in MODULES}),
    ],
)
def test_a_damaged_file_is_one_sentence(state: State, content: str):
    state.root.mkdir()
    state.file.write_text(content)
    with pytest.raises(SettingsError, match="state.json` is damaged"):
        state.servers()


@pytest.mark.parametrize("data", ["missing", "empty"])
def test_photos_that_cannot_be_used_are_said_at_once(
    state: State, tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty").mkdir()
    assert main(["--state", str(state.root), "run", "--data", str(tmp_path / data)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert data in message


def test_a_state_that_is_no_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", Path("/proc/nowhere")):
        assert main(["--state", str(path), "run"]) == 1
        assert capsys.readouterr().err.startswith("error: cannot write")


def test_a_damaged_summary_is_one_sentence(state: State, capsys: pytest.CaptureFixture[str]):
    state.root.mkdir()
    state.summary.write_text("{")
    with pytest.raises(SettingsError, match=r"summary.json` is damaged"):
        state.read_summary()


@pytest.mark.parametrize("count", ["0", "-5", "x"])
def test_a_count_below_one_is_refused_before_anything_runs(state: State, count: str):
    with pytest.raises(SystemExit) as stopped:
        main(["--state", str(state.root), "run", "--challenges", count])
    assert stopped.value.code == 2
