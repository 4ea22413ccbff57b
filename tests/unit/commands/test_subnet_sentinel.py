"""`streetvision subnet sentinel`: what it says, and its exit codes."""

import json
from pathlib import Path

import pytest

from streetvision.cli import main
from tests.unit.subnet.imitation import CHECKOUTS, FORWARD, R1, REWARD, SETTINGS, edited, write

Captured = pytest.CaptureFixture[str]


def sentinel(root: Path, *options: str) -> list[str]:
    return ["subnet", "sentinel", "--upstream", str(root), *options]


@pytest.mark.parametrize("regime", CHECKOUTS)
def test_the_same_rules_exit_with_0_and_list_what_was_checked(regime: str, tmp_path: Path, capsys: Captured):
    assert main(sentinel(write(tmp_path, CHECKOUTS[regime]), "--regime", regime)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"regime {regime}: {len(lines) - 1} facts, {len(lines) - 1} same, 0 not read, 0 different" == lines[-1]
    assert all(line.startswith("same ") for line in lines[:-1])
    assert any("reward, exponent: " in line for line in lines)


def test_a_difference_exits_with_1_and_is_named_last(tmp_path: Path, capsys: Captured):
    changed = edited(R1, (SETTINGS, "EXPONENT = 3.0", "EXPONENT = 2.0"))
    assert main(sentinel(write(tmp_path, changed))) == 1
    line = changed[REWARD].splitlines().index("                reward = reward ** REWARD_CURVE_EXPONENT") + 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"different  {REWARD}:{line}: reward, exponent: found 2, expected 3",
        "regime R1: 46 facts, 45 same, 0 not read, 1 different",
    ]


def test_what_was_not_read_exits_with_2(tmp_path: Path, capsys: Captured):
    assert main(sentinel(write(tmp_path, {**R1, REWARD: "def ("}))) == 2
    out = capsys.readouterr().out
    assert f"not read   reward, exponent: {REWARD} is no Python: line 1" in out
    assert "0 different" in out


def test_a_difference_beside_something_not_read_exits_with_1(tmp_path: Path, capsys: Captured):
    files = {**edited(R1, (FORWARD, "timeout=9", "timeout=4")), REWARD: "def ("}
    assert main(sentinel(write(tmp_path, files))) == 1
    assert "timeout, s: found 4, expected 9" in capsys.readouterr().out


def test_a_halted_subnet_is_named(tmp_path: Path, capsys: Captured):
    assert main(sentinel(write(tmp_path, CHECKOUTS["R4"]))) == 1
    assert "validators are halted: found yes, expected no" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["missing", "file"])
def test_no_checkout_exits_with_2(name: str, tmp_path: Path, capsys: Captured):
    (tmp_path / "file").write_text("")
    assert main(sentinel(tmp_path / name)) == 2
    assert f"`{tmp_path / name}` is no folder" in capsys.readouterr().err


def test_an_empty_folder_exits_with_2(tmp_path: Path, capsys: Captured):
    assert main(sentinel(tmp_path)) == 2
    assert "0 same" in capsys.readouterr().out


def test_an_unknown_regime_exits_with_2(tmp_path: Path, capsys: Captured):
    assert main(sentinel(tmp_path, "--regime", "R9")) == 2
    assert "regime is `R9`" in capsys.readouterr().err


@pytest.mark.parametrize(("regime", "code"), [("R1", 0), ("R3", 1)])
def test_json_has_every_finding(regime: str, code: int, tmp_path: Path, capsys: Captured):
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    assert main(sentinel(write(tmp_path, R1), "--regime", regime, "--json")) == code
    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert document["regime"] == regime
    by_fact = {one["fact"]: one for one in document["findings"]}
    assert by_fact["timeout, s"] | {"line": 0} == {
        "fact": "timeout, s",
        "status": "same",
        "found": 9,
        "expected": 9.0,
        "file": FORWARD,
        "line": 0,
        "reason": "",
    }
    assert by_fact["shares of the sources"]["found"] == {"real": 0.5, "t2i": 0.25, "i2i": 0.25}
