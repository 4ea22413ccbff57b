import numpy as np
import pytest

from streetvision.errors import EvidenceError
from streetvision.evidence import Predictions
from streetvision.forecast import Forecast, draw_run, forecast
from streetvision.subnet.reward import Tracker

CHALLENGES, GROUPS = 4000, 800


def answers(rng: np.random.Generator, *, n: int = CHALLENGES, groups: int = GROUPS, accuracy: float = 0.96):
    """Answers that are right or wrong group by group: in most groups always right, in some mostly wrong."""
    of_group = rng.beta(accuracy, 1 - accuracy, groups)
    group = np.repeat(np.arange(groups), n // groups)
    label = rng.integers(0, 2, groups)[group].astype(np.uint8)
    right = rng.random(n) < of_group[group]
    return Predictions(
        challenge_id=np.arange(n).astype(np.str_),
        label=label,
        probability=np.where(right, label, 1 - label) * 0.8 + 0.1,
        source=np.full(n, "real"),
        level=np.zeros(n, dtype=np.int8),
        group=group.astype(np.str_),
    )


def run(predictions: Predictions, order: np.ndarray) -> tuple[float, float]:
    """Mean reward and final score, answer by answer."""
    tracker = Tracker()
    steps = [
        tracker.update(float(predictions.probability[row]), int(predictions.label[row]), "hotkey") for row in order
    ]
    return float(np.mean([step.reward for step in steps])), tracker.score


def inside(outcome: tuple[float, float], predicted) -> tuple[bool, bool]:
    mean, score = outcome
    return (
        predicted.mean_reward.low <= mean <= predicted.mean_reward.high,
        predicted.score.low <= score <= predicted.score.high,
    )


@pytest.mark.parametrize("challenges", [1, 7, 61, 500])
def test_one_run_is_the_replay_of_its_draw(challenges: int):
    predictions = answers(np.random.default_rng(0))
    one = forecast(predictions, challenges=challenges, seed=5, resamples=1)
    mean, score = run(predictions, draw_run(np.random.default_rng(5), CHALLENGES, challenges))
    assert one.mean_reward.mean == pytest.approx(mean, abs=1e-12)
    assert one.score.mean == pytest.approx(score, abs=1e-12)
    assert one.path[-1].median == pytest.approx(score, abs=1e-12)


def test_the_path_is_the_score_on_the_way():
    predictions = answers(np.random.default_rng(0))
    one = forecast(predictions, challenges=500, seed=5, resamples=1)
    order = draw_run(np.random.default_rng(5), CHALLENGES, 500)
    assert (one.path[0].n, one.path[0].high, one.path[-1].n) == (0, 0.0, 500)
    for point in one.path[1::10]:
        assert point.median == pytest.approx(run(predictions, order[: point.n])[1], abs=1e-12)


def test_a_run_draws_every_challenge_alike_and_some_again():
    drawn = draw_run(np.random.default_rng(0), 50, 50_000)
    counts = np.bincount(drawn, minlength=50)
    assert len(counts) == 50
    assert np.abs(counts - 1000).max() < 4.5 * (1000 * 0.98) ** 0.5


def test_a_perfect_miner_climbs_to_one():
    predictions = answers(np.random.default_rng(0), accuracy=1 - 1e-12)
    perfect = forecast(predictions, challenges=90, resamples=300)
    for point in perfect.path[
        1:
    ]:  # of one class alone the first reward is 0.125; where both come at once, all others 1
        assert point.high == pytest.approx(1 - 0.95**point.n - 0.875 * 0.05 * 0.95 ** (point.n - 1), abs=1e-12)


def test_the_ends_hold_a_score_that_a_validator_kept_as_float32():
    predictions = answers(np.random.default_rng(0), accuracy=1 - 1e-12)
    perfect = forecast(predictions, challenges=500, resamples=100)
    score = np.float32(0)
    for reward in [0.125] + [1.0] * 499:
        score = np.float32(0.05) * np.float32(reward) + np.float32(0.95) * score
    assert perfect.score.low <= float(score) <= perfect.score.high


def test_without_groups_every_challenge_stands_for_itself():
    rng = np.random.default_rng(1)
    n = 2000
    label = rng.integers(0, 2, n).astype(np.uint8)
    right = rng.random(n) < 0.95
    columns = {
        "challenge_id": np.arange(n).astype(np.str_),
        "label": label,
        "probability": np.where(right, label, 1 - label) * 1.0,
        "source": np.full(n, "real"),
        "level": np.zeros(n, dtype=np.int8),
    }
    alone = forecast(Predictions(**columns), challenges=200, resamples=400)
    named = forecast(Predictions(**columns, group=np.arange(n).astype(np.str_)), challenges=200, resamples=400)
    assert alone.mean_reward == named.mean_reward
    assert width(alone.new_pictures.mean_reward) == pytest.approx(width(named.new_pictures.mean_reward), rel=0.15)


def width(interval) -> float:
    return interval.high - interval.low


def test_new_pictures_leave_more_open_than_a_longer_run_can_settle():
    predictions = answers(np.random.default_rng(2))
    short = forecast(predictions, challenges=500, resamples=600)
    long = forecast(predictions, challenges=4000, resamples=200)
    assert width(short.new_pictures.mean_reward) > 1.05 * width(short.mean_reward)
    assert width(long.new_pictures.mean_reward) > 1.8 * width(long.mean_reward)


def test_groups_of_different_size_weigh_by_their_challenges():
    n = 1000
    label = (np.arange(n) % 2).astype(np.uint8)
    right = np.arange(n) < 900  # one group of 900 that is right, and 100 single challenges that are wrong
    predictions = Predictions(
        challenge_id=np.arange(n).astype(np.str_),
        label=label,
        probability=np.where(right, label, 1 - label) * 1.0,
        source=np.full(n, "real"),
        level=np.zeros(n, dtype=np.int8),
        group=np.where(right, "large", np.arange(n).astype(np.str_)),
    )
    outlook = forecast(predictions, challenges=300, resamples=400).new_pictures
    assert outlook.mean_reward.low == 0.0  # the large group is left out of a third of all draws of 101 groups
    assert outlook.mean_reward.high > 0.7


def test_the_same_seed_gives_the_same_forecast_and_it_survives_json():
    predictions = answers(np.random.default_rng(3), n=400, groups=100)
    one = forecast(predictions, challenges=50, seed=3, resamples=50)
    assert one == forecast(predictions, challenges=50, seed=3, resamples=50)
    assert one != forecast(predictions, challenges=50, seed=4, resamples=50)
    assert Forecast.model_validate_json(one.model_dump_json()) == one


def test_a_run_of_nothing_is_refused():
    with pytest.raises(EvidenceError, match="a run of 0 challenges out of 400"):
        forecast(answers(np.random.default_rng(0), n=400, groups=100), challenges=0)


@pytest.mark.slow
def test_19_of_20_runs_on_the_same_pictures_end_inside():
    rng = np.random.default_rng(11)
    predictions = answers(rng)
    predicted = forecast(predictions, challenges=500)
    hits = np.array([inside(run(predictions, rng.integers(0, CHALLENGES, 500)), predicted) for _ in range(200)])
    assert np.all((hits.mean(axis=0) >= 0.92) & (hits.mean(axis=0) <= 0.98)), hits.mean(axis=0)


@pytest.mark.slow
def test_19_of_20_runs_on_new_pictures_end_inside():
    rng = np.random.default_rng(12)
    hits = []
    for seed in range(200):
        predicted = forecast(answers(rng), challenges=500, seed=seed, resamples=500).new_pictures
        fresh = answers(rng, n=500, groups=500)  # every challenge is of another picture
        hits.append(inside(run(fresh, np.arange(500)), predicted))
    share = np.mean(hits, axis=0)
    assert np.all((share >= 0.92) & (share <= 0.98)), share
