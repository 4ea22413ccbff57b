from collections import Counter, defaultdict

import numpy as np
import pytest

from streetvision.challenge_set import Challenge
from streetvision.simulation.validator import Validator
from streetvision.subnet.dendrite import Answer
from streetvision.subnet.regimes import REGIMES
from streetvision.subnet.reward import rewards, weights


def challenge(label: int) -> Challenge:
    return Challenge(
        challenge_id=f"set/{label}",
        file="",
        image="",
        label=label,
        source="real",
        level=0,
        group="",
        image_sha256="",
    )


def answer(prediction: float) -> Answer:
    return Answer(prediction=prediction, error="", latency_ms=1.0)


def validator(count: int, regime: str = "R1", *, seed: int = 0) -> Validator:
    return Validator({uid: f"hotkey {uid}" for uid in range(1, count + 1)}, REGIMES[regime], seed=seed)


def test_every_answer_earns_what_the_replay_of_its_miner_says():
    rng, books = np.random.default_rng(0), validator(25)
    said: dict[int, list[float]] = defaultdict(list)
    asked: dict[int, list[int]] = defaultdict(list)
    earned: dict[int, list[float]] = defaultdict(list)
    scores = dict.fromkeys(range(1, 26), np.float32(0))
    for _ in range(300):
        label, audience = int(rng.integers(2)), books.audience()
        predictions = rng.choice([0.1, 0.9, -1.0, 1.2], len(audience), p=[0.45, 0.45, 0.08, 0.02]).tolist()
        events = books.record(challenge(label), audience, [answer(value) for value in predictions])
        newest = dict(zip(audience, (event.reward for event in events), strict=True))  # of two rewards the last
        for uid, reward in newest.items():
            scores[uid] = np.float32(0.05) * np.float32(reward) + np.float32(0.95) * scores[uid]
        for event in events:
            assert event.score == pytest.approx(float(scores[event.uid]), abs=1e-6)
            said[event.uid].append(event.prediction)
            asked[event.uid].append(label)
            earned[event.uid].append(event.reward)
    for uid, values in said.items():
        expected = rewards(np.array(values), np.array(asked[uid], dtype=np.uint8))
        assert earned[uid] == expected.tolist()
    uids, values = weights([0, *scores.values()], min_allowed=1, max_limit=1.0)
    assert books.weights() == pytest.approx(dict(zip(uids, values, strict=True)), abs=1)


def test_a_miner_that_is_dealt_twice_is_asked_twice_and_scored_once():
    books = validator(3)
    first, second = books.record(challenge(1), [2, 2], [answer(0.9), answer(0.1)])
    assert (first.reward, second.reward) == (0.125, pytest.approx(0.5**3 * 0.5**3))
    assert first.score == second.score == pytest.approx(0.05 * second.reward)


def test_the_deck_asks_all_equally_often_and_sampling_does_not():
    for regime, even in (("R1", True), ("R0", False)):
        books, dealt = validator(25, regime), Counter[int]()
        for _ in range(60):
            audience = books.audience()
            assert len(audience) == 10
            assert even or len(set(audience)) == 10
            dealt.update(audience)
        assert (max(dealt.values()) - min(dealt.values()) <= 1) is even


def test_fewer_miners_than_ten_are_all_asked_once():
    assert sorted(validator(4).audience()) == [1, 2, 3, 4]
    assert sorted(validator(4, "R0").audience()) == [1, 2, 3, 4]
    assert len(validator(2).organic_audience(3)) == 2


def test_organic_tasks_leave_the_deck_of_challenges_as_it_is():
    plain, busy = validator(40, seed=3), validator(40, seed=3)
    dealt = Counter[int]()
    for _ in range(40):
        dealt.update(busy.organic_audience(3))
        assert plain.audience() == busy.audience()
    assert set(dealt.values()) == {3}


def test_a_rank_counts_the_better_ones():
    books = validator(3)
    books.record(challenge(1), [1, 2, 3], [answer(0.9), answer(0.9), answer(0.1)])
    assert [books.rank(uid) for uid in (1, 2, 3)] == [1, 1, 3]
    assert books.weights() == {1: 65535, 2: 65535}


def test_without_any_score_all_weight_goes_to_uid_0():
    assert validator(3).weights() == {0: 65535}


def test_a_regime_s_exponent_is_applied():
    for regime, reward in (("R0", 0.5), ("R1", 0.125), ("R3", 0.125)):
        [event] = validator(1, regime).record(challenge(1), [1], [answer(0.9)])
        assert event.reward == reward
