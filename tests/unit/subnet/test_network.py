"""What accuracy buys, against the figures that the validator's own code gave, and the network it is compared with."""

import numpy as np
import pytest

from streetvision.errors import SettingsError
from streetvision.subnet import network

# Long-run scores simulated with the validator's own code. Source: natixnetwork/streetvision-subnet @ 28a1755
BY_ACCURACY = {
    1.00: 1.0, 0.99: 0.956, 0.98: 0.914, 0.97: 0.879, 0.96: 0.840, 0.95: 0.80,
    0.93: 0.716, 0.90: 0.62, 0.85: 0.487, 0.80: 0.35, 0.70: 0.19, 0.50: 0.025,
}  # fmt: skip
BY_NO_ANSWER_RATE_AT_98 = {0.0: 0.917, 0.01: 0.908, 0.02: 0.894, 0.05: 0.865, 0.1: 0.822, 0.2: 0.732}


@pytest.mark.parametrize(("accuracy", "score"), BY_ACCURACY.items())
def test_what_accuracy_buys(accuracy: float, score: float):
    assert network.long_run(accuracy).score.mean == pytest.approx(score, abs=0.02)


@pytest.mark.parametrize(("rate", "score"), BY_NO_ANSWER_RATE_AT_98.items())
def test_what_silence_costs(rate: float, score: float):
    assert network.long_run(0.98, no_answer_rate=rate).score.mean == pytest.approx(score, abs=0.02)


def test_the_four_published_figures_are_met():
    assert [network.percentile(score) for score in (0.873, 0.949, 0.997)] == pytest.approx([10, 50, 90])
    middles = (np.arange(100_000) + 0.5) / 100_000
    scores = network.quantile(middles)
    assert scores.mean() == pytest.approx(0.935, abs=1e-4)
    assert np.quantile(scores, (0.1, 0.5, 0.9)) == pytest.approx([0.873, 0.949, 0.997], abs=1e-4)
    assert np.mean(scores > 0.9) == pytest.approx(0.81, abs=0.1)  # published beside them


def test_percentiles_and_quantiles_undo_each_other_and_never_turn():
    scores = np.linspace(0, 1, 501)
    percents = np.array([network.percentile(score) for score in scores])
    assert np.all(np.diff(percents) >= 0)
    assert (percents[0], percents[-1]) == (0.0, 100.0)
    known = percents > 1e-6
    assert network.quantile(percents[known] / 100) == pytest.approx(scores[known], abs=1e-9)


def test_with_accuracy_0_96_a_miner_is_in_the_bottom_tenth():
    expected = network.long_run(0.96)
    assert 3 < expected.percentile < 10
    assert expected.score.low < 0.75 < expected.score.mean < 0.95 < expected.score.high


def test_an_accuracy_is_found_again_by_its_score():
    for rate in (0.0, 0.02):
        scores = [network.long_run(accuracy, no_answer_rate=rate).score.mean for accuracy in (0.7, 0.96, 0.99)]
        assert network.accuracies(scores, no_answer_rate=rate) == pytest.approx([0.7, 0.96, 0.99], abs=0.005)
    assert network.accuracies([0.0, 1.0]).tolist() == [0.5, 1.0]


def test_more_accuracy_is_never_less_score():
    scores = [network.long_run(accuracy).score.mean for accuracy in (0.4, 0.5, 0.6, 0.8, 0.95, 1)]
    assert np.all(np.diff(scores) > 0)


def test_under_another_exponent_there_is_no_percentile():
    expected = network.long_run(0.96, exponent=1)
    assert expected.percentile is None
    assert network.long_run(0.96).score.mean < expected.score.mean < 0.96


@pytest.mark.parametrize("shares", [(1.1, 0.0), (-0.1, 0.0), (float("nan"), 0.0), (0.9, 1.5), (0.9, -1.0)])
def test_a_share_outside_0_to_1_is_refused(shares: tuple[float, float]):
    with pytest.raises(SettingsError, match="expected a share from 0 to 1"):
        network.long_run(shares[0], no_answer_rate=shares[1])
