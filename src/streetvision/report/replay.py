"""A replay as a picture: what every answer earned, and the score that came of it."""

import numpy as np
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from streetvision.report.figures import DASHES, Palette, add_legend, add_network, new_axes, png
from streetvision.subnet.replay import Replay

_CROWDED = 1000  # events from which on points and line are drawn finer
_TOP = 1.05


def replay_png(replay: Replay, *, network: bool = True) -> bytes:
    """Rewards and score over the events, as PNG; changes of hotkey are marked, spells of poison shaded.

    Args:
        replay: with at least one event.
        network: draw the scores of the network's miners too; they are of regime R1.
    """
    count = len(replay.rewards)
    number = np.arange(1, count + 1)
    crowded = count > _CROWDED
    palette = Palette()
    figure, axes = new_axes(palette, width=9.6, height=3.8)
    if network:
        add_network(axes, palette)
    if spells := _spells(np.frombuffer(replay.poisoned, dtype=np.bool_)):
        axes.broken_barh(spells, (0, _TOP), color=palette.none, alpha=0.2, linewidth=0, label="poisoned")
    if replay.changes:
        between = np.array(replay.changes) + 0.5
        axes.vlines(between, 0, _TOP, color=palette.ink, linewidth=1, linestyle=DASHES, label="new hotkey")
    axes.plot(
        number,
        replay.rewards,
        linestyle="none",
        marker="o",
        markersize=2 if crowded else 3.5,
        markeredgewidth=0,
        color=palette.muted,
        alpha=0.25 if crowded else 0.5,
        label="reward of one answer",
        clip_on=False,
    )
    axes.plot(number, replay.scores, color=palette.accent, linewidth=1 if crowded else 2, label="score", zorder=3)
    margin = max(0.01 * count, 0.5)
    axes.set(xlim=(1 - margin, count + margin), ylim=(0, _TOP), xlabel="event", ylabel="reward and score")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    add_legend(axes, palette)
    return png(figure)


def _spells(marked: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Left edge and width of every run of marked events, which are numbered from 1."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8))).reshape(-1, 2)
    return [(float(start) + 0.5, float(stop - start)) for start, stop in edges]
