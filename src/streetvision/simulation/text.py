"""A simulation as a person reads it in a terminal."""

from streetvision.simulation.comparison import Comparison
from streetvision.simulation.result import MinerResult, Organic, SimulationResult
from streetvision.subnet import network
from streetvision.subnet.network import LongRun

_COLUMNS = ("asked", "answered", "accuracy", "reward", "score", "p50 ms", "p99 ms", "weight")
_NETWORK = f"P10 {network.P10}, median {network.MEDIAN}, mean {network.MEAN}, P90 {network.P90}"


def describe(
    result: SimulationResult,
    *,
    comparison: Comparison | None = None,
    long_run: LongRun | None = None,
    note: str = "",
) -> str:
    """A table of miners and levels, and what its figures mean.

    Args:
        result: what the miners made of it.
        comparison: what `evaluate` said of one of them.
        long_run: what was to be expected, where the miner was simulated.
        note: why there is no comparison.
    """
    table = [_row("miner", *_COLUMNS), *(line for miner in result.miners for line in _rows(miner))]
    sentences = [*_standing(result, long_run), *_forecast(comparison, note)]
    return "\n".join([*table, "", *(f"{name:<12}{text}" for name, text in sentences)])


def _rows(miner: MinerResult) -> list[str]:
    called = bool(miner.url)
    first = _row(
        miner.url or "simulated",
        miner.asked,
        miner.answered,
        _figure(miner.accuracy, 3),
        _figure(miner.mean_reward, 3),
        _figure(miner.score, 3),
        _figure(miner.latency_p50_ms if called else None, 1),
        _figure(miner.latency_p99_ms if called else None, 1),
        miner.weight,
    )
    levels = [
        _row(f"  level {cell.name}", cell.asked, cell.answered, _figure(cell.accuracy, 3), f"{cell.mean_reward:.3f}")
        for cell in miner.levels
    ]
    return [first, *(f"  {text}" for text in _failures(miner)), *levels]


def _standing(result: SimulationResult, long_run: LongRun | None) -> list[tuple[str, str]]:
    """Where the miners stand: in the long run, in the network, among competitors."""
    lines: list[tuple[str, str]] = []
    if long_run:
        silent = f" and {long_run.no_answer_rate:.1%} unanswered" if long_run.no_answer_rate else ""
        ends = f"[{long_run.score.low:.3f}, {long_run.score.high:.3f}]"
        score = f"score {long_run.score.mean:.3f}; in 95 of 100 moments it is in {ends}"
        lines.append(("long run", f"accuracy {long_run.accuracy:g}{silent} comes to {score}"))
        percentiles = [("", long_run.percentile)]
    else:
        percentiles = [
            (f"UID {one.uid}: {_figure(one.mean_reward_after_burn_in, 3)} after the first 100 is ", one.percentile)
            for one in result.miners
        ]
    known = [f"{text}percentile {percentile:.1f}" for text, percentile in percentiles if percentile is not None]
    lines += [("network", text) for text in known]
    lines += [("", f"of its miners' scores in December 2025: {_NETWORK}")] if known else []
    if result.competitors:
        everybody = len(result.miners) + len(result.competitors)
        lines += [
            ("competitors", f"UID {one.uid}: rank {one.rank} of {everybody} by score, {one.pay_share:.2%} of the pay")
            for one in result.miners
        ]
    lines += [("organic", f"UID {one.uid}: {_organic(one, one.organic)}") for one in result.miners if one.organic]
    return lines


def _forecast(comparison: Comparison | None, note: str) -> list[tuple[str, str]]:
    if not comparison:
        return [("forecast", f"none: {note}")] if note else []
    score, reward = comparison.forecast.score, comparison.forecast.mean_reward
    return [
        (
            "forecast",
            f"score {comparison.score_observed:.3f} is {_inside(comparison.score_inside)} "
            f"[{score.low:.3f}, {score.high:.3f}], where 95 of 100 such runs end",
        ),
        (
            "",
            f"mean reward {comparison.reward_observed:.3f} is {_inside(comparison.reward_inside)} "
            f"[{reward.low:.3f}, {reward.high:.3f}]",
        ),
        ("predicted", f"`evaluate` predicted a mean reward of {comparison.reward_predicted:.3f} on these challenges"),
    ]


def _organic(miner: MinerResult, seen: Organic) -> str:
    parts = [f"{seen.asked} asked beside the challenges", f"{seen.answered} answered", *_failures(seen)]
    if miner.url and seen.latency_p50_ms is not None:
        parts.append(f"p50 {seen.latency_p50_ms:.1f} ms")
    return f"{', '.join(parts)}; not scored"


def _failures(seen: MinerResult | Organic) -> list[str]:
    """How often which thing went wrong."""
    silent = [f"{seen.abstained} x no answer given"] if seen.abstained else []
    return [f"{count} x {reason}" for reason, count in seen.errors.items()] + silent


def _row(name: str, *values: object) -> str:
    return f"{name:<32}" + "".join(f"{value!s:>9}" for value in values)


def _inside(inside: bool) -> str:
    return "inside" if inside else "OUTSIDE"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
