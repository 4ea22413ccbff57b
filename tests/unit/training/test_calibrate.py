import numpy as np
import pytest

from streetvision.inference.threshold import ThresholdMap
from streetvision.subnet.reward import rewards
from streetvision.training.calibrate import calibrate, choose_threshold, fit_temperature, log_loss


def draw(n: int, *, seed: int = 0, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Honest logits with labels drawn from them, weights and groups of one."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, n)
    label = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    return logits, label, np.ones(n), np.arange(n)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_wrong_scale(factor: float) -> None:
    logits, label, weight, group = draw(5000)
    assert fit_temperature(logits * factor, label, weight, group) == pytest.approx(factor, rel=0.08)


def test_a_perfect_but_small_validation_split_does_not_ask_for_certainty() -> None:
    logits = np.array([-2.0, 2.0] * 10)
    label = (logits > 0).astype(np.uint8)
    assert 0.5 < fit_temperature(logits, label, np.ones(20), np.arange(20)) < 1


def test_log_loss_is_that_of_the_probabilities() -> None:
    probability = 1 / (1 + np.exp(-np.array([0.3, -2.0])))
    expected = -(3 * np.log(probability[0]) + np.log(1 - probability[1])) / 4
    assert log_loss(np.array([0.3, -2.0]), np.array([1, 0], dtype=np.uint8), np.array([3.0, 1.0])) == pytest.approx(
        expected
    )


def test_the_threshold_finds_a_cut_that_is_far_from_half() -> None:
    logits, label, weight, group = draw(4000, spread=4.0)
    shifted = 1 / (1 + np.exp(-(logits - 2)))  # what was 0.5 is now 0.12
    threshold = choose_threshold(shifted, label, weight, group, seed=0)
    assert 0.05 <= threshold.value < 0.25
    assert threshold.reward > threshold.reward_at_half + 0.05


def test_the_cut_is_where_the_reward_is_best_and_not_where_accuracy_is() -> None:
    """A doubtful answer is right in 26 of 50 cases: saying roadwork then helps accuracy, but costs correlation."""
    label = np.repeat([1, 1, 1, 0, 0], [100, 52, 48, 48, 152]).astype(np.uint8)
    probability = np.repeat([0.95, 0.6, 0.1, 0.6, 0.1], [100, 52, 48, 48, 152])
    order = np.random.default_rng(0).permutation(np.tile(np.arange(400), 20))
    label, probability = label[order], probability[order]
    threshold = choose_threshold(probability, label, np.ones(len(label)), np.arange(len(label)), seed=0)

    def accuracy(cut: float) -> float:
        return float(np.mean((probability >= cut) == label))

    assert accuracy(0.5) > accuracy(threshold.value)
    assert threshold.value > 0.6
    assert threshold.reward > threshold.reward_at_half + 0.02
    served = ThresholdMap(threshold.value)(probability.astype(np.float32))
    cut_at_half, plain = (rewards(answer.astype(np.float64), label)[100:].mean() for answer in (served, probability))
    assert cut_at_half > plain + 0.02  # what a validator pays for what is served, and for what is not mapped


def test_an_honest_model_is_cut_at_half() -> None:
    logits, label, weight, group = draw(3000, spread=4.0)
    threshold = choose_threshold(1 / (1 + np.exp(-logits)), label, weight, group, seed=0)
    assert threshold.value == pytest.approx(0.5, abs=0.051)


def test_little_evidence_does_not_move_the_cut_far() -> None:
    moved = [
        abs(choose_threshold(1 / (1 + np.exp(-logits)), label, weight, np.arange(40) // 4, seed=0).value - 0.5)
        for logits, label, weight, _ in (draw(40, seed=seed) for seed in range(6))
    ]
    assert np.median(moved) <= 0.1


def test_the_same_seed_gives_the_same_calibration() -> None:
    logits, label, weight, group = draw(300)
    assert calibrate(logits, label, weight, group, seed=3) == calibrate(logits, label, weight, group, seed=3)


def test_calibration_lowers_the_log_loss_of_an_overconfident_head() -> None:
    logits, label, weight, group = draw(1000)
    calibration = calibrate(3 * logits, label, weight, group, seed=0)
    assert calibration.log_loss < calibration.log_loss_before
    assert 0.7 < calibration.accuracy < 0.95
