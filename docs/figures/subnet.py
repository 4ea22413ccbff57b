"""Draws the figures of `docs/subnet.md` from the code that they explain: `python docs/figures/subnet.py`."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from streetvision.data.procedural import render
from streetvision.report.figures import DASHES, Palette, add_legend, add_network, new_axes, styled, svg
from streetvision.subnet import challenges, network
from streetvision.subnet.regimes import NO_ANSWER, SCORE_ALPHA
from streetvision.subnet.reward import rewards, weights

OUT = Path(__file__).parents[1]
PALETTE = Palette()
SHADES = ("#2563a8", "#4f7f9b", "#d86a00", "#a3302f")

# Long-run scores simulated with the validator's own code. Source: natixnetwork/streetvision-subnet @ 28a1755
BY_ACCURACY = {
    0.50: 0.025, 0.70: 0.19, 0.80: 0.35, 0.85: 0.487, 0.90: 0.62, 0.93: 0.716,
    0.95: 0.80, 0.96: 0.840, 0.97: 0.879, 0.98: 0.914, 0.99: 0.956, 1.00: 1.0,
}  # fmt: skip
BY_SILENCE = {0.0: 0.917, 0.01: 0.908, 0.02: 0.894, 0.05: 0.865, 0.10: 0.822, 0.20: 0.732}  # at 98 % right

_AT = 150  # which answer of a perfect miner is the mishap


def ramp() -> Figure:
    """From a registration on: the rewards of a streak, and the scores of miners of different accuracy."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = (styled(axes, PALETTE) for axes in figure.subplots(1, 2, width_ratios=(2, 3)))
    labels = np.array([1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0], dtype=np.uint8)
    earned = rewards(labels.astype(np.float64), labels)
    left.bar(np.arange(1, 13), earned, color=[PALETTE.roadwork if label else PALETTE.none for label in labels])
    left.annotate("0.125 until\nboth classes\nwere seen", (0.6, 0.15), fontsize=9, color=PALETTE.ink)
    left.set(xlabel="answers, all right (orange: roadwork)", ylabel="reward", ylim=(0, 1.05), xticks=range(1, 13))
    for accuracy, color in zip((1.0, 0.98, 0.96, 0.90), SHADES, strict=True):
        scores = averaged(rewards(*answers(accuracy, runs=1000, count=200)))
        right.plot(np.arange(201), np.median(scores, axis=0), color=color, linewidth=2, label=f"{accuracy:.0%} right")
    right.set(xlim=(0, 200), ylim=(0, 1.05), xlabel="challenges since registration", ylabel="score (median run)")
    add_legend(right, PALETTE)
    return figure


def accuracy() -> Figure:
    """What accuracy buys in the long run, beside what the validator's code gives and where the network stood."""
    figure, axes = new_axes(PALETTE, width=9.6, height=3.8)
    grid = np.round(np.arange(0.7, 1.0001, 0.01), 2).tolist()
    runs = [network.long_run(value) for value in grid]
    add_network(axes, PALETTE)
    low, high = [run.score.low for run in runs], [run.score.high for run in runs]
    axes.fill_between(grid, low, high, color=PALETTE.accent, alpha=0.18, linewidth=0, label="95 of 100 moments")
    axes.plot(grid, [run.score.mean for run in runs], color=PALETTE.accent, linewidth=2, label="mean of our replay")
    axes.scatter(*points(BY_ACCURACY), s=22, color=PALETTE.ink, zorder=3, label="simulated with the validator's code")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set(xlim=(0.7, 1.0), ylim=(0, 1.05), xlabel="answers right", ylabel="score in the long run")
    add_legend(axes, PALETTE)
    return figure


