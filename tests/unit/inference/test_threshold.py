import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streetvision.errors import EngineError, ModelDirectoryError
from streetvision.inference.threshold import ThresholdMap

thresholds = st.floats(0.001, 0.999)


def served(threshold: float, *calibrated: float) -> list[float]:
    return [float(p) for p in ThresholdMap(threshold)(np.array(calibrated, dtype=np.float32))]


def test_map_is_piecewise_linear_from_0_over_the_threshold_to_1() -> None:
    assert served(0.2, 0.0, 0.1, 0.6, 1.0) == pytest.approx([0.0, 0.25, 0.75, 1.0])


@given(thresholds)
def test_probability_of_exactly_the_threshold_is_served_as_roadwork(threshold: float) -> None:
    threshold = float(np.float32(threshold))
    (probability,) = served(threshold, threshold)
    assert 0.5 < probability < 0.5001
    assert round(probability) == 1  # the validator's own cut


@given(thresholds, st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30))
def test_map_is_monotone_in_range_and_never_half(threshold: float, calibrated: list[float]) -> None:
    calibrated = sorted([*calibrated, np.float32(threshold), np.nextafter(np.float32(threshold), np.float32(0))])
    probability = np.array(served(threshold, *calibrated))
    assert np.all(np.diff(probability) >= 0)
    assert np.all((probability >= 0) & (probability <= 1) & (probability != 0.5))


def test_values_beyond_the_range_are_clamped() -> None:
    assert served(0.3, -0.1, 1.1) == [0.0, 1.0]


def test_nan_is_an_error() -> None:
    with pytest.raises(EngineError, match="1 of 2 probabilities are NaN"):
        served(0.3, 0.1, float("nan"))


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan"), -1.0])
def test_threshold_outside_0_and_1_is_refused(threshold: float) -> None:
    with pytest.raises(ModelDirectoryError, match="threshold is"):
        ThresholdMap(threshold)
