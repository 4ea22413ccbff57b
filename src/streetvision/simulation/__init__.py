"""The simulated network: a validator to test miners with, and competitors beside them."""

from streetvision.simulation.comparison import Comparison, compare
from streetvision.simulation.miners import Latency, Miner, SimulatedMiner, competitors
from streetvision.simulation.result import Event, MinerResult, SimulationResult
from streetvision.simulation.run import Simulation, simulate, without_pictures

__all__ = [
    "Comparison",
    "Event",
    "Latency",
    "Miner",
    "MinerResult",
    "SimulatedMiner",
    "Simulation",
    "SimulationResult",
    "compare",
    "competitors",
    "simulate",
    "without_pictures",
]
