"""The report's figures: as SVG whose colours follow the page, and as PNG for a tracking server."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from streetvision.evaluation import Predictions, Report
from streetvision.statistics import sequences
from streetvision.subnet.regimes import SCORE_ALPHA
from streetvision.subnet.reward import rewards

# Scores of the network's miners, December 2025. Source: a public W&B record quoted in Si-36/Natix_miner, recomputed
NETWORK_P10, NETWORK_MEDIAN, NETWORK_MEAN, NETWORK_P90 = 0.873, 0.949, 0.935, 0.997

_REPLAYS = 300
_REPLAYED = 400
_DASHES = (0, (4, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours of a figure by what they stand for."""

    ink: str = "#1d2733"
    muted: str = "#5f6b78"
    line: str = "#dde2e8"
    accent: str = "#2563a8"
    roadwork: str = "#d86a00"
    none: str = "#4f7f9b"


# Colours that nothing else has, so that each can become a CSS variable in the text of an SVG
_MARKERS = Palette(**{field.name: f"#0a0b{number:02x}" for number, field in enumerate(fields(Palette), 1)})
_VARIABLES = {marker: f"var(--{name})" for name, marker in asdict(_MARKERS).items()}


def pngs(
    report: Report, predictions: Predictions, *, training: Sequence[Mapping[str, float]] | None = None
) -> dict[str, bytes]:
    """Name -> PNG of every figure, for a tracking server."""
    figures = _figures(report, predictions, training, Palette())
    figures["strata"] = _strata(report, Palette())
    return {name: _png(figure) for name, figure in figures.items()}


def svgs(
    report: Report, predictions: Predictions, *, training: Sequence[Mapping[str, float]] | None = None
) -> dict[str, str]:
    """Name -> inline SVG of every figure, coloured by the CSS variables `--ink`, `--muted`, `--line`, `--accent` ..."""
    return {name: _svg(figure) for name, figure in _figures(report, predictions, training, _MARKERS).items()}


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


def _axes(palette: Palette, *, width: float = 6.4, height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, _styled(figure.add_subplot(), palette)


def _styled(axes: Axes, palette: Palette) -> Axes:
    axes.grid(visible=True, color=palette.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=palette.muted, labelsize=9, length=0)
    axes.xaxis.label.set_color(palette.muted)
    axes.yaxis.label.set_color(palette.muted)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(palette.line)
    return axes


def _legend(axes: Axes, palette: Palette) -> None:
    """Above the axes, where no curve runs."""
    entries = len(axes.get_legend_handles_labels()[0])
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=entries,
        frameon=False,
        fontsize=9,
        labelcolor=palette.ink,
        borderaxespad=0.2,
        handlelength=1.6,
        columnspacing=1.4,
        borderpad=0.2,
    )


