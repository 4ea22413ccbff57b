import hashlib

import numpy as np
import pytest

from streetvision.data.manifest import Picture
from streetvision.errors import DataError
from streetvision.subnet.challenges import cell_shares
from streetvision.training.balance import MAX_WEIGHT, view_weights
from streetvision.training.views import views_of


def picture(label: int, source: str = "real", weight: float = 1.0) -> Picture:
    return Picture(
        sha256="0" * 64,
        path="images/00/0.jpg",
        label=label,
        source=source,
        generator="camera",
        group="g",
        split="train",
        format="JPEG",
        description="cones" if label else "",
        prompt="",
        seed=None,
        phash="",
        weight=weight,
    )


def weights_of(pictures: list[Picture], levels: list[int] | None = None) -> np.ndarray:
    return view_weights(pictures, np.array(levels or [0] * len(pictures), dtype=np.int8), regime="R1")


def test_labels_weigh_the_same_however_rare() -> None:
    weights = weights_of([picture(0)] * 9 + [picture(1)] * 3)
    assert weights[:9].sum() == pytest.approx(weights[9:].sum())
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("regime", ["R1", "R2"])
def test_training_weighs_every_cell_as_challenges_are_drawn(regime: str) -> None:
    """However many pictures a pool has: real 1/2, t2i and i2i 1/4, times label 1/2, times level 1/4."""
    counts = {("real", 0): 5, ("real", 1): 40, ("t2i", 0): 12, ("t2i", 1): 3, ("i2i", 0): 9, ("i2i", 1): 7}
    pictures = [picture(label, source) for (source, label), count in counts.items() for _ in range(count)]
    views = [
        (one, view.level)
        for number, one in enumerate(pictures)
        for view in views_of(hashlib.sha256(bytes([number])).hexdigest(), count=4, regime=regime)
    ]
    weights = view_weights([one for one, _ in views], np.array([level for _, level in views], np.int8), regime=regime)
    shares = cell_shares(regime)
    assert len(shares) == 24
    for cell, share in shares.items():
        assert share == pytest.approx({"real": 1 / 2, "t2i": 1 / 4, "i2i": 1 / 4}[cell.source] / 2 / 4)
        inside = [(one.label, one.source, level) == (cell.label, cell.source, cell.level) for one, level in views]
        assert weights[inside].sum() / weights.sum() == pytest.approx(share)


def test_pictures_of_one_label_cannot_be_weighed() -> None:
    with pytest.raises(DataError, match="expected for label 0 at least one of"):
        weights_of([picture(1)] * 3)


def test_sources_weigh_as_the_subnet_draws_them() -> None:
    pictures = [picture(label, source) for label in (0, 1) for source in ("real", "t2i", "i2i") for _ in range(5)]
    weights = weights_of(pictures)
    share = {s: weights[[p.source == s for p in pictures]].sum() / len(pictures) for s in ("real", "t2i", "i2i")}
    assert share == pytest.approx({"real": 0.5, "t2i": 0.25, "i2i": 0.25})


def test_the_share_of_a_missing_pool_goes_to_the_others() -> None:
    weights = weights_of([picture(0), picture(1), picture(1, "t2i")])
    assert weights / weights.sum() == pytest.approx([1 / 2, 1 / 3, 1 / 6])


def test_levels_weigh_the_same() -> None:
    weights = weights_of([picture(0)] * 4 + [picture(1)] * 4, levels=[0, 0, 0, 1, 0, 1, 2, 3])
    assert weights[:3].sum() == pytest.approx(weights[3])
    assert weights[4:] == pytest.approx([1] * 4)


def test_a_picture_counts_by_its_own_weight() -> None:
    weights = weights_of([picture(0), picture(1, weight=3.0), picture(1)])
    assert weights[1] == pytest.approx(3 * weights[2])


def test_a_tiny_pool_is_not_learnt_by_heart() -> None:
    weights = weights_of([picture(0)] * 500 + [picture(1)] * 499 + [picture(1, "t2i")])
    assert weights.max() < MAX_WEIGHT * 1.3  # the mean is set to 1 again after the cut
