import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streetvision.errors import EvidenceError, InputError
from streetvision.subnet.regimes import NO_ANSWER, REGIMES
from streetvision.subnet.reward import (
    Tracker,
    answered_class,
    mean_rewards,
    penalty,
    resync_scores,
    rewards,
    update_scores,
    weights,
)
from tests.unit.subnet import plain_scoring

# No answer, ties, mild excess, poison of the near classes, and what scikit-learn takes for no class: it casts to int64
MILD = [NO_ANSWER, 0.5, 1.2, -0.3, -0.5, 5e-324, -0.0, 1.0000000001, -1e-300, 0.49999999999999994, 0.5000000000000001]
POISON = [
    1.7,
    -0.7,
    math.nan,
    math.inf,
    -math.inf,
    2.5,
    -3.0,
    1.5,
    2.0,
    -1.2,
    1e300,
    -1e300,
    2.0**62,
    2.0**63,
    -(2.0**63),
]
ODD = MILD + POISON
ANSWERS = st.one_of(st.floats(0, 1), st.sampled_from(ODD))
STREAMS = st.lists(st.tuples(ANSWERS, st.integers(0, 1)), min_size=1, max_size=260)


def replay(stream, *, exponent=3):
    tracker = Tracker(exponent=exponent)
    return [tracker.update(prediction, label, "hotkey").reward for prediction, label in stream]


def split(stream):
    predictions, labels = zip(*stream, strict=True)
    return np.array(predictions, dtype=np.float64), np.array(labels, dtype=np.uint8)


def random_streams(rng, rows, length):
    """Mostly sensible answers of `rows` miners, with spells of one label, of silence and of poison."""
    share = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], (rows, 1))
    labels = (rng.random((rows, length)) < share).astype(np.uint8)
    right = rng.random((rows, length)) < rng.uniform(0.3, 1.0, (rows, 1))
    sure = rng.uniform(0.5, 1, (rows, length))
    predictions = np.where(right == (labels == 1), sure, 1 - sure)
    odd = rng.choice(ODD, (rows, 3))[np.arange(rows)[:, None], rng.integers(0, 3, (rows, length))]
    predictions = np.where(rng.random((rows, length)) < rng.choice([0.0, 0.01, 0.2], (rows, 1)), odd, predictions)
    silent = rng.random((rows, length)) < rng.choice([0.0, 0.05, 0.5], (rows, 1))
    return np.where(silent, NO_ANSWER, predictions), labels


def test_rewards_equal_the_recorded_ones(golden_rewards):
    assert len(golden_rewards["vectors"]) == 11
    for vector in golden_rewards["vectors"]:
        tracker = Tracker()
        for event, expected in zip(vector["steps"], vector["expected"], strict=True):
            step = tracker.update(float(event["prediction"]), event["label"], event["hotkey"])
            assert step.reward == pytest.approx(expected["reward"], abs=1e-11), vector["name"]
            assert step.mcc == pytest.approx(expected["mcc_100"], abs=1e-11), vector["name"]
            assert step.accuracy == pytest.approx(expected["accuracy_10"], abs=1e-11), vector["name"]


def test_array_rewards_equal_the_recorded_ones(golden_rewards):
    for vector in golden_rewards["vectors"]:
        if len({event["hotkey"] for event in vector["steps"]}) == 1:
            predictions, labels = split([(float(event["prediction"]), event["label"]) for event in vector["steps"]])
            expected = [step["reward"] for step in vector["expected"]]
            np.testing.assert_allclose(rewards(predictions, labels), expected, atol=1e-11, err_msg=vector["name"])


def test_penalties_equal_the_recorded_ones(golden_rewards):
    for example in golden_rewards["penalty_examples"]:
        assert penalty(example["prediction"]) == example["penalty"]
    assert penalty(math.nan) == 1.0


def test_exactly_one_half_is_class_0():
    assert replay([(0.5, 0)]) == [0.125]
    assert replay([(0.5, 1)]) == [0.0]
    assert replay([(0.5000000001, 1)]) == [0.125]