def silence() -> Figure:
    """What no answers cost."""
    figure, axes = new_axes(PALETTE, width=6.4, height=3.4)
    grid = np.linspace(0, 0.2, 9).tolist()
    for value, color in ((0.98, PALETTE.accent), (0.95, PALETTE.none)):
        scores = [network.long_run(value, no_answer_rate=rate).score.mean for rate in grid]
        axes.plot(grid, scores, color=color, linewidth=2, label=f"{value:.0%} right")
    axes.scatter(*points(BY_SILENCE), s=22, color=PALETTE.ink, zorder=3, label="simulated with the validator's code")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xticks([0, 0.05, 0.1, 0.15, 0.2])
    axes.set(xlim=(0, 0.2), ylim=(0.6, 1.0), xlabel="challenges without an answer", ylabel="score in the long run")
    add_legend(axes, PALETTE)
    return figure


def poison() -> Figure:
    """What one mishap costs a miner that is else always right."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    left, right = (styled(axes, PALETTE) for axes in figure.subplots(1, 2))
    steps = np.arange(_AT - 15, _AT + 126)
    for (name, (earned, score)), color in zip(mishaps().items(), (SHADES[0], SHADES[2], SHADES[3]), strict=True):
        left.plot(steps - _AT, earned[steps], color=color, linewidth=1.8, drawstyle="steps-post", label=name)
        right.plot(steps - _AT, score[steps + 1], color=color, linewidth=1.8, label=name)
    for axes, name in ((left, "reward"), (right, "score")):
        axes.set(xlim=(-15, 125), ylim=(0, 1.05), xlabel="challenges after the mishap", ylabel=name)
    add_legend(left, PALETTE)
    return figure


def pay() -> Figure:
    """What miners of December 2025 were paid, from the lowest score to the highest."""
    figure, axes = new_axes(PALETTE, width=9.6, height=3.0)
    relative = relative_pay()
    share = (np.arange(len(relative)) + 0.5) / len(relative)
    axes.fill_between(share, 0, relative, color=PALETTE.accent, alpha=0.18, linewidth=0)
    axes.plot(share, relative, color=PALETTE.accent, linewidth=2)
    axes.axhline(1, color=PALETTE.roadwork, linewidth=1, linestyle=DASHES)
    axes.annotate(
        "mean", (1, 1), xytext=(6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
        fontsize=9, color=PALETTE.roadwork,
    )  # fmt: skip
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set(
        xlim=(0, 1), ylim=(0, 1.15), xlabel="miners, from the lowest score to the highest", ylabel="pay / mean pay"
    )
    return figure


def transforms() -> Figure:
    """One drawn scene as each regime sends it."""
    picture = render.frames(render.compose(1, 11), 1)[0]
    height, width = picture.shape[:2]
    figure = Figure(figsize=(9.6, 8.0), layout="constrained")
    grid = figure.add_gridspec(3, 4)
    show(figure.add_subplot(grid[0, :2]), picture, f"The picture, {width} x {height}. R3 sends it as it is.")
    cuts = figure.add_subplot(grid[0, 2:])
    show(cuts, picture, "What R1 cuts out of it.")
    for row, regime in ((1, "R1"), (2, "R2")):
        for level, color in enumerate(("#ffffff", "#7fd6ff", "#ffb14d", "#ff7a70")):
            rng = np.random.default_rng((21, level))
            drawn = challenges.draw_transform(rng, height=height, width=width, regime=regime, level=level)
            view = challenges.apply(picture, drawn, regime=regime)
            show(figure.add_subplot(grid[row, level]), view, f"{regime}, level {level}\n{describe(drawn, regime)}")
            if regime == "R1":
                corners = outline(drawn, height, width)
                cuts.plot(*corners.T, color=color, linewidth=2)
                box = {"facecolor": "#1d2733", "edgecolor": "none", "boxstyle": "round,pad=0.2"}
                cuts.annotate(
                    str(level), corners[0], xytext=(6, -6), textcoords="offset points", va="top", color=color, bbox=box
                )
    cuts.set(xlim=(0, width), ylim=(height, 0))
    return figure


def outline(drawn: challenges.Transform, height: int, width: int) -> NDArray[np.float64]:
    """Corners in the picture of what R1 keeps of it, float64[5, 2] of x and y; the first again at the end."""
    side = float(drawn.crop_height or min(height, width))
    top = (height - side) / 2 if drawn.crop_top is None else drawn.crop_top
    left = (width - side) / 2 if drawn.crop_left is None else drawn.crop_left
    centre = np.array([width / 2, height / 2])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * side + (left, top) - centre
    turn = np.deg2rad(drawn.angle_deg or 0.0)
    back = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return square @ back.T + centre


def answers(accuracy: float, *, runs: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Answers of a miner that errs at random, and even labels: float64[runs, count] and uint8[runs, count]."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (runs, count), dtype=np.uint8)
    return np.where(rng.random((runs, count)) < accuracy, labels, 1.0 - labels), labels


def averaged(earned: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores from 0 on, float64[..., N + 1], of float64[..., N] rewards."""
    scores = np.zeros((*earned.shape[:-1], earned.shape[-1] + 1))
    for step in range(earned.shape[-1]):
        scores[..., step + 1] = SCORE_ALPHA * earned[..., step] + (1 - SCORE_ALPHA) * scores[..., step]
    return scores


