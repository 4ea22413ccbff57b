"""A wait ends at its deadline, with the last reason."""

import pytest

from streetvision.errors import StreetvisionError
from tests.cluster import wait


def test_the_first_true_answer_is_taken():
    answers = iter([0, None, "", 7, 8])
    assert wait.until(lambda: next(answers), what="seven", timeout_s=5, every_s=0) == 7


def test_an_error_counts_as_no_answer_and_its_words_are_kept():
    def question() -> bool:
        raise StreetvisionError("the door is shut", hint="knock")

    with pytest.raises(wait.LateError, match="an open door: not within 0 s: the door is shut") as caught:
        wait.until(question, what="an open door", timeout_s=0, every_s=0)
    assert caught.value.hint == "knock"


def test_an_error_of_the_question_itself_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        wait.until(lambda: 1 / 0, what="anything", timeout_s=5)
