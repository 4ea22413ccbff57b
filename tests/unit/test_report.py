import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streetvision.challenge_set import ChallengeSet
from streetvision.evaluation import Interval, Predictions, Report, evaluate
from streetvision.registry.decision import Check, Decision, Policy
from streetvision.report import pngs, write_report

TRAINING = [
    {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 1.2 / epoch, "validation_accuracy": 1 - 0.4 / epoch}
    for epoch in range(1, 6)
]


@pytest.fixture(scope="module")
def predictions(challenge_set: ChallengeSet) -> Predictions:
    """Answers that are right in 8 of 10 challenges."""
    rng = np.random.default_rng(0)
    label = np.array([row.label for row in challenge_set.rows], dtype=np.uint8)
    said = np.where(rng.random(len(label)) < 0.8, label, 1 - label)
    return Predictions(
        challenge_id=np.array([row.challenge_id for row in challenge_set.rows]),
        label=label,
        probability=np.abs(said - 0.45 * rng.random(len(label))),
        source=np.array([row.source for row in challenge_set.rows]),
        level=np.array([row.level for row in challenge_set.rows], dtype=np.int8),
        group=np.array([row.group for row in challenge_set.rows]),
        latency_ms=rng.uniform(5, 9, len(label)),
    )


@pytest.fixture(scope="module")
def report(predictions: Predictions) -> Report:
    return evaluate(predictions, resamples=100)


class Page(HTMLParser):
    """What a page says and what it refers to; complains of tags that do not match."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += " " + " ".join(data.split())


def decision(verdict: str, *checks: Check) -> Decision:
    return Decision.model_validate(
        {
            "verdict": verdict,
            "reasons": ("too slow <by far>",),
            "checks": checks,
            "n": 160,
            "gain": Interval(mean=0.031, low=0.012, high=0.049),
            "champion_sha256": "a" * 64,
            "policy": Policy(),
        }
    )


@pytest.fixture(scope="module")
def full_page(
    tmp_path_factory: pytest.TempPathFactory, report: Report, predictions: Predictions, challenge_set: ChallengeSet
) -> str:
    """The page with all that it can show."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path,
        report,
        predictions,
        challenge_set,
        title="roadwork <1>",
        decision=decision("keep", Check(name="latency", status="failed", challenger=2500.0, sentence="p99 is 2.5 s")),
        training=TRAINING,
        data_summary=[{"split": "train", "source": "real", "roadwork": 1234, "no roadwork": 5}],
    )
    return path.read_text()


def test_the_page_shows_every_figure_of_the_report(full_page: str, report: Report, challenge_set: ChallengeSet):
    page = Page(full_page)
    for words in (
        "roadwork <1>",
        f"{report.reward.mean:.3f}",
        f"{report.reward.low:.3f} to {report.reward.high:.3f}",
        "After 500 challenges",
        f"95 of 100 runs: {report.forecast.score.low:.3f} to {report.forecast.score.high:.3f}",
        f"95 of 100 runs: {report.forecast.new_pictures.mean_reward.low:.3f} to",
        f"{100 * report.accuracy:.1f} %",
        f"{report.mcc:.3f}",
        f"{report.brier:.3f}",
        "Keep the champion",
        "too slow <by far>",
        "p99 is 2.5 s",
        "+0.031",
        "Training, 5 epochs",
        "1,234",
        f"said {report.mistakes[0].probability:.2f}",
        challenge_set.version[:12],
        "text to image",
    ):
        assert words in page.words, words


def test_the_page_is_small_and_needs_no_network(full_page: str, report: Report):
    assert len(full_page.encode()) < 4_000_000
    references = Page(full_page).references
    assert len([one for one in references if one.startswith("data:image/jpeg;base64,")]) == len(report.mistakes)
    assert all(one.startswith(("data:", "#")) for one in references)
    assert not re.search(r"@import|url\((?!#)|<script|<link", full_page)


def test_figures_take_their_colours_from_the_page(full_page: str):
    assert "#0a0b0" not in full_page
    for name in ("ink", "muted", "line", "accent", "roadwork", "none"):
        assert full_page.count(f"var(--{name})") >= 1
        assert full_page.count(f"--{name}: #") == 2  # light and dark


def test_a_model_without_gate_training_latency_and_mistakes_still_has_a_page(
    tmp_path: Path, predictions: Predictions, challenge_set: ChallengeSet
):
    perfect = Predictions(
        challenge_id=predictions.challenge_id,
        label=predictions.label,
        probability=predictions.label.astype(np.float64),
        source=predictions.source,
        level=predictions.level,
    )
    write_report(tmp_path / "r.html", evaluate(perfect, resamples=100), perfect, challenge_set, title="perfect")
    words = Page((tmp_path / "r.html").read_text()).words
    assert "1.000" in words
    for absent in ("What the gate asked", "How fast", "What it learned", "mistakes"):
        assert absent not in words


@pytest.mark.parametrize(
    ("verdict", "headline"), [("promote", "Promote"), ("not enough evidence", "Not enough evidence")]
)
def test_the_verdict_heads_the_page(
    tmp_path: Path, report: Report, predictions: Predictions, challenge_set: ChallengeSet, verdict: str, headline: str
):
    write_report(tmp_path / "r.html", report, predictions, challenge_set, title="m", decision=decision(verdict))
    words = Page((tmp_path / "r.html").read_text()).words
    assert headline in words
    assert words.index(headline) < words.index("Subnet reward")


def test_plots_for_a_tracking_server_are_pictures(report: Report, predictions: Predictions):
    plots = pngs(report, predictions, training=TRAINING)
    assert set(plots) == {"score", "reliability", "histogram", "training", "strata"}
    for data in plots.values():
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "PNG"
            assert len(np.unique(np.asarray(image.convert("L")))) > 20  # something is drawn
    assert "training" not in pngs(report, predictions)