def test_no_answer_earns_nothing_and_leaves_the_mcc():
    tracker = Tracker()
    for label in (0, 1) * 5:
        before = tracker.update(float(label), label, "hotkey")
    silent = tracker.update(NO_ANSWER, 1, "hotkey")
    assert (silent.reward, silent.penalty) == (0.0, 0.0)
    assert (silent.mcc, silent.accuracy) == (before.mcc, before.accuracy) == (1.0, 1.0)


def test_ten_silent_answers_empty_the_accuracy_window():
    stream = [(float(i % 2), i % 2) for i in range(20)] + [(NO_ANSWER, 1)] * 10 + [(1.0, 0)]
    assert replay(stream)[-1] < 0.125  # accuracy of one wrong answer is 0


@pytest.mark.parametrize(
    ("prediction", "answered"),
    [(0.5, 0), (0.5000001, 1), (-0.5, 0), (1.5, 2), (2.5, 2), (-0.7, -1), (-1.2, -1), (2.0**62, 2.0**62)],
)
def test_classes_are_rounded_half_to_even(prediction, answered):
    assert answered_class(prediction) == answered


@pytest.mark.parametrize("prediction", [math.nan, math.inf, -math.inf, 1e300, -1e300, 2.0**63])
def test_what_no_int64_holds_is_no_class_at_all(prediction):
    assert answered_class(prediction) == math.inf
    assert replay([(0.9, 1), (prediction, 1), (0.9, 1)])[-1] == 0.0  # a class such as 2 would leave an accuracy


def test_the_exponent_is_the_regime_s():
    stream = [(0.9, 1), (0.1, 0), (0.9, 0)]
    cubed, plain = replay(stream), replay(stream, exponent=REGIMES["R0"].reward_exponent)
    assert plain == pytest.approx([0.5, 1.0, 0.19849537037 ** (1 / 3)])
    assert cubed == [value * value * value for value in plain]


@pytest.mark.parametrize("poison", [1.5000001, 2.0, -0.7, math.nan, math.inf, -math.inf])
def test_a_class_that_is_none_kills_ten_answers_and_dims_ninety(poison):
    stream = [(float(i % 2), i % 2) for i in range(4)] + [(poison, 0)] + [(float(i % 2), i % 2) for i in range(110)]
    earned = replay(stream)
    assert earned[4:14] == [0.0] * 10
    assert earned[14:104] == [0.125] * 90
    assert earned[104] == 1.0


def test_one_odd_class_beside_ones_only_still_counts_as_wrong():
    assert replay([(0.9, 1), (0.9, 1), (1.7, 1), (0.9, 1)]) == [0.125, 0.125, 0.0, (0.75 / 2) ** 3]


def test_two_odd_classes_beside_ones_earn_nothing():
    assert replay([(0.9, 1), (1.7, 1), (3.0, 1), (0.9, 1)])[-1] == 0.0


def test_another_hotkey_begins_with_an_empty_history_but_keeps_the_score():
    tracker = Tracker()
    for label in (1, 0, 1, 0):
        last = tracker.update(float(label), label, "a")
    first = tracker.update(0.9, 1, "b")
    assert last.reward == 1.0
    assert first.reward == 0.125
    assert first.score == pytest.approx(0.05 * 0.125 + 0.95 * last.score)


def test_perfect_answers_raise_the_score_as_one_minus_powers():
    tracker = Tracker(score=0.0)
    for i in range(2, 22):
        tracker.update(float(i % 2), i % 2, "hotkey")
    assert tracker.score == pytest.approx(1 - 0.95**19 * (1 - 0.05 * 0.125))


