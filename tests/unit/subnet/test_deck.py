import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streetvision.subnet.deck import UidDeck, is_eligible


def test_deals_equal_the_recorded_ones(golden_rewards):
    expected = golden_rewards["uid_deck"]["n25"]
    deck = UidDeck(random.Random(0))
    assert [deck.deal(range(25)) for _ in expected] == expected


@given(st.integers(10, 60), st.integers(0, 2**32))
def test_every_uid_is_dealt_equally_often(count, seed):
    deck = UidDeck(random.Random(seed))
    dealt = Counter[int]()
    for _ in range(17):
        dealt.update(deck.deal(range(count)))
        counts = [dealt[uid] for uid in range(count)]
        assert max(counts) - min(counts) <= 1


def test_few_eligible_uids_are_repeated():
    dealt = UidDeck(random.Random(1)).deal([3, 5, 7, 9])
    assert len(dealt) == 10
    assert set(dealt) == {3, 5, 7, 9}


def test_nobody_eligible_deals_nobody():
    assert UidDeck(random.Random(1)).deal([]) == []


def test_the_deck_is_renewed_after_nobody_was_eligible():
    deck, other = UidDeck(random.Random(3)), UidDeck(random.Random(3))
    first = deck.deal(range(20), 5)
    assert first == other.deal(range(20), 5)
    assert deck.deal([], 5) == []
    assert deck.deal(range(20), 15) != other.deal(range(20), 15)


def test_a_uid_that_left_is_not_dealt_even_from_an_old_deck():
    deck = UidDeck(random.Random(2))
    first = deck.deal(range(30))
    left = set(range(30)) - set(first)
    gone = min(left)
    later = [uid for _ in range(5) for uid in deck.deal([uid for uid in range(30) if uid != gone])]
    assert gone not in later
    assert left - {gone} <= set(later[:19])


@pytest.mark.parametrize(
    ("serving", "permit", "stake_tao", "eligible"),
    [
        (True, False, 1e6, True),
        (True, True, 40096.0, True),
        (True, True, 40096.1, False),
        (False, False, 0.0, False),
    ],
)
def test_only_serving_uids_that_are_no_large_validator_are_eligible(serving, permit, stake_tao, eligible):
    assert is_eligible(serving=serving, permit=permit, stake_tao=stake_tao) is eligible
