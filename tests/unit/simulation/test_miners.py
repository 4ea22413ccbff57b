import math

import numpy as np
import pytest

from streetvision.errors import SettingsError
from streetvision.simulation import Latency, Miner, SimulatedMiner, competitors
from streetvision.subnet import network
from tests.unit.simulation.served import HOTKEY


def test_a_miner_is_parsed_from_a_command_line():
    assert Miner.parse(f"http://127.0.0.1:8091/={HOTKEY}", uid=3) == Miner(
        uid=3, url="http://127.0.0.1:8091", hotkey=HOTKEY
    )


@pytest.mark.parametrize("text", ["", HOTKEY, f"127.0.0.1:8091={HOTKEY}", "http://m:1=5Grw", f"http://={HOTKEY}"])
def test_a_miner_of_another_form_is_refused(text: str):
    with pytest.raises(SettingsError, match="expected URL=HOTKEY"):
        Miner.parse(text, uid=0)


def within(count: int, n: int, share: float) -> bool:
    return abs(count - n * share) < 4 * math.sqrt(n * share * (1 - share))


def test_a_simulated_miner_errs_is_silent_and_late_as_often_as_it_is_made():
    rng, n = np.random.default_rng(0), 20_000
    latency = Latency(median_ms=1000, spread=1.2)
    miner = SimulatedMiner(uid=1, accuracy=0.9, no_answer_rate=0.05, latency=latency)
    labels = rng.integers(0, 2, n).tolist()
    answers = [miner.answer(label, rng) for label in labels]
    late = [one for one in answers if one.error]
    assert {(one.error, one.prediction, one.latency_ms) for one in late} == {("timeout", -1.0, 9000.0)}
    assert within(len(late), n, latency.late_share())
    in_time = [(one, label) for one, label in zip(answers, labels, strict=True) if not one.error]
    given = [(one.prediction, label) for one, label in in_time if one.prediction != -1]
    assert within(len(in_time) - len(given), len(in_time), 0.05)
    assert all(0 <= prediction <= 1 for prediction, _ in given)
    for wanted in (0, 1):
        right = [(prediction > 0.5) == label for prediction, label in given if label == wanted]
        assert within(sum(right), len(right), 0.9)
    assert np.median([one.latency_ms for one in answers]) == pytest.approx(1000, rel=0.05)


def test_a_perfect_miner_is_never_wrong_at_one_half():
    rng, miner = np.random.default_rng(1), SimulatedMiner(uid=1, accuracy=1.0, latency=Latency(spread=0))
    for label in (0, 1):
        assert all(round(miner.answer(label, rng).prediction) == label for _ in range(2000))


@pytest.mark.parametrize(("median_ms", "share"), [(8999.0, 0.0), (9001.0, 1.0)])
def test_without_spread_all_answers_take_equally_long(median_ms: float, share: float):
    assert Latency(median_ms=median_ms, spread=0).late_share() == share


def test_competitors_are_spread_as_the_network_was():
    made = competitors(1001, first_uid=2, seed=4, no_answer_rate=0.01)
    assert [one.uid for one in made[:2]] == [2, 3]
    best_last = sorted(one.accuracy for one in made)
    silent = 1 - 0.99 * (1 - made[0].latency.late_share())
    for share, score in ((0.1, network.P10), (0.5, network.MEDIAN)):
        expected = network.long_run(best_last[int(1000 * share)], no_answer_rate=silent).score.mean
        assert expected == pytest.approx(score, abs=0.02)
    assert best_last[-1] == 1.0  # who leaves some out cannot come to the very best score


def test_competitors_are_drawn_by_their_seed():
    assert competitors(5, first_uid=1, seed=1) == competitors(5, first_uid=1, seed=1)
    assert competitors(5, first_uid=1, seed=1) != competitors(5, first_uid=1, seed=2)
    assert competitors(0, first_uid=1, seed=1) == ()


@pytest.mark.parametrize(
    "changes",
    [{"count": -1}, {"no_answer_rate": 1.1}, {"no_answer_rate": float("nan")}],
)
def test_competitors_without_sense_are_refused(changes: dict[str, float]):
    with pytest.raises(SettingsError, match="expected"):
        competitors(**{"count": 1, "first_uid": 1, "seed": 0, **changes})


@pytest.mark.parametrize("latency", [{"median_ms": 0}, {"median_ms": float("nan")}, {"spread": -1}])
def test_a_latency_without_sense_is_refused(latency: dict[str, float]):
    with pytest.raises(SettingsError, match="expected a median above 0"):
        Latency(**latency)
