"""What `docs/subnet.md` says in numbers is what the code gives."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from streetvision.subnet.network import long_run
from streetvision.subnet.regimes import NO_ANSWER, REGIMES
from streetvision.subnet.reward import rewards

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "subnet.md").read_text()
FIGURES = sorted(re.findall(r"!\[.*?\]\((.*?)\)", PAGE))


def row(name: str) -> list[str]:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize("accuracy", ["99 %", "96 %", "90 %", "70 %"])
def test_the_documented_score_of_an_accuracy_is_the_replay_s(accuracy: str):
    said = dict(zip(row("answers right"), row("our replay"), strict=True))[accuracy]
    assert long_run(float(accuracy[:-2]) / 100).score.mean == pytest.approx(float(said), abs=0.0006)


def test_our_replay_and_the_validator_s_agree_within_what_chance_leaves():
    for ours, theirs in zip(row("our replay"), row("the validator's code"), strict=True):
        assert float(ours) == pytest.approx(float(theirs), abs=0.011)


@pytest.mark.parametrize(
    ("mishap", "answer"),
    [
        ("none within 9 seconds, an HTTP error, or exactly -1", NO_ANSWER),
        ("1.2 where there is roadwork: outside [0, 1], but on the right side", 1.2),
        ("wrong, or 0.5 where there is roadwork", 0.0),
        ("wrong, or 0.5 where there is roadwork", 0.5),
        ("1.7, NaN or infinity", 1.7),
        ("1.7, NaN or infinity", float("nan")),
        ("1.7, NaN or infinity", float("inf")),
    ],
)
def test_the_documented_cost_of_a_mishap_is_the_reward_s(mishap: str, answer: float):
    label = (np.arange(400) % 2).astype(np.uint8)
    said = label.astype(np.float64)
    said[151] = answer
    (cost,) = row(mishap)
    assert np.sum(rewards(label.astype(np.float64), label) - rewards(said, label)) == pytest.approx(
        float(cost), abs=0.02
    )


def test_the_documented_regimes_are_those_of_the_code():
    for name, regime in REGIMES.items():
        since, wire, *_ = row(name)
        assert since == ("the beginning" if regime.since is None else f"{regime.since:%-d %B %Y}")
        size = f"{regime.wire_size_px} x {regime.wire_size_px}"
        assert wire.startswith("none" if regime.halted else "its own size" if regime.wire_size_px is None else size)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_there_and_small(name: str):
    file = DOCS / name
    assert 1_000 < file.stat().st_size < 200_000
    if file.suffix == ".svg":
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
