"""Who a simulated validator can ask: miners at an address, and miners that only exist here."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import httpx
import numpy as np
from bittensor_wallet import Keypair

from streetvision.errors import SettingsError
from streetvision.subnet import network
from streetvision.subnet.dendrite import Answer
from streetvision.subnet.regimes import NO_ANSWER, TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Miner:
    """Where a miner answers, and whose signature it expects to be called by.

    Attributes:
        uid: its place on the subnet.
        url: as in `http://127.0.0.1:8091`.
        hotkey: ss58 address.
    """

    uid: int
    url: str
    hotkey: str

    @classmethod
    def parse(cls, text: str, *, uid: int) -> Self:
        """The miner of a command line's `URL=HOTKEY`.

        Raises:
            SettingsError: the text has another form.
        """
        url, _, hotkey = text.rpartition("=")
        try:
            address = httpx.URL(url)
            Keypair(ss58_address=hotkey)
        except (httpx.InvalidURL, ValueError) as err:
            raise SettingsError(f"miner is `{text}`, expected URL=HOTKEY: {err}") from err
        if address.scheme != "http" or not address.host:
            raise SettingsError(f"miner is `{text}`, expected URL=HOTKEY with a URL like `http://127.0.0.1:8091`")
        return cls(uid=uid, url=url.rstrip("/"), hotkey=hotkey)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long a simulated miner takes: log-normal, so that a few answers come very late.

    Attributes:
        median_ms: half of the answers take longer.
        spread: standard deviation of the logarithm.
    """

    median_ms: float = 400.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not (self.median_ms > 0 and self.spread >= 0):
            raise SettingsError(
                f"latency has median {self.median_ms} ms and spread {self.spread}, expected a median above 0"
            )

    def draw_ms(self, rng: np.random.Generator) -> float:
        """One answer's."""
        return self.median_ms * math.exp(self.spread * rng.standard_normal())

    def late_share(self, timeout_s: float = TIMEOUT_S) -> float:
        """Share of answers that come after the validator has given up."""
        ratio = math.log(1e3 * timeout_s / self.median_ms)
        return 1 - NormalDist().cdf(ratio / self.spread) if self.spread else float(ratio < 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedMiner:
    """A miner that errs at random; nothing is sent to it and nobody waits for it.

    Attributes:
        uid: its place on the subnet.
        accuracy: share of its answers that are right, whatever the picture.
        no_answer_rate: share of challenges that it does not answer, beside those that it answers too late.
        latency: of its answers.
    """

    uid: int
    accuracy: float
    no_answer_rate: float = 0.0
    latency: Latency = Latency()

    @property
    def hotkey(self) -> str:
        """A name in the place of an address."""
        return f"simulated-{self.uid}"

    def answer(self, label: int, rng: np.random.Generator, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """What a validator records for a challenge of that label."""
        latency_ms, luck, silence, sure = self.latency.draw_ms(rng), *rng.random(3).tolist()
        if latency_ms > 1e3 * timeout_s:
            return Answer(prediction=NO_ANSWER, error="timeout", latency_ms=1e3 * timeout_s)
        if silence < self.no_answer_rate:
            return Answer(prediction=NO_ANSWER, error="", latency_ms=latency_ms)
        side = label if luck < self.accuracy else 1 - label
        return Answer(prediction=0.5 * sure if side == 0 else 1 - 0.5 * sure, error="", latency_ms=latency_ms)


def competitors(
    count: int,
    *,
    first_uid: int,
    seed: int,
    no_answer_rate: float = 0.002,
    latency: Latency = Latency(),
    timeout_s: float = TIMEOUT_S,
) -> tuple[SimulatedMiner, ...]:
    """Miners whose long-run scores are spread as the network's were.

    Args:
        count: how many.
        first_uid: UID of the first one; the others follow.
        seed: of the scores.
        no_answer_rate: share of challenges that each leaves unanswered; accuracies make up for it where they can.
        latency: of each.
        timeout_s: how long an answer is waited for.

    Raises:
        SettingsError: a negative count, or a share outside [0, 1].
    """
    if count < 0:
        raise SettingsError(f"{count} competitors were asked for, expected none or more")
    if not 0 <= no_answer_rate <= 1:
        raise SettingsError(f"no-answer rate of competitors is {no_answer_rate}, expected a share from 0 to 1")
    scores = network.quantile(np.random.default_rng((seed, 1)).random(count))
    silent = 1 - (1 - no_answer_rate) * (1 - latency.late_share(timeout_s))
    return tuple(
        SimulatedMiner(uid=first_uid + place, accuracy=accuracy, no_answer_rate=no_answer_rate, latency=latency)
        for place, accuracy in enumerate(network.accuracies(scores, no_answer_rate=silent).tolist())
    )
