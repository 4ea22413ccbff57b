"""The evaluation as one HTML page that needs nothing else, and its figures."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from streetvision import atomic
from streetvision.challenge_set import ChallengeSet
from streetvision.evaluation import Mistake, Report
from streetvision.evidence import Predictions
from streetvision.registry.decision import Decision
from streetvision.report import plots
from streetvision.report.page import render
from streetvision.report.plots import pngs
from streetvision.subnet import network

__all__ = ["pngs", "write_report"]

_THUMBNAIL_QUALITY = 80


def write_report(
    path: Path,
    report: Report,
    predictions: Predictions,
    challenge_set: ChallengeSet,
    *,
    title: str,
    decision: Decision | None = None,
    training: Sequence[Mapping[str, float]] | None = None,
    data_summary: Sequence[Mapping[str, str | int]] | None = None,
    colour_baseline: float | None = None,
) -> None:
    """Leaves one HTML page at `path`, under 4 MB, that loads nothing from anywhere.

    Args:
        path: of the page.
        report: what `evaluate` made of `predictions`.
        predictions: answers to `challenge_set`.
        challenge_set: the pictures of the mistakes come from it.
        title: headline, such as the model's name and version.
        decision: the gate's, if it was asked.
        training: one row an epoch with `epoch`, `train_loss`, `validation_loss`, `validation_accuracy`.
        data_summary: rows of a table of the data; the keys of the first are its header.
        colour_baseline: accuracy that colour histograms alone reach on the real training pictures.

    Raises:
        DataError: a picture of a mistake is not in the challenge set.
        StorageError: the disk is full, read-only or failing; nothing is half-written.
    """
    page = render(
        "page.html.jinja",
        title=title,
        report=report,
        run=report.forecast,
        network=_NETWORK,
        challenge_set=challenge_set,
        decision=decision,
        data_summary=data_summary,
        colour_baseline=colour_baseline,
        history=training,
        figures={
            name: Markup(svg)  # noqa: S704 - drawn by us, from numbers
            for name, svg in plots.svgs(report, predictions, training=training).items()
        },
        strata={(one.source, one.level): one for one in report.strata},
        mistakes=[(mistake, _thumbnail(challenge_set, mistake)) for mistake in report.mistakes],
        source_names=_SOURCE_NAMES,
    )
    atomic.write_text(path, page)


_NETWORK = {
    "p10": network.P10,
    "median": network.MEDIAN,
    "mean": network.MEAN,
    "p90": network.P90,
}
_SOURCE_NAMES = {"real": "real", "t2i": "text to image", "i2i": "image to image"}


def _thumbnail(challenge_set: ChallengeSet, mistake: Mistake) -> str:
    data = challenge_set.read_bytes(challenge_set.by_id(mistake.challenge_id))
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((224, 224))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_THUMBNAIL_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
