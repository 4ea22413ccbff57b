from collections import Counter
from itertools import combinations

import pytest

from streetvision.synthesis import prompts as module
from streetvision.synthesis.prompts import negative_prompt, prompts

SIZES = {"ROADWORK": 11, "ORDINARY": 11, "WEATHER": 7, "TIMES": 5, "PLACES": 13}


def factors(prompt: str, label: int) -> tuple[str, ...]:
    names = ("ROADWORK" if label else "ORDINARY", "WEATHER", "TIMES", "PLACES")
    return tuple(max((c for c in getattr(module, name) if c in prompt), key=len) for name in names)


@pytest.mark.parametrize("label", [0, 1])
def test_all_combinations_come_once_before_any_returns(label: int) -> None:
    everything = prompts(label, 11 * 7 * 5 * 13, seed=3)
    assert len(set(everything)) == 11 * 7 * 5 * 13
    assert len({factors(prompt, label) for prompt in everything}) == 11 * 7 * 5 * 13


@pytest.mark.parametrize("label", [0, 1])
def test_choices_and_pairs_of_choices_are_balanced_in_a_small_draw(label: int) -> None:
    rows = [factors(prompt, label) for prompt in prompts(label, 400, seed=8)]
    for column in range(4):
        counts = Counter(row[column] for row in rows)
        assert max(counts.values()) - min(counts.values()) <= 1
    for one, other in combinations(range(4), 2):
        counts = Counter((row[one], row[other]) for row in rows)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_numbers_of_choices_stay_pairwise_coprime() -> None:
    assert {name: len(set(getattr(module, name))) for name in SIZES} == SIZES


def test_seed_decides_and_a_longer_draw_begins_with_the_shorter() -> None:
    assert prompts(1, 10, seed=1) == prompts(1, 20, seed=1)[:10]
    assert prompts(1, 10, seed=1) != prompts(1, 10, seed=2)


def test_labels_share_no_prompt() -> None:
    assert not set(prompts(0, 500, seed=1)) & set(prompts(1, 500, seed=1))


def test_prompts_fit_the_76_tokens_of_the_smaller_text_encoder() -> None:
    longest = max((*prompts(0, 5005, seed=0), *prompts(1, 5005, seed=0)), key=len)
    assert len(longest.split()) <= 45  # at most about 1.4 tokens a word


def test_blur_is_forbidden_only_without_a_source_picture() -> None:
    assert "blur" in negative_prompt(text_to_image=True)
    assert "blur" not in negative_prompt(text_to_image=False)
    assert "cartoon" in negative_prompt(text_to_image=False)
