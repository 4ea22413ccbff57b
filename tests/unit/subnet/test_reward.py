import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streetvision.errors import EvidenceError, InputError
from streetvision.subnet.reward import NO_ANSWER, Tracker, mean_rewards, penalty, rewards, update_scores, weights

ODD = [NO_ANSWER, 0.5, 1.2, -0.3, 1.5, 1.7, 2.0, 3.4, -0.7, -1.2, 1e300, -0.0, math.nan, math.inf, -math.inf]
ANSWERS = st.one_of(st.floats(0, 1), st.sampled_from(ODD))
STREAMS = st.lists(st.tuples(ANSWERS, st.integers(0, 1)), min_size=1, max_size=260)


def replay(stream):
    tracker = Tracker()
    return [tracker.update(prediction, label, "hotkey").reward for prediction, label in stream]


def split(stream):
    predictions, labels = zip(*stream, strict=True)
    return np.array(predictions, dtype=np.float64), np.array(labels, dtype=np.uint8)


def random_stream(rng, length):
    """Mostly sensible answers, with spells of one label, of silence and of poison."""
    labels = (rng.random(length) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])).astype(np.uint8)
    right = rng.random(length) < rng.uniform(0.3, 1.0)
    predictions = np.where(right == (labels == 1), rng.uniform(0.5, 1, length), rng.uniform(0, 0.5, length))
    odd = rng.random(length) < rng.choice([0.0, 0.01, 0.2])
    predictions[odd] = rng.choice(ODD, np.count_nonzero(odd))
    predictions[rng.random(length) < rng.choice([0.0, 0.05, 0.5])] = NO_ANSWER
    return predictions, labels


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


@given(STREAMS)
@settings(max_examples=150, deadline=None)
def test_array_rewards_equal_the_tracker_bit_for_bit(stream):
    assert rewards(*split(stream)).tolist() == replay(stream)


def check_random_streams(count):
    rng = np.random.default_rng(5)
    for _ in range(count):
        predictions, labels = random_stream(rng, int(rng.integers(1, 240)))
        expected = replay(zip(predictions.tolist(), labels.tolist(), strict=True))
        assert rewards(predictions, labels).tolist() == expected


def test_array_rewards_equal_the_tracker_on_streams_with_spells():
    check_random_streams(60)


@pytest.mark.slow  # 10,000 streams through the scalar tracker take a minute
def test_array_rewards_equal_the_tracker_on_ten_thousand_streams():
    check_random_streams(10_000)


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
    predictions, labels = random_stream(rng, 300)
    predictions[[3, 50, 51, 52]] = [1.7, math.nan, 2.0, 5.0]
    orders = rng.integers(0, 300, (40, 250))
    expected = rewards(predictions[orders], labels[orders])[:, 100:].mean(axis=-1)
    np.testing.assert_allclose(mean_rewards(predictions, labels, orders), expected, rtol=0, atol=1e-15)


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


def test_a_score_that_is_none_gets_no_weight():
    assert weights([math.nan, 0.5, 1.0], min_allowed=1, max_limit=1.0) == ([1, 2], [32768, 65535])