def mishaps() -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Name -> rewards and scores of a miner that is always right but once."""
    labels = np.random.default_rng(2).integers(0, 2, _AT + 200).astype(np.uint8)
    found: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    labels[_AT] = 1
    for name, mishap in (("a wrong answer", 0.0), ("no answer", NO_ANSWER), ("an answer of 1.7", 1.7)):
        said = labels.astype(np.float64)
        said[_AT] = mishap
        earned = rewards(said, labels)
        found[name] = earned, averaged(earned)
    return found


def relative_pay(miners: int = 251) -> NDArray[np.float64]:
    """Weights of the network's miners by score, in units of their mean, float64[miners]."""
    scores = network.quantile((np.arange(miners) + 0.5) / miners)
    paid = np.array(weights(scores, min_allowed=1, max_limit=1.0)[1], dtype=np.float64)
    return paid / paid.mean()


def points(table: dict[float, float]) -> tuple[list[float], list[float]]:
    """Its keys and its values."""
    return list(table), list(table.values())


def show(axes: Axes, image: NDArray[np.uint8], title: str) -> None:
    """Puts a picture where axes are."""
    axes.imshow(image)
    axes.set_title(title, fontsize=8.5, color=PALETTE.ink, loc="left")
    axes.set_axis_off()


def describe(drawn: challenges.Transform, regime: str) -> str:
    """What was drawn, as two lines."""
    kept = "centre square" if regime == "R1" else "black bars"
    if drawn.angle_deg is not None:
        kept = f"turned by {drawn.angle_deg:+.0f}°" + (", cut" if regime == "R1" else "")
    names = {"cs": "chroma", "cc": "dark", "jpeg": "coarse", "gnc": "noise", "gb": "blur"}
    return f"{kept}\n" + ", ".join(
        f"{word} {getattr(drawn, name)}" for name, word in names.items() if getattr(drawn, name)
    )


def card(figure: Figure) -> str:
    """The figure as an SVG file on a white card, which shows on any page."""
    text = re.sub(r'\s(xmlns:\w+="[^"]*")', r" \1", svg(figure))
    style = (
        '<style>text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif!important}</style>'
    )
    return text.replace(">", f'>{style}<rect width="100%" height="100%" rx="10" fill="#fff"/>', 1)


def jpeg(figure: Figure) -> bytes:
    """The figure as a JPEG file: photos make a large PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    out = io.BytesIO()
    Image.open(buffer).convert("RGB").save(out, format="JPEG", quality=84, optimize=True)
    return out.getvalue()


FIGURES: dict[str, Callable[[], Figure]] = {
    "ramp": ramp,
    "accuracy": accuracy,
    "silence": silence,
    "poison": poison,
    "pay": pay,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (OUT / f"subnet-{name}.svg").write_text(card(draw()))
    (OUT / "subnet-transforms.jpg").write_bytes(jpeg(transforms()))
