"""Error rates of the gate under its default policy, with 500 resamples a trial; docs/gate.md tells them."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import pytest

from streetvision.parallel import processes
from tests.registry.worlds import World, trials

pytestmark = [
    pytest.mark.slow,  # thousands of verdicts: some minutes
    pytest.mark.timeout(1200),
]

PICTURES = {"groups": 800}  # of which the challenges are views


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with processes(os.cpu_count() or 1) as executor:
        yield executor


@pytest.fixture
def promoted(pool: Executor, record_property: Callable[[str, object], None]) -> Callable[..., float]:
    """Share of trials that promote, told at the end of the run with what refused the others."""

    def measure(name: str, count: int, **world: object) -> float:
        decisions = trials(pool, World(**world), count)
        share = sum(one.verdict == "promote" for one in decisions) / count
        failed = Counter(check.name for one in decisions for check in one.checks if check.status == "failed")
        told = ", ".join(f"{check} {number}" for check, number in failed.most_common())
        record_property("rate", f"{name:<48} {share:6.1%} of {count} promoted; failed: {told or 'nothing'}")
        return share

    return measure


def test_equal_models_are_promoted_in_at_most_5_of_100_trials(promoted):
    assert promoted("equal models", 400) <= 0.05


def test_equal_models_on_views_of_few_pictures_are_promoted_in_at_most_5_of_100_trials(promoted):
    assert promoted("equal models, views of 400 pictures", 400, groups=400) <= 0.05


def test_one_and_a_half_points_are_promoted_in_at_least_90_of_100_trials(promoted):
    assert promoted("+1.5 points", 200, gain=0.015) >= 0.90


def test_one_point_is_reported(promoted):
    assert promoted("+1.0 point", 200, gain=0.01) > promoted("+0.5 points", 200, gain=0.005)


def test_one_and_a_half_points_on_views_of_pictures_are_reported(promoted):
    assert promoted("+1.5 points, views of 800 pictures", 200, gain=0.015, **PICTURES) > 0.05


def test_eight_points_lost_on_one_stratum_of_500_are_refused_in_at_least_95_of_100_trials(promoted):
    assert promoted("+3 points elsewhere, -8 on a stratum of 500", 200, gain=0.03, lost_rows=500) <= 0.05


def test_eight_points_lost_on_one_stratum_of_250_are_reported(promoted):
    few = promoted("+3 points elsewhere, -8 on a stratum of 250", 200, gain=0.03, lost_rows=250)
    assert few < promoted("+3 points elsewhere, -8 on a stratum of 60", 100, gain=0.03, lost_rows=60)


def test_a_stratum_lost_on_views_of_pictures_is_reported(promoted):
    share = promoted("  the same, of 500, views of 800 pictures", 200, gain=0.03, lost_rows=500, **PICTURES)
    assert share < 0.5


def test_points_bought_by_worse_calibration_are_refused(promoted):
    assert promoted("+1.5 points, calibration worse", 200, gain=0.015, sureness=0.4) == 0
