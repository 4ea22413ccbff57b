"""Error rates of the gate under its default policy, with 500 resamples a trial."""

import numpy as np
import pytest

from streetvision.evaluation import Predictions
from streetvision.registry.gate import Policy, decide

pytestmark = [
    pytest.mark.slow,  # hundreds of verdicts: some minutes
    pytest.mark.timeout(1200),
]

POLICY = Policy(resamples=500)
N, ACCURACY, DISCORDANCE = 4000, 0.96, 0.04


def trial(seed, *, gain, stratum_loss=0.0, stratum_size=500, vague=False):
    """Champion and challenger, `gain` of accuracy apart; one stratum may lose `stratum_loss` of it."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, N).astype(np.uint8)
    source, level = rng.choice(["real", "t2i", "i2i"], N, p=[0.5, 0.25, 0.25]), rng.integers(0, 4, N).astype(np.int8)
    draw = rng.random(N)
    only_challenger, only_champion = (DISCORDANCE + gain) / 2, (DISCORDANCE - gain) / 2
    champion = draw >= only_challenger
    challenger = (draw < only_challenger) | (draw >= DISCORDANCE)
    both_wrong = draw >= 1 - (1 - ACCURACY - only_challenger)
    champion, challenger = champion & ~both_wrong, challenger & ~both_wrong
    assert only_champion >= 0
    if stratum_loss:
        source[:stratum_size], level[:stratum_size] = "worse", 0
        challenger[:stratum_size] = champion[:stratum_size] & (rng.random(stratum_size) >= stratum_loss / ACCURACY)
    sure = 0.5 + 0.5 * rng.beta(8, 2, N)

    def answers(right, scale=1.0):
        probability = np.where((label == 1) == right, sure, 1 - sure)
        return Predictions(
            challenge_id=np.array([f"set/{row}" for row in range(N)]),
            label=label,
            probability=probability,
            source=source,
            level=level,
            calibrated=0.5 + scale * (probability - 0.5),
        )

    return answers(champion), answers(challenger, 0.4 if vague else 1.0)


def rate(trials, **world):
    verdicts = [decide(*trial(seed, **world), POLICY).verdict for seed in range(trials)]
    return verdicts.count("promote") / trials


def test_equal_models_are_promoted_in_at_most_5_of_100_trials(record_property):
    promoted = rate(400, gain=0.0)
    record_property("promoted", promoted)
    assert promoted <= 0.05


def test_one_and_a_half_points_are_promoted_in_at_least_90_of_100_trials(record_property):
    promoted = rate(200, gain=0.015)
    record_property("promoted", promoted)
    assert promoted >= 0.90


def test_eight_points_lost_on_one_stratum_of_500_refuse_at_least_95_of_100_trials(record_property):
    promoted = rate(200, gain=0.035, stratum_loss=0.08)
    record_property("promoted", promoted)
    assert promoted <= 0.05


def test_points_bought_by_worse_calibration_are_refused(record_property):
    promoted = rate(100, gain=0.015, vague=True)
    record_property("promoted", promoted)
    assert promoted == 0
