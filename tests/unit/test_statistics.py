import numpy as np
import pytest

from streetvision.statistics import confusion, mcc, percentile_ends, sequences, wilson


def test_rows_are_resampled_where_there_are_no_groups():
    orders = sequences(np.random.default_rng(0), 50, n=30)
    assert orders.shape == (50, 30)
    assert orders.min() == 0
    assert orders.max() == 29
    assert len(np.unique(orders[0])) < 30  # with replacement


def test_whole_groups_are_resampled():
    group = np.array(list("aaabbbcccddd"))
    for order in sequences(np.random.default_rng(0), 40, n=12, group=group):
        counts = np.bincount(order, minlength=12)
        assert (counts.reshape(4, 3) == counts[::3, None]).all()  # members of a group appear equally often


def test_a_sequence_of_uneven_groups_still_has_n_rows():
    group = np.array(["a"] * 7 + ["b"] * 2 + ["c"])
    orders = sequences(np.random.default_rng(0), 40, n=10, group=group)
    assert orders.shape == (40, 10)
    assert set(np.unique(orders)) == set(range(10))


def test_members_of_a_group_are_not_left_side_by_side():
    group = np.repeat(np.arange(100).astype(np.str_), 10)
    (order,) = sequences(np.random.default_rng(0), 1, n=1000, group=group)
    neighbours = np.mean(order[1:] // 10 == order[:-1] // 10)
    assert neighbours < 0.1


def test_mcc_of_a_worked_example():
    predicted = np.array([0, 1, 0, 1, 1, 1], dtype=np.uint8)
    label = np.array([1, 1, 0, 1, 0, 1], dtype=np.uint8)
    assert confusion(predicted, label) == (1, 1, 1, 3)
    assert mcc(predicted, label) == pytest.approx((3 - 1) / (4 * 4 * 2 * 2) ** 0.5)


def test_mcc_is_zero_where_one_class_was_answered():
    assert mcc(np.ones(4, dtype=np.uint8), np.array([0, 1, 1, 0], dtype=np.uint8)) == 0


def test_wilson_interval_of_a_published_example():
    low, high = wilson(81, 263)  # Newcombe 1998, method 3
    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)


def test_wilson_interval_stays_inside_zero_and_one():
    assert wilson(5, 5)[1] == 1
    assert wilson(0, 5)[0] == 0


def test_one_more_draw_falls_outside_in_5_of_100_cases():
    draws = np.random.default_rng(0).normal(size=(40_000, 100))
    low, high = percentile_ends(draws[:, 1:])
    assert np.mean(draws[:, 0] < low) == pytest.approx(0.025, abs=0.003)
    assert np.mean(draws[:, 0] > high) == pytest.approx(0.025, abs=0.003)
