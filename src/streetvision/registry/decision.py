"""What the gate asks, and the verdict it gives with everything it rests on."""

from typing import Annotated, Literal

from pydantic import Field

from streetvision.evidence import Interval, Value

Verdict = Literal["promote", "keep", "not enough evidence"]
Status = Literal["passed", "failed", "not checked"]
Share = Annotated[float, Field(ge=0, le=1)]

EXIT_CODES: dict[Verdict, int] = {"promote": 0, "keep": 1, "not enough evidence": 3}


class Policy(Value):
    """What a challenger has to show.

    Args:
        min_gain: mean reward a challenge that it must earn more than the champion; its 95 % interval must be above 0.
        floor_reward: without a champion, the least lower bound of its reward.
        floor_accuracy: without a champion, the least accuracy.
        min_challenges: fewer challenges are not enough evidence, whatever they say.
        min_groups: the same for source pictures, where challenges share them.
        stratum_loss: accuracy a stratum (source x level) may lose even where the loss is significant.
        stratum_significance: level of McNemar's exact one-sided test of each stratum, Holm-corrected.
        max_p99_ms: slowest acceptable 99th percentile of an answer; validators hang up after 9 s.
        burn_in: challenges at the head of a sequence that do not count, as the subnet's history still fills then.
        resamples: how many sequences the bootstrap draws.
        seed: of the bootstrap.
    """

    min_gain: float = Field(default=0.01, ge=0)
    floor_reward: Share = 0.20
    floor_accuracy: Share = 0.75
    min_challenges: int = Field(default=4000, ge=1)
    min_groups: int = Field(default=300, ge=2)
    stratum_loss: Share = 0.02
    stratum_significance: Share = 0.05
    max_p99_ms: float = Field(default=2000.0, gt=0)
    burn_in: int = Field(default=100, ge=0)
    resamples: int = Field(default=2000, ge=100)
    seed: int = Field(default=0, ge=0)


class Check(Value):
    """One question of the policy, what both models scored, and the answer in a sentence."""

    name: str
    status: Status
    champion: float | None = None
    challenger: float | None = None
    sentence: str


class McNemar(Value):
    """Challenges of which one model alone was right, and McNemar's exact two-sided test of the two counts.

    `worse` are those that the champion alone answered right, `better` those that the challenger alone did.
    """

    worse: int
    better: int
    p_value: float


class StratumChange(Value):
    """How one source at one level fares; `p_value` is one-sided, small where the challenger is worse, and Holm's."""

    source: str
    level: int
    n: int
    champion: float
    challenger: float
    worse: int
    better: int
    p_value: float


class Decision(Value):
    """The verdict with everything it rests on; models are named by the sha256 of their `model.onnx`.

    `gain` and the two rewards are means a challenge; they are null where the set is no longer than the burn-in.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    n: int
    groups: int | None = None
    gain: Interval | None = None
    champion_reward: Interval | None = None
    challenger_reward: Interval | None = None
    mcnemar: McNemar | None = None
    strata: tuple[StratumChange, ...] = ()
    champion_sha256: str | None = None
    challenger_sha256: str | None = None
    policy: Policy

    @property
    def exit_code(self) -> int:
        """0 promote, 1 keep, 3 not enough evidence."""
        return EXIT_CODES[self.verdict]
