import itertools
import math

import numpy as np
import pytest

from streetvision.registry.paired import holm, mcnemar, mcnemar_two_sided, mean_difference


def changes(worse, better):
    return np.repeat(np.array([-1, 1, 0], dtype=np.int8), [worse, better, 5])


@pytest.mark.parametrize(("worse", "better"), list(itertools.product(range(6), range(6))))
def test_mcnemar_is_the_binomial_tail(worse, better):
    n = worse + better
    tail = sum(math.comb(n, k) for k in range(worse, n + 1)) / 2**n
    assert mcnemar(changes(worse, better)) == pytest.approx(tail, rel=1e-12)


def test_mcnemar_of_a_published_example():
    # 10 against 1 discordant pairs: P(X >= 10 | n = 11) = 12 / 2048
    assert mcnemar(changes(10, 1)) == pytest.approx(12 / 2048, rel=1e-12)
    assert mcnemar_two_sided(changes(10, 1)) == pytest.approx(24 / 2048, rel=1e-12)
    assert mcnemar_two_sided(changes(1, 10)) == pytest.approx(24 / 2048, rel=1e-12)


def test_mcnemar_survives_thousands_of_pairs():
    assert mcnemar(changes(2000, 2000)) == pytest.approx(0.5 + math.comb(4000, 2000) / 2**4001, rel=1e-9)
    assert mcnemar(changes(3000, 1000)) < 1e-200
    assert mcnemar_two_sided(changes(2000, 2000)) == 1


def test_models_that_never_differ_are_not_told_apart():
    assert mcnemar(changes(0, 0)) == mcnemar_two_sided(changes(0, 0)) == 1


def test_mcnemar_of_groups_turns_whole_groups():
    rng = np.random.default_rng(4)
    for _ in range(50):
        change, group = rng.integers(-1, 2, 24).astype(np.int8), rng.integers(0, 8, 24).astype(str)
        sums = [int(change[group == name].sum()) for name in set(group)]
        turned = [np.dot(signs, np.abs(sums)) for signs in itertools.product((-1, 1), repeat=len(sums))]
        assert mcnemar(change, group) == pytest.approx(np.mean(np.array(turned) <= sum(sums)), rel=1e-12)


def test_mcnemar_of_groups_of_one_is_mcnemar():
    change = changes(9, 3)
    assert mcnemar(change, np.arange(len(change)).astype(str)) == mcnemar(change)


def test_views_that_fail_together_count_once():
    change, group = np.repeat(np.array([-1] * 4 + [1], dtype=np.int8), 10), np.repeat(np.arange(5), 10).astype(str)
    assert mcnemar(change) < 1e-4
    assert mcnemar(change, group) == 6 / 32  # of five pictures at least four


def test_holm_multiplies_the_smallest_by_their_number_and_never_falls():
    # Holm (1979) by hand: 3 x .01, 2 x .03 raised to nothing lower, 1 x .04 raised to .06
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_interval_of_a_difference_covers_its_mean_95_times_in_100():
    rng = np.random.default_rng(0)
    draws = [mean_difference(rng.normal(0.1, 1, 400), None) for _ in range(1000)]
    assert 0.93 < np.mean([one.low <= 0.1 <= one.high for one in draws]) < 0.97


def test_interval_widens_where_rows_repeat_their_group():
    values = np.random.default_rng(0).normal(size=100)
    repeated = mean_difference(np.repeat(values, 9), np.repeat(np.arange(100).astype(str), 9))
    alone = mean_difference(values, None)
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))
