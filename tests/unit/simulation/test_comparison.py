from collections.abc import Callable

import numpy as np
import pytest

from streetvision.challenge_set import ChallengeSet
from streetvision.errors import EvidenceError
from streetvision.evidence import Predictions
from streetvision.simulation import Miner, SimulatedMiner, Simulation, SimulationResult, compare, simulate
from tests.unit.simulation.served import VALIDATOR, Answer, truth

Start = Callable[[Answer], Miner]


@pytest.fixture
def predictions(challenges: ChallengeSet) -> Predictions:
    """A model that errs on every sixth challenge."""
    rows = challenges.rows
    said = [truth(row.file.encode()) if place % 6 else 1 - truth(row.file.encode()) for place, row in enumerate(rows)]
    return Predictions(
        challenge_id=np.array([row.challenge_id for row in rows]),
        label=np.array([row.label for row in rows], dtype=np.uint8),
        probability=np.array(said),
        source=np.array([row.source for row in rows]),
        level=np.array([row.level for row in rows], dtype=np.int8),
    )


@pytest.fixture
def as_evaluated(start: Start, challenges: ChallengeSet, predictions: Predictions) -> Miner:
    """A miner that answers what `evaluate` recorded."""
    said = dict(zip((row.file.encode() for row in challenges.rows), predictions.probability.tolist(), strict=True))
    return start(lambda image: (200, said[image]))


async def play(
    miner: Miner | SimulatedMiner, challenges: ChallengeSet, *, count: int, seed: int = 0
) -> SimulationResult:
    return await simulate([miner], challenges, VALIDATOR, count=count, seed=seed, time_scale=0)


async def test_a_run_of_a_miner_that_answers_as_evaluated_ends_inside_the_forecast(
    as_evaluated: Miner, challenges: ChallengeSet, predictions: Predictions
):
    comparison = compare(await play(as_evaluated, challenges, count=200), predictions)
    assert comparison.reward_observed == pytest.approx(comparison.reward_predicted, abs=1e-12)
    assert comparison.forecast.challenges == 200
    assert (comparison.score_inside, comparison.reward_inside) == (True, True)
    assert comparison.forecast.score.low < comparison.score_observed < comparison.forecast.score.high
    assert comparison.forecast.score.high - comparison.forecast.score.low < 0.6


async def test_a_miner_that_answers_otherwise_ends_outside(challenges: ChallengeSet, predictions: Predictions):
    guesses = SimulatedMiner(uid=1, accuracy=0.5)
    comparison = compare(await play(guesses, challenges, count=300), predictions)
    assert (comparison.score_inside, comparison.reward_inside) == (False, False)
    assert comparison.reward_observed < 0.1 < comparison.reward_predicted


async def test_an_interrupted_run_is_compared_with_the_forecast_of_its_length(
    challenges: ChallengeSet, predictions: Predictions
):
    simulation = Simulation([SimulatedMiner(uid=1, accuracy=0.8)], challenges, count=100, seed=0)
    with pytest.raises(EvidenceError, match="sent no challenge"):
        compare(simulation.result(), predictions)

    def stop(_: object) -> None:
        if simulation.progress == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await simulation.run(on_step=stop)
    assert compare(simulation.result(), predictions).forecast.challenges == 30


async def test_predictions_of_another_set_are_refused(challenges: ChallengeSet, make_predictions):
    result = await play(SimulatedMiner(uid=1, accuracy=1.0), challenges, count=3)
    other = make_predictions(n=200, challenge_id=np.array([f"other/{row}" for row in range(200)]))
    with pytest.raises(EvidenceError, match="predictions lack challenge `set/"):
        compare(result, other)


async def test_a_regime_without_the_cube_is_not_compared(challenges: ChallengeSet, predictions: Predictions):
    simulation = Simulation([SimulatedMiner(uid=1, accuracy=1.0)], challenges, count=3, seed=0, regime="R0")
    await simulation.run()
    with pytest.raises(EvidenceError, match="regime is `R0`"):
        compare(simulation.result(), predictions)
