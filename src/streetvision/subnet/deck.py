"""Which miners a validator asks next: a shuffled deck of their UIDs, so that all are asked equally often."""

import random
from collections.abc import Collection

from streetvision.subnet.regimes import AUDIENCE_SIZE, STAKE_LIMIT_TAO


def is_eligible(*, serving: bool, permit: bool, stake_tao: float) -> bool:
    """Whether a UID is asked at all: it serves, and is no validator of large stake.

    Source: natixnetwork/streetvision-subnet natix/utils/uids.py @ 28a1755
    """
    return serving and not (permit and stake_tao > STAKE_LIMIT_TAO)


class UidDeck:
    """Deals UIDs from a shuffled deck that is renewed, in the middle of a deal if need be, when it is used up.

    Source: natixnetwork/streetvision-subnet natix/utils/uids.py @ 28a1755
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._cards: list[int] = []  # the next one last

    def deal(self, eligible: Collection[int], count: int = AUDIENCE_SIZE) -> list[int]:
        """The next `count` UIDs that are eligible now; one can come twice where the deck was renewed on the way.

        Args:
            eligible: the UIDs that can be asked now, in the metagraph's order.
            count: how many are asked; fewer eligible ones are repeated, none at all gives an empty list.
        """
        dealt: list[int] = []
        while len(dealt) < count:
            if not self._cards:
                cards = list(eligible)
                self._rng.shuffle(cards)
                self._cards = cards[::-1]
            if not self._cards:
                break
            uid = self._cards.pop()
            if uid in eligible:
                dealt.append(uid)
        return dealt
