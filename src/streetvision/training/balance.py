"""Weights that make the training pictures count as the subnet draws them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streetvision.data.manifest import Picture
from streetvision.subnet.challenges import cell_shares

MAX_WEIGHT = 10.0  # a pool of three pictures must not be learnt by heart


def view_weights(pictures: Sequence[Picture], levels: NDArray[np.int8], *, regime: str) -> NDArray[np.float32]:
    """Weight of each view, float32[N], mean 1.

    The cells label x source x level weigh as challenges are drawn (`cell_shares`): labels half and half, sources by the
    regime's shares, levels alike. The share of a pool without pictures goes to the others of its label, that of a level
    without views to the others of its pool. Inside a cell a picture's own weight decides. No view counts more than ten
    times the mean.

    Args:
        pictures: the picture of each view.
        levels: int8[N], the level of each view.
        regime: name of the regime.

    Raises:
        DataError: the pictures lack a label.
        SettingsError: no such regime.
    """
    label = np.array([picture.label for picture in pictures])
    source = np.array([picture.source for picture in pictures])
    own = np.array([picture.weight for picture in pictures])
    weights = np.zeros(len(pictures))
    pools = sorted(set(zip(source.tolist(), label.tolist(), strict=True)))
    shares = cell_shares(regime, pools=pools)
    for name, of_label in pools:
        pool = (source == name) & (label == of_label)
        of_level = {
            cell.level: share for cell, share in shares.items() if (cell.source, cell.label) == (name, of_label)
        }
        present = {level: of_level[level] for level in np.unique(levels[pool]).tolist()}
        for level, share in present.items():
            cell = pool & (levels == level)
            cell_share = sum(of_level.values()) * share / sum(present.values())
            weights[cell] = cell_share * own[cell] / own[cell].sum()
    weights = np.minimum(weights / weights.mean(), MAX_WEIGHT)
    return (weights / weights.mean()).astype(np.float32)
