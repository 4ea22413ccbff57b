"""What `evaluate` said of a model beside what a simulated validator saw of it."""

from collections.abc import Sequence

from streetvision.errors import EvidenceError
from streetvision.evidence import Interval, Predictions, Value
from streetvision.forecast import Forecast, forecast
from streetvision.simulation.result import SimulationResult
from streetvision.subnet.regimes import REWARD_EXPONENT, by_name
from streetvision.subnet.reward import rewards


class Comparison(Value):
    """One miner's run and its forecast.

    Attributes:
        uid: the miner's.
        forecast: of as many challenges as it was asked, drawn from the same set.
        reward_predicted: mean reward that the predictions earn on the very challenges it was sent.
        reward_observed: mean reward that it earned.
        score_observed: its score at the end.
        reward_inside: whether the observed mean reward is inside the forecast.
        score_inside: whether the observed score is.
    """

    uid: int
    forecast: Forecast
    reward_predicted: float
    reward_observed: float
    score_observed: float
    reward_inside: bool
    score_inside: bool


def compare(result: SimulationResult, predictions: Predictions, *, uid: int | None = None) -> Comparison:
    """One miner's run beside what its model's answers to the same challenge set let expect.

    Args:
        result: of the simulation.
        predictions: answers of the model behind the miner.
        uid: the miner's; None for the first one.

    Raises:
        EvidenceError: the miner was asked nothing, or something that the predictions lack, or under rules that the
            forecast does not know.
    """
    if by_name(result.regime).reward_exponent != REWARD_EXPONENT:
        raise EvidenceError(
            f"regime is `{result.regime}`, expected one whose reward the forecast replays: R1, R2 or R3"
        )
    miner = next(one for one in result.miners if uid in (None, one.uid))
    events = result.events_of(miner.uid)
    if not events:
        raise EvidenceError("the miner was sent no challenge, expected at least one to compare with a forecast")
    place = {name: index for index, name in enumerate(predictions.challenge_id.tolist())}
    missing = [event.challenge_id for event in events if event.challenge_id not in place]
    if missing:
        raise EvidenceError(
            f"predictions lack challenge `{missing[0]}`, expected answers to challenge set {result.challenge_set[:12]}",
            hint="name the table that `streetvision evaluate` wrote for this set",
        )
    sent = [place[event.challenge_id] for event in events]
    expected = forecast(predictions, challenges=len(events), seed=result.seed)
    return Comparison(
        uid=miner.uid,
        forecast=expected,
        reward_predicted=float(rewards(predictions.probability[sent], predictions.label[sent]).mean()),
        reward_observed=miner.mean_reward,
        score_observed=miner.score,
        reward_inside=_inside(miner.mean_reward, expected.mean_reward),
        score_inside=_inside(miner.score, expected.score),
    )


def require_answers(predictions: Predictions, challenge_ids: Sequence[str], version: str) -> list[int]:
    """Rows of the predictions for these challenges of a set of that version.

    Raises:
        EvidenceError: one of them was not answered.
    """
    place = {name: index for index, name in enumerate(predictions.challenge_id.tolist())}
    for name in challenge_ids:
        if name not in place:
            raise EvidenceError(
                f"predictions lack challenge `{name}`, expected answers to challenge set {version[:12]}",
                hint="name the table that `streetvision evaluate` wrote for this set",
            )
    return [place[name] for name in challenge_ids]


def _inside(value: float, interval: Interval) -> bool:
    return interval.low <= value <= interval.high
