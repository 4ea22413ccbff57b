"""A simulation as one HTML page that needs nothing else, and its figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from streetvision import atomic
from streetvision.report.figures import DASHES, MARKERS, Palette, add_legend, add_network, new_axes, svg
from streetvision.report.page import render
from streetvision.simulation import Comparison, Event, MinerResult, SimulationResult
from streetvision.subnet import network
from streetvision.subnet.network import LongRun
from streetvision.subnet.regimes import REWARD_EXPONENT, TIMEOUT_S, by_name

_CURVES = 6  # miners that have a colour of their own
_POINTS = 1500


def write_simulation_report(
    path: Path,
    result: SimulationResult,
    *,
    comparison: Comparison | None = None,
    long_run: LongRun | None = None,
) -> None:
    """Leaves one HTML page at `path` that loads nothing from anywhere.

    Args:
        path: of the page.
        result: what the miners made of it, also of an interrupted run.
        comparison: what `evaluate` said of one of them.
        long_run: what was to be expected, where the miner was simulated.

    Raises:
        StorageError: the disk is full, read-only or failing; nothing is half-written.
    """
    events = {miner.uid: result.events_of(miner.uid) for miner in result.miners}
    same_rules = by_name(result.regime).reward_exponent == REWARD_EXPONENT
    figures = {
        "score": _scores(result.miners, events, comparison, long_run, MARKERS, same_rules=same_rules),
        "levels": _levels(result.miners, MARKERS),
    }
    replies = [
        event.latency_ms for miner in result.miners if miner.url for event in events[miner.uid] if not event.error
    ]
    if replies:
        figures["latency"] = _latency(replies, MARKERS)
    if result.competitors:
        figures["competitors"] = _competitors(result, MARKERS)
    page = render(
        "simulation.html.jinja",
        result=result,
        comparison=comparison,
        long_run=long_run,
        network=network if same_rules else None,
        first=result.miners[0],
        errors=_errors(result.miners),
        competitors=sorted(result.competitors, key=lambda one: -one.score),
        figures={name: Markup(svg(figure)) for name, figure in figures.items()},  # noqa: S704 - drawn from numbers
    )
    atomic.write_text(path, page)


def _errors(miners: Sequence[MinerResult]) -> list[tuple[int, str, int]]:
    """UID, reason and count of what was no usable reply, most frequent first."""
    counted = [(miner.uid, reason, count) for miner in miners for reason, count in miner.errors.items()]
    return sorted(counted, key=lambda one: -one[2])


def _colours(palette: Palette) -> tuple[str, ...]:
    return (palette.accent, palette.roadwork, palette.none, palette.ink, palette.muted, palette.line)


def _name(miner: MinerResult) -> str:
    return f"UID {miner.uid}"


def _scores(
    miners: Sequence[MinerResult],
    events: dict[int, tuple[Event, ...]],
    comparison: Comparison | None,
    long_run: LongRun | None,
    palette: Palette,
    *,
    same_rules: bool,
) -> Figure:
    figure, axes = new_axes(palette, width=9.6)
    if same_rules:
        add_network(axes, palette)
    if comparison:
        path = comparison.forecast.path
        x = [point.n for point in path]
        low, high = [point.low for point in path], [point.high for point in path]
        axes.fill_between(x, low, high, color=palette.accent, alpha=0.18, linewidth=0, label="forecast, 95 of 100 runs")
        axes.plot(
            x,
            [point.median for point in path],
            color=palette.muted,
            linewidth=1.2,
            linestyle=DASHES,
            label="median forecast",
        )
    if long_run:
        axes.axhspan(
            long_run.score.low,
            long_run.score.high,
            color=palette.accent,
            alpha=0.12,
            linewidth=0,
            label="95 of 100 moments",
        )
        axes.axhline(long_run.score.mean, color=palette.muted, linewidth=1.2, linestyle=DASHES, label="long run")
    for miner, colour in zip(miners, _colours(palette), strict=False):
        scores = [0.0, *(event.score for event in events[miner.uid])]
        shown = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), _POINTS)).round().astype(np.intp))
        label = "this run" if len(miners) == 1 else _name(miner)
        axes.plot(shown, [scores[place] for place in shown], color=colour, linewidth=1.6, label=label)
    longest = max([1, *(len(one) for one in events.values())])
    axes.set(xlim=(0, longest), ylim=(0, 1.05), xlabel="challenges to the miner", ylabel="score")
    add_legend(axes, palette)
    return figure


def _levels(miners: Sequence[MinerResult], palette: Palette) -> Figure:
    """Accuracy and reward of a miner that is alone, the rewards of several."""
    figure, axes = new_axes(palette, width=6.4 if len(miners) == 1 else 9.6, height=3.6 if len(miners) == 1 else 3.0)
    names = sorted({cell.name for miner in miners for cell in miner.levels})
    series = [(_name(miner), {cell.name: cell.mean_reward for cell in miner.levels}) for miner in miners[:_CURVES]]
    if len(miners) == 1:
        answered = {cell.name: cell.accuracy or 0.0 for cell in miners[0].levels}
        series = [("accuracy", answered), ("mean reward", series[0][1])]
    width = 0.76 / len(series)
    for place, ((name, values), colour) in enumerate(zip(series, _colours(palette), strict=False)):
        x = np.arange(len(names)) + (place - (len(series) - 1) / 2) * width
        heights = [values.get(level, 0.0) for level in names]
        bars = axes.bar(x, heights, width=0.92 * width, color=colour, alpha=0.85, label=name)
        if len(series) < 3:
            axes.bar_label(bars, fmt="%.3f", padding=2, color=palette.ink, fontsize=8)
    axes.set_xticks(range(len(names)), labels=[f"level {name}" for name in names])
    axes.set(ylim=(0, 1.08))
    axes.grid(visible=False, axis="x")
    add_legend(axes, palette)
    return figure


def _latency(replies_ms: Sequence[float], palette: Palette) -> Figure:
    figure, axes = new_axes(palette, width=9.6, height=2.8)
    low, high = max(0.1, min(replies_ms) / 1.5), max(*replies_ms, 10.0) * 1.5
    if high > 1e3 * TIMEOUT_S / 10:
        high = 1.3e3 * TIMEOUT_S
        axes.axvline(1e3 * TIMEOUT_S, color=palette.roadwork, linewidth=1.6, label="the validator gives up")
    axes.hist(replies_ms, bins=np.geomspace(low, high, 50).tolist(), color=palette.accent, alpha=0.75)
    for percent, style in ((50, "solid"), (99, DASHES)):
        value = float(np.percentile(replies_ms, percent))
        axes.axvline(value, color=palette.ink, linewidth=1, linestyle=style, label=f"p{percent} {value:.1f} ms")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set(xlim=(low, high), xlabel="from request to reply, ms (logarithmic)", ylabel="replies")
    add_legend(axes, palette)
    return figure


def _competitors(result: SimulationResult, palette: Palette) -> Figure:
    figure, axes = new_axes(palette, width=9.6, height=2.8)
    scores = [one.score for one in result.competitors]
    low = min([*scores, *(miner.score for miner in result.miners)])
    axes.hist(
        scores, bins=np.linspace(0.95 * low, 1.0, 60).tolist(), color=palette.none, alpha=0.6, label="competitors"
    )
    for miner, colour in zip(result.miners, _colours(palette), strict=False):
        axes.axvline(miner.score, color=colour, linewidth=2.2, label=f"{_name(miner)}, rank {miner.rank}")
    axes.set(xlim=(0.95 * low, 1.0), xlabel="score at the end", ylabel="miners")
    add_legend(axes, palette)
    return figure
