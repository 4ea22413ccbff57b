import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streetvision.errors import EngineError
from streetvision.inference.engine import check_probability


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
@example([1.0000001])
@example([-1e-7, 0.5])
@example([float("nan")])
@example([0.5, float("inf")])
@example([float("-inf")])
@example([1.7])
def test_an_engine_s_answer_is_refused_or_in_range(answer: list[float]):
    probability = np.array(answer, dtype=np.float32)
    if np.all((probability >= -1e-6) & (probability <= 1 + 1e-6)):
        checked = check_probability(probability, len(answer))
        assert np.all((checked >= 0) & (checked <= 1))
        assert np.all(np.abs(checked - probability) <= 1e-6)  # only rounding is cut off
    else:
        with pytest.raises(EngineError, match="expected a number in"):
            check_probability(probability, len(answer))


def test_the_picture_with_the_bad_answer_is_named():
    with pytest.raises(EngineError, match="engine answered nan for picture 2, expected a number in"):
        check_probability(np.array([0.1, 0.2, np.nan, 3.0], dtype=np.float32), 4)


@pytest.mark.parametrize("answer", [np.zeros(2), np.zeros((1, 2), dtype=np.float32), np.zeros(3, dtype=np.float32)])
def test_another_type_or_shape_is_refused(answer: np.ndarray):
    with pytest.raises(EngineError, match=r"expected float32\[2\]"):
        check_probability(answer, 2)
