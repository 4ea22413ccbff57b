import json
from typing import Any

import numpy as np
import pytest

from streetvision.errors import EvidenceError
from streetvision.evaluation import Predictions, Report, evaluate, reliability
from streetvision.subnet.reward import rewards


def answers(n: int = 600, *, accuracy: float = 0.95, seed: int = 0, **columns: Any) -> Predictions:
    """Answers of a made-up model that is right with `accuracy` and sure of what it says."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n).astype(np.uint8)
    right = rng.random(n) < accuracy
    said = np.where(right, label, 1 - label)
    return Predictions(
        **{
            "challenge_id": np.array([f"c/{row}" for row in range(n)]),
            "label": label,
            "probability": np.clip(said + (0.5 - said) * 0.9 * rng.random(n), 0, 1),
            "source": rng.choice(["real", "t2i", "i2i"], n, p=[0.5, 0.25, 0.25]),
            "level": rng.integers(0, 4, n).astype(np.int8),
        }
        | columns
    )


def test_reward_of_a_perfect_model_is_one():
    report = evaluate(answers(accuracy=1.0), resamples=200)
    assert report.reward.mean == pytest.approx(1.0)
    assert report.reward.low == pytest.approx(1.0)
    assert (report.accuracy, report.mcc) == (1.0, 1.0)
    assert report.mistakes == ()


def test_reward_agrees_with_a_plain_replay_in_the_order_given():
    predictions = answers(4000, accuracy=0.96)
    report = evaluate(predictions, resamples=300)
    plain = rewards(predictions.probability, predictions.label)[100:].mean()
    assert report.reward.mean == pytest.approx(plain, abs=0.01)
    assert report.reward.low < plain < report.reward.high
    assert report.reward.mean == pytest.approx(0.84, abs=0.03)  # the specification's long-run score at 96 %


def test_interval_is_wider_where_challenges_share_pictures():
    group = np.array([f"g{row // 20}" for row in range(2000)])
    rng = np.random.default_rng(1)
    right = np.repeat(rng.random(100) < 0.9, 20)  # a picture is right in all of its views or in none
    label = np.repeat(rng.integers(0, 2, 100), 20).astype(np.uint8)
    probability = np.where(right, label, 1 - label) * 0.8 + 0.1
    alone = evaluate(answers(2000, label=label, probability=probability), resamples=300).reward
    grouped = evaluate(answers(2000, label=label, probability=probability, group=group), resamples=300).reward
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_same_seed_gives_the_same_report():
    assert evaluate(answers(), seed=3, resamples=100) == evaluate(answers(), seed=3, resamples=100)


def test_report_survives_json():
    report = evaluate(answers(latency_ms=np.full(600, 7.5)), resamples=100)
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["latency"]["p99_ms"] == 7.5


def test_confusion_and_accuracy_count_exactly_one_half_as_no_roadwork():
    n = 200
    label = (np.arange(n) % 2).astype(np.uint8)
    report = evaluate(answers(n, label=label, probability=np.full(n, 0.5)), resamples=100)
    assert report.confusion.model_dump() == {
        "true_negative": 100,
        "false_positive": 0,
        "false_negative": 100,
        "true_positive": 0,
    }
    assert (report.accuracy, report.mcc, report.brier) == (0.5, 0.0, 0.25)


def test_brier_and_reliability_use_the_calibrated_column():
    predictions = answers()
    calibrated = answers(calibrated=np.full(600, 0.5))
    assert evaluate(predictions, resamples=100).brier != 0.25
    assert evaluate(calibrated, resamples=100).brier == 0.25
    (only,) = evaluate(calibrated, resamples=100).reliability
    assert (only.n, only.probability) == (600, 0.5)


def test_calibration_error_is_the_mean_gap_between_said_and_so():
    probability, label = np.array([0.9] * 10 + [0.2] * 10), np.array([1] * 7 + [0] * 3 + [0] * 8 + [1] * 2)
    low, high = reliability(probability, label.astype(np.uint8))
    assert (low.frequency, high.frequency) == (0.2, 0.7)
    rest = answers(200, probability=np.tile(probability, 10), label=np.tile(label, 10).astype(np.uint8))
    assert evaluate(rest, resamples=100).ece == pytest.approx(0.1)


def test_probability_one_is_in_the_last_bin():
    (only,) = reliability(np.ones(3), np.ones(3, dtype=np.uint8))
    assert (only.low, only.high) == (0.9, 1.0)


def test_the_run_that_is_forecast_is_as_long_as_asked_and_in_the_headline():
    report = evaluate(answers(), resamples=100, run=70)
    assert (report.forecast.challenges, report.forecast.path[-1].n) == (70, 70)
    assert report.headline["run_score_low"] == report.forecast.score.low
    assert report.headline["run_reward"] == report.forecast.mean_reward.mean
    assert evaluate(answers(), resamples=100).forecast.challenges == 500


def test_strata_cover_every_challenge_once_and_put_real_first():
    predictions = answers()
    strata = evaluate(predictions, resamples=100).strata
    assert [(one.source, one.level) for one in strata] == [(s, v) for s in ("real", "i2i", "t2i") for v in range(4)]
    assert sum(one.n for one in strata) == 600
    for one in strata:
        assert one.accuracy.low < one.accuracy.mean < one.accuracy.high or one.accuracy.mean == 1


def test_latency_leaves_out_what_was_not_measured():
    latency_ms = np.full(600, np.nan)
    latency_ms[:101] = np.arange(101)
    latency = evaluate(answers(latency_ms=latency_ms), resamples=100).latency
    assert latency is not None
    assert (latency.n, latency.p50_ms, latency.p90_ms, latency.max_ms) == (101, 50, 90, 100)
    assert evaluate(answers(latency_ms=np.full(600, np.nan)), resamples=100).latency is None


def test_mistakes_are_the_surest_first_and_one_a_group():
    predictions = answers(accuracy=0.7, group=np.array([f"g{row // 40}" for row in range(600)]))
    mistakes = evaluate(predictions, resamples=100).mistakes
    assert len(mistakes) == 12
    sure = [abs(one.probability - 0.5) for one in mistakes]
    assert sure == sorted(sure, reverse=True)
    assert all((one.probability > 0.5) != one.label for one in mistakes)
    groups = [int(one.challenge_id.split("/")[1]) // 40 for one in mistakes]
    assert len(set(groups)) == 12


def test_too_few_challenges_are_refused():
    with pytest.raises(EvidenceError, match="100 challenges were answered, expected more than the first 100"):
        evaluate(answers(100))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"probability": np.array([0.5, 1.5])}, "`probability` of challenge `c/1` is 1.5, expected a number in"),
        ({"probability": np.array([0.5, np.nan])}, "is nan, expected a number in"),
        ({"calibrated": np.array([-0.1, 0.5])}, "`calibrated` of challenge `c/0`"),
        ({"label": np.array([0, 2], dtype=np.uint8)}, "`label` of challenge `c/1` is 2, expected 0 or 1"),
        ({"label": np.array([0.0, 1.0])}, "column `label` holds `float64`, expected whole numbers"),
        ({"level": np.zeros(3, dtype=np.int8)}, "column `level` has shape"),
        ({"challenge_id": np.array(["c/0", "c/0"])}, "challenge `c/0` has 2 rows, expected one"),
    ],
)
def test_unusable_answers_are_refused(columns: dict[str, Any], sentence: str):
    with pytest.raises(EvidenceError, match=sentence):
        answers(2, **columns)
