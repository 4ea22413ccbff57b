"""Measures how often the gate promotes, over gain and set size, and draws it: `python -m docs.figures.power`.

Prints the tables of `docs/gate.md` as well. Twenty minutes or so on two cores.
"""

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from itertools import product, repeat
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from docs.figures.subnet import card
from streetvision.evidence import Predictions
from streetvision.parallel import processes
from streetvision.progress import Progress
from streetvision.registry.decision import Policy
from streetvision.registry.gate import decide
from streetvision.report.figures import DASHES, Palette, styled
from streetvision.statistics import percentile_ends, sequences
from streetvision.subnet.regimes import SCORE_ALPHA
from streetvision.subnet.reward import rewards
from tests.registry.worlds import World, answers

FILE = Path(__file__).parents[1] / "gate-power.svg"
PALETTE = Palette()
SHADES = ("#9db7d4", "#6f97c4", "#2563a8", "#17406d", "#0b2440")

SIZES = (1000, 2000, 4000, 8000, 16000)
GAINS = (0.0, 0.005, 0.010, 0.015, 0.020, 0.030)  # of accuracy
POLICY = Policy(min_challenges=min(SIZES), resamples=300)
FINAL_SCORE = 0  # in place of a set size: the rule with the final score as its statistic, on 4,000 challenges

Rates = dict[tuple[int, float], float]


def count(n: int) -> int:
    """Trials of one point of a curve."""
    return 200 if n <= 4000 else 100


def promoted(n: int, gain: float, seed: int) -> bool:
    """Whether one draw of the challenger is promoted."""
    champion, challenger = answers(World(n=n or 4000, gain=gain), seed)
    if n == FINAL_SCORE:
        return promoted_by_final_score(champion, challenger)
    return decide(champion, challenger, POLICY).verdict == "promote"


def promoted_by_final_score(champion: Predictions, challenger: Predictions) -> bool:
    """The gate's rule for the gain, with the score after the last challenge in place of the mean reward."""
    rng = np.random.default_rng(POLICY.seed)
    n = len(champion)
    as_answered = rng.permuted(np.tile(np.arange(n), (200, 1)), axis=1)
    resampled = sequences(rng, POLICY.resamples, n=n)
    gain, draws = (
        final_scores(challenger, orders) - final_scores(champion, orders) for orders in (as_answered, resampled)
    )
    return bool(gain.mean() >= POLICY.min_gain and percentile_ends(draws)[0] > 0)


def final_scores(predictions: Predictions, orders: np.ndarray) -> np.ndarray:
    """Score after the last challenge of each sequence; what lies 500 challenges back has left no trace in it."""
    last = orders[:, -500:]
    earned = rewards(predictions.probability[last], predictions.label[last])
    return earned @ (SCORE_ALPHA * (1 - SCORE_ALPHA) ** np.arange(earned.shape[1])[::-1])


def measure(pool: Executor) -> Rates:
    """Share of draws that are promoted, by set size and gain."""
    points = list(product((FINAL_SCORE, *SIZES), GAINS))
    rates: Rates = {}
    with Progress("verdicts", total=sum(count(n) for n, _ in points), unit="verdict") as progress:
        for n, gain in points:
            seen = []
            for one in pool.map(promoted, repeat(n), repeat(gain), range(count(n)), chunksize=5):
                seen.append(one)
                progress.advance(1)
            rates[n, gain] = float(np.mean(seen))
    return rates


def table(rates: Rates) -> Iterator[str]:
    """The rates as Markdown."""
    yield "| challenges | " + " | ".join(f"{100 * gain:+.1f} points" if gain else "equal" for gain in GAINS) + " |"
    yield "|---|" + "---|" * len(GAINS)
    for n in (*SIZES, FINAL_SCORE):
        name = f"{n:,}" if n else "4,000, by the final score"
        yield f"| {name} | " + " | ".join(f"{rates[n, gain]:.0%}" for gain in GAINS) + " |"


def draw(rates: Rates) -> Figure:
    """The same rates twice: over the gain, a curve a set size; and over the set size, a curve a gain."""
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = (styled(axes, PALETTE) for axes in figure.subplots(1, 2, sharey=True))
    over_gain(left, rates)
    over_size(right, rates)
    for axes in (left, right):
        for level in (0.9, 0.05):
            axes.axhline(level, color=PALETTE.muted, linewidth=0.8, linestyle=(0, (1, 2)))
            note(axes, f"{level:.0%}", (1, level), (4, -3), xycoords=("axes fraction", "data"))
    left.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    left.set(ylim=(-0.02, 1.04), ylabel="share of challengers promoted")
    return figure


def over_gain(axes: Axes, rates: Rates) -> None:
    """A curve a set size."""
    points = [100 * gain for gain in GAINS]
    for n, color in zip(reversed(SIZES), reversed(SHADES), strict=True):
        width = 2.8 if n == 4000 else 1.6
        label = f"{n:,} challenges"
        axes.plot(points, [rates[n, gain] for gain in GAINS], "o-", color=color, lw=width, ms=4, label=label)
    scores = [rates[FINAL_SCORE, gain] for gain in GAINS]
    axes.plot(points, scores, "o--", color=PALETTE.roadwork, lw=1.8, ms=4, label="4,000, by the final score")
    axes.set(xlim=(-0.05, 3.05), xlabel="points of accuracy gained")
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 0.2), frameon=False, fontsize=9, labelcolor=PALETTE.ink, handlelength=1.6
    )


def over_size(axes: Axes, rates: Rates) -> None:
    """A curve a gain, each with its name where it begins."""
    gains = GAINS[:5]
    for gain, color in zip(gains, (PALETTE.roadwork, *SHADES), strict=False):
        axes.plot(SIZES, [rates[n, gain] for n in SIZES], "o-", color=color, lw=2, ms=4)
        name = f"+{100 * gain:.1f} points" if gain else "equal models"
        note(axes, name, (SIZES[0], rates[SIZES[0], gain]), (-8, -3), color=color, ha="right")
    axes.axvline(4000, color=PALETTE.muted, linewidth=1, linestyle=DASHES)
    note(axes, "verdicts from 4,000 on", (4000, 0.14), (6, 0))
    axes.set_xscale("log")
    axes.set_xticks(SIZES, labels=[f"{n:,}" for n in SIZES])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlim=(330, 20_000), xlabel="challenges in the set")


def note(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    *,
    color: str = PALETTE.muted,
    **style: Any,
) -> None:
    """Small print beside a point."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", fontsize=8.5, color=color, **style)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with processes(os.cpu_count() or 1) as workers:
        measured = measure(workers)
    FILE.write_text(card(draw(measured)))
    sys.stdout.write("\n".join(table(measured)) + "\n")