def check_against_plain(steps, seed):
    """Streams with odd answers and changing hotkeys, until so many steps were the same in both."""
    rng = np.random.default_rng(seed)
    while steps > 0:
        (predictions,), (labels,) = random_streams(rng, 1, int(rng.integers(1, 160)))
        hotkeys = np.cumsum(rng.random(len(labels)) < rng.choice([0.0, 0.03])).astype(str)
        exponent = int(rng.choice([1, 3]))
        events = list(zip(predictions.tolist(), labels.tolist(), hotkeys.tolist(), strict=True))
        tracker = Tracker(exponent=exponent)
        for event, expected in zip(events, plain_scoring.replay(events, exponent=exponent), strict=True):
            step = tracker.update(*event)
            found = (step.reward, step.mcc, step.accuracy, step.penalty, step.score)
            assert found == pytest.approx(expected, abs=1e-11), (event, events)
        steps -= len(events)


def test_the_tracker_equals_a_plain_one_with_scikit_learn():
    check_against_plain(120, seed=11)


@pytest.mark.slow  # scikit-learn takes milliseconds a step
def test_the_tracker_equals_a_plain_one_with_scikit_learn_over_many_streams():
    check_against_plain(3000, seed=12)


@given(STREAMS)
@settings(max_examples=100, deadline=None)
def test_array_rewards_equal_the_tracker_bit_for_bit(stream):
    assert rewards(*split(stream)).tolist() == replay(stream)


@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 240),
    exponent=st.sampled_from([regime.reward_exponent for regime in REGIMES.values()]),
)
@settings(max_examples=8, deadline=None)
def test_array_rewards_equal_the_tracker_on_batches_of_streams(seed, length, exponent):
    predictions, labels = random_streams(np.random.default_rng(seed), 25, length)
    expected = [replay(split_again, exponent=exponent) for split_again in joined(predictions, labels)]
    assert rewards(predictions, labels, exponent=exponent).tolist() == expected


@pytest.mark.slow  # the scalar tracker takes half a minute
@given(seed=st.integers(0, 2**32), length=st.integers(1, 240))
@settings(max_examples=100, deadline=None)
def test_array_rewards_equal_the_tracker_on_ten_thousand_streams(seed, length):
    predictions, labels = random_streams(np.random.default_rng(seed), 100, length)
    assert rewards(predictions, labels).tolist() == [replay(stream) for stream in joined(predictions, labels)]


def joined(predictions, labels):
    return [list(zip(*row, strict=True)) for row in zip(predictions.tolist(), labels.tolist(), strict=True)]


@given(STREAMS)
@settings(max_examples=50, deadline=None)
def test_rewards_lie_between_0_and_1(stream):
    earned = rewards(*split(stream))
    assert np.all((earned >= 0) & (earned <= 1))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=150))
@settings(max_examples=50, deadline=None)
def test_confidence_earns_nothing(stream):
    predictions, labels = split(stream)
    assert rewards(predictions, labels).tolist() == rewards(np.rint(predictions), labels).tolist()


@given(STREAMS)
@settings(max_examples=30, deadline=None)
def test_rewards_of_many_miners_are_those_of_each(stream):
    predictions, labels = split(stream)
    others = np.stack([predictions, 1 - predictions, np.abs(predictions)]).reshape(3, 1, -1)
    together = rewards(others, labels)
    assert together.shape == others.shape
    for row, alone in zip(together, others, strict=True):
        assert row[0].tolist() == rewards(alone[0], labels).tolist()


def test_labels_of_another_length_are_refused():
    with pytest.raises(InputError, match=r"labels have the shape \(2,\), expected that of the predictions \(3,\)"):
        rewards(np.zeros(3), np.zeros(2, dtype=np.uint8))


def test_mean_rewards_are_means_of_the_replayed_sequences():
    rng = np.random.default_rng(8)
    (predictions,), (labels,) = random_streams(rng, 1, 300)
    predictions[[3, 50, 51, 52]] = [1.7, math.nan, 2.0, 5.0]
    orders = rng.integers(0, 300, (40, 250))
    for exponent in (1, 3):
        expected = rewards(predictions[orders], labels[orders], exponent=exponent)[:, 100:].mean(axis=-1)
        assert mean_rewards(predictions, labels, orders, exponent=exponent).tolist() == expected.tolist()


