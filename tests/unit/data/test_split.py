from collections import Counter

import numpy as np
import pytest

from streetvision.data import split
from streetvision.errors import DataError


def shares_of(chosen: dict[str, str], groups: list[str], labels: list[int], label: int) -> dict[str, float]:
    counts = Counter(chosen[group] for group, one in zip(groups, labels, strict=True) if one == label)
    return {name: counts[name] / counts.total() for name in ("train", "validation", "challenge")}


@pytest.mark.parametrize("seed", range(5))
def test_shares_hold_for_pictures_and_for_each_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [f"g{number}" for number in range(600) for _ in range(rng.integers(1, 4))]
    labels = [int(group[1:]) % 3 == 0 for group in groups]
    chosen = split.assign(groups, labels, seed=seed)
    for label in (0, 1):
        shares = shares_of(chosen, groups, labels, label)
        assert shares == pytest.approx({"train": 0.52, "validation": 0.13, "challenge": 0.35}, abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_few_large_mixed_groups_come_close_to_the_shares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [f"drive{number}" for number in range(20) for _ in range(rng.integers(20, 80))]
    labels = rng.integers(0, 2, len(groups)).tolist()
    chosen = split.assign(groups, labels, seed=seed)
    for label in (0, 1):
        shares = shares_of(chosen, groups, labels, label)
        assert shares == pytest.approx({"train": 0.52, "validation": 0.13, "challenge": 0.35}, abs=0.03)


def test_twenty_photos_give_both_classes_to_every_split() -> None:
    groups = [str(number) for number in range(20)]
    labels = [number % 2 for number in range(20)]
    chosen = split.assign(groups, labels, seed=0)
    assert {(chosen[group], label) for group, label in zip(groups, labels, strict=True)} == {
        (name, label) for name in ("train", "validation", "challenge") for label in (0, 1)
    }


@pytest.mark.parametrize("shares", [(0.9, 0.05, 0.05), (0.05, 0.05, 0.9)])
def test_three_groups_of_each_class_are_enough(shares: tuple[float, ...]) -> None:
    chosen = split.assign(["a", "b", "c", "d", "e", "f"], [0, 0, 0, 1, 1, 1], seed=0, shares=shares)
    assert Counter(chosen.values()) == {"train": 2, "validation": 2, "challenge": 2}


def test_too_few_groups_are_refused_with_the_minimum() -> None:
    with pytest.raises(DataError, match="at least 3 groups of each class") as error:
        split.assign(["a", "b", "c", "d", "e"], [0, 0, 0, 1, 1], seed=0)
    assert "5 pictures in 5 groups (2 with roadwork, 3 without)" in error.value.message


def test_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    groups, labels = [f"g{number}" for number in range(100)], [number % 2 for number in range(100)]
    first = split.assign(groups, labels, seed=1)
    order = np.random.default_rng(0).permutation(100)
    again = split.assign([groups[i] for i in order], [labels[i] for i in order], seed=1)
    assert first == again
    assert first != split.assign(groups, labels, seed=2)


def test_groups_keep_their_split_when_pictures_are_added() -> None:
    groups, labels = [f"g{number}" for number in range(1000)], [number % 2 for number in range(1000)]
    before = split.assign(groups[:950], labels[:950], seed=1)
    after = split.assign(groups, labels, seed=1)
    moved = sum(after[group] != chosen for group, chosen in before.items())
    assert moved < 0.02 * len(before)
