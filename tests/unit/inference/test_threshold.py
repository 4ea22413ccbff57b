import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streetvision.errors import EngineError, ModelDirectoryError
from streetvision.inference.threshold import ThresholdMap
from streetvision.subnet.protocol import reply_body

thresholds = st.floats(0.001, 0.999)
any_threshold = st.floats(0, 1, exclude_min=True, exclude_max=True)  # subnormal ones and 1 - 2^-53 too
any_probability = st.floats(0, 1, width=32)


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


def edges(threshold: float) -> list[float]:
    """Where a comparison or a rounding could go wrong: both ends, and the threshold with its neighbours."""
    tiny, one, at = np.float32(1e-45), np.float32(1), np.float32(threshold)
    around = [np.nextafter(at, np.float32(0)), at, np.nextafter(at, one)]
    return [0.0, float(tiny), *(float(p) for p in around if 0 <= p <= 1), float(np.nextafter(one, at)), 1.0]


@given(any_threshold, st.lists(any_probability, max_size=20))
def test_every_answer_is_on_the_side_of_the_threshold_wherever_it_is_read(threshold: float, drawn: list[float]) -> None:
    calibrated = sorted([*drawn, *edges(threshold)])
    probability = ThresholdMap(threshold)(np.array(calibrated, dtype=np.float32))
    assert np.all(np.diff(probability) >= 0)
    for before, after in zip(calibrated, probability, strict=True):
        roadwork = before >= threshold
        sent = json.loads(reply_body("ImageSynapse", float(after)))["prediction"]  # as the miner replies
        for read in (float(after), json.loads(json.dumps(float(after))), float(str(after)), float(sent)):
            assert 0 <= read <= 1
            assert read != 0.5
            assert round(read) == roadwork  # as a validator reads it


@pytest.mark.parametrize("threshold", [5e-324, 1e-40, 0.05, 0.5, 0.72, 0.95, 1 - 2**-53])
def test_a_million_floats_over_all_magnitudes_keep_their_order_and_class(threshold: float) -> None:
    last = int(np.float32(1).view(np.uint32))  # the bits of floats from 0 to 1 count up as the floats do
    bits = [np.linspace(0, last, 1_000_000), np.arange(2000), last - np.arange(2000)]
    bits.append(np.clip(int(np.float32(threshold).view(np.uint32)) + np.arange(-2000, 2000), 0, last))
    calibrated = np.unique(np.concatenate(bits).astype(np.uint32)).view(np.float32)
    probability = ThresholdMap(threshold)(calibrated)
    assert np.all(np.diff(probability) >= 0)
    assert np.all((probability >= 0) & (probability <= 1))
    assert np.array_equal(probability > 0.5, calibrated.astype(np.float64) >= threshold)
    assert not np.any(probability == 0.5)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_whatever_is_put_in_is_an_error_or_a_probability(calibrated: list[float]) -> None:
    if any(value != value for value in calibrated):
        with pytest.raises(EngineError, match="are NaN"):
            served(0.3, *calibrated)
    else:
        assert all(0 <= value <= 1 and value != 0.5 for value in served(0.3, *calibrated))


def test_values_beyond_the_range_are_clamped() -> None:
    assert served(0.3, -0.1, 1.1) == [0.0, 1.0]


def test_nan_is_an_error() -> None:
    with pytest.raises(EngineError, match="1 of 2 probabilities are NaN"):
        served(0.3, 0.1, float("nan"))


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan"), -1.0])
def test_threshold_outside_0_and_1_is_refused(threshold: float) -> None:
    with pytest.raises(ModelDirectoryError, match="threshold is"):
        ThresholdMap(threshold)