def test_mean_rewards_need_more_than_the_burn_in():
    with pytest.raises(EvidenceError, match="has 100 challenges, expected more than the burn-in of 100"):
        mean_rewards(np.zeros(200), np.zeros(200, dtype=np.uint8), np.zeros((5, 100), dtype=np.int64))


@pytest.mark.parametrize("index", [0, 1])
def test_scores_equal_the_recorded_ones(golden_rewards, index):
    vector = golden_rewards["score_vectors"][index]
    scores = np.array(vector.get("start", [0.0] * vector["n"]), dtype=np.float32)
    permit, stake_tao = np.array(vector["permit"]), np.array(vector["stake"])
    for step, expected in zip(vector["steps"], vector["expected_scores"], strict=True):
        scores = update_scores(
            scores, step["uids"], [float(reward) for reward in step["rewards"]], permit=permit, stake_tao=stake_tao
        )
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_scores_stay_when_nobody_was_asked():
    scores = np.array([0.5, 0.25], dtype=np.float32)
    after = update_scores(scores, [], [], permit=np.array([True, True]), stake_tao=np.array([1e6, 1e6]))
    assert after.tolist() == [0.5, 0.25]


def test_scores_keep_float64_once_they_have_it():
    assert update_scores(np.zeros(2), [1], [1.0]).dtype == np.float64


def test_scores_equal_plain_ones():
    rng = np.random.default_rng(21)
    for _ in range(40):
        size = int(rng.integers(1, 30))
        scores = rng.random(size, dtype=np.float32)
        permit, stake_tao = rng.random(size) < 0.4, rng.choice([0, 40096, 40096.1, 5e4], size)
        for _ in range(5):
            uids = rng.integers(0, size, int(rng.integers(1, 12))).tolist()  # some twice
            earned = np.where(rng.random(len(uids)) < 0.1, math.nan, rng.random(len(uids)))
            expected = plain_scoring.scores_after(scores, uids, earned, permit, stake_tao)
            scores = update_scores(scores, uids, earned, permit=permit, stake_tao=stake_tao)
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-7)


def test_scores_stay_without_rewards_as_without_uids():
    scores = np.array([0.5, 0.25])
    assert update_scores(scores, [0], []).tolist() == update_scores(scores, [], [1.0]).tolist() == [0.5, 0.25]


def test_the_score_of_a_uid_that_is_none_stays_so_and_harms_no_other():
    after = update_scores(np.array([math.nan, 0.5]), [1], [1.0])
    assert math.isnan(after[0])
    assert after[1] == pytest.approx(0.525)


def test_scores_refuse_permits_of_another_network():
    with pytest.raises(InputError, match="3 permits and 2 stakes, expected 2 of each"):
        update_scores(np.zeros(2), [1], [1.0], permit=np.zeros(3, dtype=bool), stake_tao=np.zeros(2))


def test_a_new_hotkey_begins_with_a_score_of_0_once_the_metagraph_is_read():
    scores = np.array([0.5, 0.25, 0.75], dtype=np.float32)
    after = resync_scores(scores, ["a", "b", "c"], ["a", "new", "c"])
    assert after.dtype == np.float32
    assert after.tolist() == [0.5, 0.0, 0.75]


def test_new_uids_begin_with_0_and_make_the_scores_float64_for_good():
    grown = resync_scores(np.array([0.5, 0.25], dtype=np.float32), ["a", "b"], ["a", "b", "c"])
    assert grown.tolist() == [0.5, 0.25, 0.0]
    assert update_scores(grown, [2], [1.0]).dtype == np.float64


@pytest.mark.parametrize(("before", "now"), [(["a"], ["a", "b"]), (["a", "b"], ["a"])])
def test_hotkeys_that_do_not_fit_the_scores_are_refused(before, now):
    with pytest.raises(InputError, match="expected 2 and at least as many"):
        resync_scores(np.zeros(2), before, now)


@pytest.mark.parametrize(("uids", "earned"), [([0, 1], [1.0]), ([2], [1.0]), ([-1], [1.0])])
def test_scores_refuse_rewards_that_do_not_fit(uids, earned):
    with pytest.raises(InputError, match="expected"):
        update_scores(np.zeros(2, dtype=np.float32), uids, earned)


