"""The validator itself, without a wire: whom it asks, what each answer earns, what the scores come to.

Source: natixnetwork/streetvision-subnet natix/validator/forward.py, natix/base/validator.py @ 28a1755
"""

import random
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streetvision.challenge_set import Challenge
from streetvision.simulation.result import Event
from streetvision.subnet.deck import UidDeck
from streetvision.subnet.dendrite import Answer
from streetvision.subnet.regimes import AUDIENCE_SIZE, Regime
from streetvision.subnet.reward import Tracker, update_scores, weights


class Validator:
    """One validator's books on its miners.

    Args:
        hotkeys: of every miner, by UID; all of them serve, none is a validator.
        regime: whose rules hold.
        seed: of whom it asks.
    """

    def __init__(self, hotkeys: Mapping[int, str], regime: Regime, *, seed: int) -> None:
        self._hotkeys = hotkeys
        self._regime = regime
        self._uids = list(hotkeys)
        self._deck = UidDeck(random.Random(seed))  # noqa: S311 - a seeded shuffle, not a secret
        self._sampling = random.Random(seed)  # noqa: S311
        self._organic_deck = UidDeck(random.Random(f"organic {seed}"))  # noqa: S311
        self._trackers = {uid: Tracker(exponent=regime.reward_exponent) for uid in self._uids}
        self._scores: NDArray[np.floating] = np.zeros(max(self._uids) + 1, dtype=np.float32)
        self.steps = 0

    def audience(self) -> list[int]:
        """Who gets the next challenge: ten miners, or all where there are fewer.

        Dealt from the deck, where one can come twice; sampled afresh in a regime without one.
        """
        size = min(AUDIENCE_SIZE, len(self._uids))
        if self._regime.uid_deck:
            return self._deck.deal(self._uids, size)
        return self._sampling.sample(self._uids, size)

    def organic_audience(self, size: int) -> list[int]:
        """Who gets the next organic task: dealt from a deck of its own."""
        return self._organic_deck.deal(self._uids, min(size, len(self._uids)))

    def record(self, challenge: Challenge, audience: Sequence[int], answers: Sequence[Answer]) -> tuple[Event, ...]:
        """What each answer to one challenge earned, and the scores after it."""
        rewards = [
            self._trackers[uid].update(answer.prediction, challenge.label, self._hotkeys[uid]).reward
            for uid, answer in zip(audience, answers, strict=True)
        ]
        self._scores = update_scores(self._scores, audience, rewards)
        self.steps += 1
        return tuple(
            Event(
                step=self.steps - 1,
                uid=uid,
                challenge_id=challenge.challenge_id,
                label=challenge.label,
                source=challenge.source,
                level=challenge.level,
                prediction=answer.prediction,
                error=answer.error,
                latency_ms=answer.latency_ms,
                reward=reward,
                score=float(self._scores[uid]),
            )
            for uid, answer, reward in zip(audience, answers, rewards, strict=True)
        )

    def score(self, uid: int) -> float:
        """A miner's moving average, from 0."""
        return float(self._scores[uid])

    def rank(self, uid: int) -> int:
        """How many miners have a better score, and one."""
        return 1 + sum(bool(self._scores[other] > self._scores[uid]) for other in self._uids)

    def weights(self) -> dict[int, int]:
        """What goes to the chain, by UID, 1 to 65535; the chain's own limits are left open."""
        uids, values = weights(self._scores, min_allowed=1, max_limit=1.0)
        return dict(zip(uids, values, strict=True))
