"""Weights that make the training pictures count as the subnet draws them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streetvision.data.manifest import Picture
from streetvision.subnet import regimes

MAX_WEIGHT = 10.0  # a pool of three pictures must not be learnt by heart


def view_weights(pictures: Sequence[Picture], levels: NDArray[np.int8], *, regime: str) -> NDArray[np.float32]:
    """Weight of each view, float32[N], mean 1.

    The cells label x source x level weigh as a validator draws them: labels half and half, sources by the regime's
    shares, levels alike. The share of a pool without pictures goes to the others of its label. Inside a cell a
    picture's own weight decides. No view counts more than ten times the mean.

    Args:
        pictures: the picture of each view.
        levels: int8[N], the level of each view.
        regime: name of the regime.

    Source: natixnetwork/streetvision-subnet natix/validator/forward.py @ 28a1755
    """
    shares = regimes.active(regime).source_shares
    label = np.array([picture.label for picture in pictures])
    source = np.array([picture.source for picture in pictures])
    own = np.array([picture.weight for picture in pictures])
    weights = np.zeros(len(pictures))
    for one_label in np.unique(label):
        present = {str(name): shares[str(name)] for name in np.unique(source[label == one_label])}
        for name, share in present.items():
            pool = (label == one_label) & (source == name)
            for level in np.unique(levels[pool]):
                cell = pool & (levels == level)
                cell_share = share / sum(present.values()) / len(np.unique(levels[pool]))
                weights[cell] = cell_share * own[cell] / own[cell].sum()
    weights = np.minimum(weights / weights.mean(), MAX_WEIGHT)
    return (weights / weights.mean()).astype(np.float32)