def test_weights_equal_the_recorded_ones(golden_rewards):
    for vector in golden_rewards["weight_vectors"]:
        uids, values = weights(
            vector["scores"], min_allowed=vector["min_allowed_weights"], max_limit=vector["max_weight_limit"]
        )
        assert (uids, values) == (vector["emit_uids"], vector["emit_u16"]), vector["name"]


def test_weights_are_uniform_where_the_limit_allows_no_more():
    assert weights([0.1, 0.9, 0.0, 0.5], min_allowed=1, max_limit=1 / 3) == ([0, 1, 3], [65535] * 3)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), st.floats(0.03, 1.0))
@settings(max_examples=100, deadline=None)
def test_no_weight_is_above_the_limit_and_the_order_stays(scores, limit):
    uids, values = weights(scores, min_allowed=1, max_limit=limit)
    if any(np.float32(score) > 0 for score in scores):
        assert max(values) == 65535
        by_score = np.array(values)[np.argsort(np.take(scores, uids), kind="stable")]
        assert np.all(np.diff(by_score) >= 0)
        if len(uids) * limit > 1.01:
            assert max(values) / sum(values) <= limit + 1e-3
    else:
        assert (uids, values) == ([0], [65535])


def test_weights_equal_plain_ones():
    rng = np.random.default_rng(31)
    for _ in range(1000):
        size = int(rng.integers(1, 60))
        sign = rng.choice([-1, 0, 1], size, p=[0.1, 0.2, 0.7])
        scores = (rng.random(size) ** rng.choice([0.2, 1, 3]) * sign).round(3)
        least, limit = int(rng.choice([0, 1, 2, 8, size + 1])), float(rng.choice([1.0, 0.5, 0.1, 1 / size, 0.021]))
        uids, values = weights(scores.tolist(), min_allowed=least, max_limit=limit)
        expected_uids, expected = plain_scoring.weights(scores, min_allowed=least, max_limit=limit)
        assert uids == expected_uids
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1)  # upstream's shares are float32


def test_negative_scores_get_no_weight_but_count_in_the_norm():
    assert weights([-0.5, 0.25, 0.75], min_allowed=1, max_limit=1.0) == ([1, 2], [21845, 65535])
    assert weights([-0.5, -0.25], min_allowed=1, max_limit=1.0) == ([0], [65535])


def test_a_weight_that_rounds_to_0_is_not_sent():
    assert weights([1.0, 7e-6, 8e-6], min_allowed=1, max_limit=1.0) == ([0, 2], [65535, 1])


def test_too_few_uids_give_all_weight_to_uid_0():
    assert weights([0.5, 0.7], min_allowed=3, max_limit=1.0) == ([0], [65535])


def test_a_grown_network_s_float64_scores_are_not_rounded_before_they_are_shares():
    rng = np.random.default_rng(2)
    scores = rng.random((200, 60))
    differs = [
        weights(row, min_allowed=1, max_limit=1.0) != weights(row.astype(np.float32), min_allowed=1, max_limit=1.0)
        for row in scores
    ]
    assert 0 < sum(differs) < len(differs) / 2


@pytest.mark.parametrize(
    ("scores", "sent"),
    [
        ([math.inf, 0.5], ([0], [65535])),  # shares of an infinite sum are nothing
        ([3e38, 3e38, math.nan], ([], [])),  # without shares the sum of the rest overflows
    ],
)
def test_absurd_scores_go_the_validator_s_way(scores, sent):
    assert weights(scores, min_allowed=1, max_limit=1.0) == sent


def test_scores_that_upstream_fails_at_are_refused():
    with pytest.raises(InputError, match="scores are infinite"):
        weights([math.inf, 0.5, math.nan], min_allowed=1, max_limit=1.0)


def test_a_score_that_is_none_gets_no_weight():
    assert weights([math.nan, 0.5, 1.0], min_allowed=1, max_limit=1.0) == ([1, 2], [32768, 65535])
