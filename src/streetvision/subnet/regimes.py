"""The rules of subnet 72 as data: what never changed, and what each regime changed.

Source: natixnetwork/streetvision-subnet natix/validator @ 28a1755 (regime R1); later regimes from its public history.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Literal

from streetvision.errors import SettingsError

HISTORY = 100  # answers remembered per miner
NO_ANSWER = -1.0  # what a validator records where a miner gave none
MCC_WINDOW = 100
ACCURACY_WINDOW = 10
MCC_WEIGHT = 0.5
ACCURACY_WEIGHT = 0.5
REWARD_EXPONENT = 3
SCORE_ALPHA = 0.05  # share of the newest reward in the score
STAKE_LIMIT_TAO = 40096  # a validator above it is neither asked nor paid as a miner
AUDIENCE_SIZE = 10  # miners that get the same picture
TIMEOUT_S = 9.0
EPOCH_BLOCKS = 100
WEIGHT_MAX = 65535  # a weight on the chain is a uint16
WIRE_SIZE_PX = 224
LEVELS = (0, 1, 2, 3)
MAX_ANGLE_DEG = 20.0
CROP_AREA = (0.2, 1.0)
CROP_TRIES = 10
# What a distortion of strength 1 and of strength 2 is made with; strength 0 leaves the picture alone.
DISTORTIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"CS": (0.4, 0.3), "CC": (0.85, 0.725), "JPEG": (2, 3), "GNC": (0.001, 0.002), "GB": (7, 9)}
)
# The strongest that each level draws, evenly from 0; distortions follow each other in this order.
STRONGEST: Mapping[int, Mapping[str, int]] = MappingProxyType(
    {
        0: {},
        1: {},
        2: {"CS": 1, "CC": 1, "JPEG": 1},
        3: {"CS": 2, "CC": 2, "JPEG": 2, "GNC": 2, "GB": 2},
    }
)
# Fields of the message, with their types and defaults.
MESSAGE: Mapping[str, tuple[str, int | str | float]] = MappingProxyType(
    {"testnet_label": ("int", -1), "image": ("str", ""), "prediction": ("float", NO_ANSWER)}
)

Geometry = Literal["crop", "letterbox", "native"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """One period of the subnet's rules.

    Attributes:
        name: R0 to R4.
        since: first day, None for the beginning.
        synapse: class name on the wire; the route is the same with a slash before it.
        message: its fields, with their types and defaults.
        geometry: how a picture comes to its wire size: a square crop, black bars, or not at all.
        wire_size_px: side of the square on the wire, None for the picture's own size.
        source_shares: probability of each pool; empty where no challenges are sent.
        reward_exponent: power of the raw reward.
        step_s: pause between two challenges of one validator.
        uid_deck: whether miners are dealt from a deck (else sampled afresh each time); R1 began without it.
        model_check: whether a miner needs a model that the application server knows.
    """

    name: str
    since: date | None
    synapse: str = "ImageSynapse"
    message: Mapping[str, tuple[str, int | str | float]] = field(default_factory=lambda: MESSAGE)
    geometry: Geometry = "crop"
    wire_size_px: int | None = WIRE_SIZE_PX
    source_shares: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType({"real": 0.5, "t2i": 0.25, "i2i": 0.25})
    )
    reward_exponent: int = REWARD_EXPONENT
    step_s: float = 60.0
    uid_deck: bool = True
    model_check: bool = False

    @property
    def route(self) -> str:
        """Path of the HTTP POST that carries a challenge."""
        return f"/{self.synapse}"

    @property
    def fake_share(self) -> float:
        """Probability that a challenge's picture is synthetic."""
        return self.source_shares.get("t2i", 0.0) + self.source_shares.get("i2i", 0.0)

    @property
    def halted(self) -> bool:
        """Whether validators send no challenges at all."""
        return not self.source_shares

    @property
    def augmented(self) -> bool:
        """Whether pictures are rotated and distorted by level."""
        return self.geometry != "native"


REGIMES: Mapping[str, Regime] = MappingProxyType(
    {
        regime.name: regime
        for regime in (
            Regime(
                name="R0",
                since=None,
                synapse="ExtendedImageSynapse",
                message=MappingProxyType({**MESSAGE, "model_url": ("str", "")}),
                reward_exponent=1,
                uid_deck=False,
                model_check=True,
            ),
            Regime(name="R1", since=date(2025, 12, 1)),
            Regime(name="R2", since=date(2026, 4, 6), geometry="letterbox"),
            Regime(
                name="R3",
                since=date(2026, 5, 3),
                geometry="native",
                wire_size_px=None,
                source_shares=MappingProxyType({"real": 1 / 3, "t2i": 1 / 6, "i2i": 1 / 6, "api": 1 / 3}),
                step_s=66.0,
            ),
            Regime(
                name="R4",
                since=date(2026, 5, 6),
                geometry="native",
                wire_size_px=None,
                source_shares=MappingProxyType({}),
            ),
        )
    }
)


def by_name(name: str) -> Regime:
    """The regime of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in REGIMES:
        raise SettingsError(f"regime is `{name}`, expected one of {', '.join(REGIMES)}")
    return REGIMES[name]


def active(name: str) -> Regime:
    """The regime of that name, one that sends challenges.

    Raises:
        SettingsError: there is none, or it is halted.
    """
    regime = by_name(name)
    if regime.halted:
        raise SettingsError(f"regime `{name}` is halted: its validators send no challenges", hint="choose R1, R2 or R3")
    return regime