def _score(report: Report, predictions: Predictions, palette: Palette) -> Figure:
    scores = _replayed_scores(predictions, seed=report.seed)
    x = np.arange(1, scores.shape[1] + 1)
    low, median, high = np.quantile(scores, (0.025, 0.5, 0.975), axis=0)
    figure, axes = _axes(palette, width=9.6)
    for value, name in ((NETWORK_MEDIAN, "median miner"), (NETWORK_P10, "10th percentile")):
        axes.axhline(value, color=palette.roadwork, linewidth=1, linestyle=_DASHES)
        axes.annotate(
            f"{name} {value:.3f}",
            (1, value),
            xytext=(6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=palette.roadwork,
        )
    axes.fill_between(x, low, high, color=palette.accent, alpha=0.18, linewidth=0, label="95 of 100 runs")
    axes.plot(x, scores[0], color=palette.muted, linewidth=0.8, label="one run")
    axes.plot(x, median, color=palette.accent, linewidth=2, label="median run")
    axes.set(xlim=(0, len(x)), ylim=(0, 1.05), xlabel="challenges answered", ylabel="score")
    _legend(axes, palette)
    return figure


def _replayed_scores(predictions: Predictions, *, seed: int) -> NDArray[np.float64]:
    orders = sequences(np.random.default_rng(seed), _REPLAYS, n=len(predictions), group=predictions.group)
    orders = orders[:, :_REPLAYED]
    earned = rewards(predictions.probability[orders], predictions.label[orders])
    scores = np.zeros_like(earned)
    score = np.zeros(len(earned))
    for step in range(earned.shape[1]):
        score = SCORE_ALPHA * earned[:, step] + (1 - SCORE_ALPHA) * score
        scores[:, step] = score
    return scores


def _reliability(report: Report, palette: Palette) -> Figure:
    figure, axes = _axes(palette, height=3.8)
    said = [one.probability for one in report.reliability]
    so = [one.frequency for one in report.reliability]
    error = 1.96 * np.sqrt([one.frequency * (1 - one.frequency) / one.n for one in report.reliability])
    axes.plot((0, 1), (0, 1), color=palette.muted, linewidth=1, linestyle=_DASHES, label="perfectly calibrated")
    axes.errorbar(said, so, yerr=error, fmt="none", ecolor=palette.accent, elinewidth=1, alpha=0.6)
    axes.plot(said, so, color=palette.accent, linewidth=2)
    size = [18 + 200 * one.n / report.n for one in report.reliability]
    axes.scatter(said, so, s=size, color=palette.accent, zorder=3, label="this model, area by answers")
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="said probability of roadwork", ylabel="share with roadwork"
    )
    _legend(axes, palette)
    return figure


def _histogram(predictions: Predictions, palette: Palette) -> Figure:
    figure, axes = _axes(palette, height=3.8)
    edges = np.linspace(0, 1, 41).tolist()
    for label, name, color in ((0, "no roadwork", palette.none), (1, "roadwork", palette.roadwork)):
        values = predictions.probability[predictions.label == label]
        axes.hist(values, bins=edges, color=color, alpha=0.65, label=name)
    axes.axvline(0.5, color=palette.muted, linewidth=1, linestyle=_DASHES)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_yticks([0, 10, 100, 1000], labels=["0", "10", "100", "1,000"])
    axes.minorticks_off()
    axes.set(xlim=(0, 1), xlabel="answered probability of roadwork", ylabel="answers (logarithmic)")
    _legend(axes, palette)
    return figure


def _training(history: Sequence[Mapping[str, float]], palette: Palette) -> Figure:
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axes, names, label in (
        (_styled(left, palette), ("train_loss", "validation_loss"), "loss"),
        (_styled(right, palette), ("validation_accuracy",), "accuracy on validation"),
    ):
        for name, color in zip(names, (palette.accent, palette.roadwork), strict=False):
            axes.plot(epochs, [row[name] for row in history], color=color, linewidth=2, label=name.split("_")[0])
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _legend(left, palette)
    return figure


def _strata(report: Report, palette: Palette) -> Figure:
    sources = list(dict.fromkeys(one.source for one in report.strata))
    levels = sorted({one.level for one in report.strata})
    accuracy = np.full((len(sources), len(levels)), np.nan)
    for one in report.strata:
        accuracy[sources.index(one.source), levels.index(one.level)] = one.accuracy.mean
    figure, axes = _axes(palette, height=2.6)
    axes.grid(visible=False)
    axes.imshow(1 - accuracy, cmap="Oranges", vmin=0, vmax=0.6, aspect="auto")  # the darker, the worse
    for (row, column), value in np.ndenumerate(accuracy):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.1%}", ha="center", va="center", color=palette.ink, fontsize=10)
    axes.set_xticks(range(len(levels)), labels=[f"level {level}" for level in levels])
    axes.set_yticks(range(len(sources)), labels=sources)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "streetvision"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for marker, variable in _VARIABLES.items():
        text = text.replace(marker, variable)
    return text[text.index("<svg") :]
