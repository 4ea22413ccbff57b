"""How figures look: their colours and axes, and what they become, an SVG that follows the page or a PNG."""

import io
from dataclasses import asdict, dataclass, fields

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from streetvision.subnet import network

DASHES = (0, (4, 3))


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
MARKERS = Palette(**{field.name: f"#0a0b{number:02x}" for number, field in enumerate(fields(Palette), 1)})
_VARIABLES = {marker: f"var(--{name})" for name, marker in asdict(MARKERS).items()}


def new_axes(palette: Palette, *, width: float = 6.4, height: float = 3.4) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, styled(figure.add_subplot(), palette)


def styled(axes: Axes, palette: Palette) -> Axes:
    """The axes with a quiet grid and no frame."""
    axes.grid(visible=True, color=palette.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=palette.muted, labelsize=9, length=0)
    axes.xaxis.label.set_color(palette.muted)
    axes.yaxis.label.set_color(palette.muted)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(palette.line)
    return axes


def add_legend(axes: Axes, palette: Palette) -> None:
    """Explains the curves above the axes, where none of them runs."""
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


def add_network(axes: Axes, palette: Palette) -> None:
    """Lines at the scores of the network's median miner and of its 10th percentile."""
    for value, name in ((network.MEDIAN, "median miner"), (network.P10, "10th percentile")):
        axes.axhline(value, color=palette.roadwork, linewidth=1, linestyle=DASHES)
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


def png(figure: Figure) -> bytes:
    """The figure on white, for a tracking server."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """An inline SVG of a figure drawn with `MARKERS`, coloured by the CSS variables `--ink`, `--muted`, `--line` ..."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "streetvision"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for marker, variable in _VARIABLES.items():
        text = text.replace(marker, variable)
    return text[text.index("<svg") :]
