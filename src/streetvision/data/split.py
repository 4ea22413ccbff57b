"""Which group goes into which split."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streetvision.data.manifest import SPLITS
from streetvision.errors import DataError

SHARES = (0.52, 0.13, 0.35)
_CLOSE_ENOUGH = 0.01  # largest difference between wanted and reached share, in any split and class
_MAX_ATTEMPTS = 256


def assign(
    groups: Sequence[str], labels: Sequence[int], *, seed: int, shares: Sequence[float] = SHARES
) -> dict[str, str]:
    """The split of every group, so that each split holds its share of each class.

    Groups of one class stand in the order of a seeded hash of their name and are cut at the shares: a group keeps its
    split when pictures are added, unless it stands near a cut. Few large groups are tried in several orders.

    Args:
        groups: the group of each picture.
        labels: the label of each picture, 0 or 1.
        seed: another seed gives another split.
        shares: of pictures, for train, validation and challenge.

    Raises:
        DataError: the groups are too few for both classes to be in every split.
    """
    names, index = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    counts = np.zeros((len(names), 2), dtype=np.int64)  # pictures by group and class
    np.add.at(counts, (index, np.asarray(labels, dtype=np.int64)), 1)
    wanted = np.asarray(shares, dtype=np.float64) / sum(shares)
    best: NDArray[np.int64] | None = None
    smallest = np.inf
    for attempt in range(min(_MAX_ATTEMPTS, 1 + 100_000 // max(1, len(names)))):
        order = np.array([_hash(seed, attempt, str(name)) for name in names])
        chosen = _cut(counts, order, wanted)
        reached = np.stack([counts[chosen == split].sum(axis=0) for split in range(len(wanted))])
        if not reached.all():
            continue
        difference = np.abs(reached / counts.sum(axis=0) - wanted[:, None]).max()
        if difference < smallest:
            best, smallest = chosen, difference
        if difference <= _CLOSE_ENOUGH:
            break
    if best is None:
        with_label = [int(count) for count in (counts > 0).sum(axis=0)]
        raise DataError(
            f"{len(groups)} pictures in {len(names)} groups ({with_label[1]} with roadwork, {with_label[0]} without), "
            "expected at least 3 groups of each class: one for each of train, validation and challenge",
            hint="add pictures of other places, or tell drives apart by sub-folder or group; "
            "near-duplicates count as one group",
        )
    return {str(name): SPLITS[split] for name, split in zip(names, best, strict=True)}


def _cut(counts: NDArray[np.int64], order: NDArray[np.uint64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64[groups]: the split of each, cutting each class's groups (by majority) where the shares come closest."""
    splits = np.zeros(len(counts), dtype=np.int64)
    majority = counts[:, 1] > counts[:, 0]
    for label in (False, True):
        members = np.flatnonzero(majority == label)
        if not len(members):
            continue
        members = members[np.argsort(order[members], kind="stable")]
        sums = np.concatenate([[0], np.cumsum(counts[members].sum(axis=1))])
        reached = sums / sums[-1]
        one_each = len(members) >= len(shares)  # none of the splits goes without
        start = 0
        for split, target in enumerate(np.cumsum(shares)[:-1]):
            low = start + one_each
            high = len(members) - one_each * (len(shares) - 1 - split)
            start = low + int(np.argmin(np.abs(reached[low : high + 1] - target)))
            splits[members[start:]] = split + 1
    return splits


def _hash(seed: int, attempt: int, name: str) -> np.uint64:
    digest = hashlib.sha256(f"{seed}/{attempt}/{name}".encode("utf-8", "surrogateescape")).digest()
    return np.uint64(int.from_bytes(digest[:8], "big"))
