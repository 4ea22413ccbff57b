"""The report's figures: as SVG whose colours follow the page, and as PNG for a tracking server."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from streetvision.evaluation import Report
from streetvision.evidence import Predictions
from streetvision.forecast import draw_run
from streetvision.report.figures import (
    DASHES,
    MARKERS,
    Palette,
    add_legend,
    add_network,
    new_axes,
    png,
    styled,
    svg,
)
from streetvision.subnet.reward import Tracker


def pngs(
    report: Report, predictions: Predictions, *, training: Sequence[Mapping[str, float]] | None = None
) -> dict[str, bytes]:
    """Name -> PNG of every figure, for a tracking server."""
    figures = _figures(report, predictions, training, Palette())
    figures["strata"] = _strata(report, Palette())
    return {name: png(figure) for name, figure in figures.items()}


def svgs(
    report: Report, predictions: Predictions, *, training: Sequence[Mapping[str, float]] | None = None
) -> dict[str, str]:
    """Name -> inline SVG of every figure, coloured by the CSS variables `--ink`, `--muted`, `--line`, `--accent` ..."""
    return {name: svg(figure) for name, figure in _figures(report, predictions, training, MARKERS).items()}


def _figures(
    report: Report, predictions: Predictions, training: Sequence[Mapping[str, float]] | None, palette: Palette
) -> dict[str, Figure]:
    figures = {
        "score": _score(report, predictions, palette),
        "reliability": _reliability(report, palette),
        "histogram": _histogram(predictions, palette),
    }
    if training:
        figures["training"] = _training(training, palette)
    return figures


def _score(report: Report, predictions: Predictions, palette: Palette) -> Figure:
    path = report.forecast.path
    x = [point.n for point in path]
    figure, axes = new_axes(palette, width=9.6)
    add_network(axes, palette)
    low, high = [point.low for point in path], [point.high for point in path]
    axes.fill_between(x, low, high, color=palette.accent, alpha=0.18, linewidth=0, label="95 of 100 runs")
    axes.plot(_one_run(report, predictions), color=palette.muted, linewidth=0.8, label="one run")
    axes.plot(x, [point.median for point in path], color=palette.accent, linewidth=2, label="median run")
    axes.set(xlim=(0, x[-1]), ylim=(0, 1.05), xlabel="challenges answered", ylabel="score")
    add_legend(axes, palette)
    return figure


def _one_run(report: Report, predictions: Predictions) -> list[float]:
    """Scores from 0 of the first run of the forecast."""
    order = draw_run(np.random.default_rng(report.seed), len(predictions), report.forecast.challenges)
    tracker = Tracker()
    answers = zip(predictions.probability[order].tolist(), predictions.label[order].tolist(), strict=True)
    return [0.0, *(tracker.update(probability, label, "").score for probability, label in answers)]


def _reliability(report: Report, palette: Palette) -> Figure:
    figure, axes = new_axes(palette, height=3.8)
    said = [one.probability for one in report.reliability]
    so = [one.frequency for one in report.reliability]
    error = 1.96 * np.sqrt([one.frequency * (1 - one.frequency) / one.n for one in report.reliability])
    axes.plot((0, 1), (0, 1), color=palette.muted, linewidth=1, linestyle=DASHES, label="perfectly calibrated")
    axes.errorbar(said, so, yerr=error, fmt="none", ecolor=palette.accent, elinewidth=1, alpha=0.6)
    axes.plot(said, so, color=palette.accent, linewidth=2)
    size = [18 + 200 * one.n / report.n for one in report.reliability]
    axes.scatter(said, so, s=size, color=palette.accent, zorder=3, label="this model, area by answers")
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="said probability of roadwork", ylabel="share with roadwork"
    )
    add_legend(axes, palette)
    return figure


def _histogram(predictions: Predictions, palette: Palette) -> Figure:
    figure, axes = new_axes(palette, height=3.8)
    edges = np.linspace(0, 1, 41).tolist()
    for label, name, color in ((0, "no roadwork", palette.none), (1, "roadwork", palette.roadwork)):
        values = predictions.probability[predictions.label == label]
        axes.hist(values, bins=edges, color=color, alpha=0.65, label=name)
    axes.axvline(0.5, color=palette.muted, linewidth=1, linestyle=DASHES)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_yticks([0, 10, 100, 1000], labels=["0", "10", "100", "1,000"])
    axes.minorticks_off()
    axes.set(xlim=(0, 1), xlabel="answered probability of roadwork", ylabel="answers (logarithmic)")
    add_legend(axes, palette)
    return figure


def _training(history: Sequence[Mapping[str, float]], palette: Palette) -> Figure:
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, names, label in (
        (styled(left, palette), ("train_loss", "validation_loss"), "loss"),
        (styled(right, palette), ("validation_accuracy",), "accuracy on validation"),
    ):
        for name, color in zip(names, (palette.accent, palette.roadwork), strict=False):
            axes.plot(epochs, [row[name] for row in history], color=color, linewidth=2, label=name.split("_")[0])
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    add_legend(left, palette)
    return figure


def _strata(report: Report, palette: Palette) -> Figure:
    sources = list(dict.fromkeys(one.source for one in report.strata))
    levels = sorted({one.level for one in report.strata})
    accuracy = np.full((len(sources), len(levels)), np.nan)
    for one in report.strata:
        accuracy[sources.index(one.source), levels.index(one.level)] = one.accuracy.mean
    figure, axes = new_axes(palette, height=2.6)
    axes.grid(visible=False)
    axes.imshow(1 - accuracy, cmap="Oranges", vmin=0, vmax=0.6, aspect="auto")  # the darker, the worse
    for (row, column), value in np.ndenumerate(accuracy):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.1%}", ha="center", va="center", color=palette.ink, fontsize=10)
    axes.set_xticks(range(len(levels)), labels=[f"level {level}" for level in levels])
    axes.set_yticks(range(len(sources)), labels=sources)
    return figure
