"""The step between training and the registry: challenger and champion on one frozen challenge set, and the verdict."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from streetvision import atomic
from streetvision.challenge_set import ChallengeSet, freeze
from streetvision.data.baseline import colour_baseline
from streetvision.data.manifest import Manifest
from streetvision.data.summary import rows as data_rows
from streetvision.errors import EvidenceError, SettingsError
from streetvision.evaluation import RUN, Report, evaluate
from streetvision.evidence import Predictions
from streetvision.inference.classifier import Classifier
from streetvision.inference.model_directory import ModelDirectory
from streetvision.leakage import refuse_leakage
from streetvision.predictions import answer, read_predictions, write_predictions
from streetvision.registry.decision import Decision, Policy
from streetvision.registry.gate import decide
from streetvision.registry.mlflow import Registry
from streetvision.registry.modelcard import check_consistency
from streetvision.report import write_report
from streetvision.training.views import version_of_views

RETIRED_AFTER_VERDICTS = 20  # each verdict on one set tells the next training run a little about it
RETIRED_AFTER = timedelta(days=60)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the challenger earns, and whether it takes the champion's place."""

    model: ModelDirectory
    manifest: Manifest
    challenge_set: ChallengeSet
    predictions: Predictions
    report: Report
    decision: Decision

    @property
    def metrics(self) -> dict[str, float]:
        """The headline figures, for a pipeline's UI."""
        gain = self.decision.gain
        return self.report.headline | (
            {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high} if gain else {}
        )

    def write(self, *, report: Path, predictions: Path, decision: Path) -> None:
        """Leaves the HTML report, the prediction table and the decision at these paths.

        Raises:
            StorageError: the disk is full, read-only or failing.
        """
        record = training_record(self.model.path)
        write_report(
            report,
            self.report,
            self.predictions,
            self.challenge_set,
            title=f"roadwork {self.model.version} ({self.model.config.preset})",
            decision=self.decision,
            training=record["history"] if record else None,
            data_summary=data_rows(self.manifest),
            colour_baseline=colour_baseline(self.manifest, self.manifest.select(source="real", split="train")),
        )
        write_predictions(predictions, self.predictions)
        atomic.write_text(decision, self.decision.model_dump_json(indent=2) + "\n")


def assess(
    model_dir: Path,
    manifest_root: Path,
    *,
    workspace: Path,
    tracking_uri: str,
    models_uri: str,
    regime: str,
    count: int,
    seed: int,
    code_version: str,
    policy: Policy | None = None,
) -> Assessment:
    """The challenger's evaluation and the gate's decision, on the frozen set that champion and challenger share.

    Args:
        model_dir: the challenger.
        manifest_root: the data; its split `challenge` is what the set is drawn from.
        workspace: folder that outlives a run, for frozen sets and what was answered to them.
        tracking_uri: MLflow's, where the champion is registered.
        models_uri: where registered models lie, a folder or `s3://BUCKET/PREFIX`.
        regime: rules the challenges follow.
        count: challenges in the set.
        seed: of the set and of the bootstrap.
        code_version: answers given by other code are not used again.
        policy: what the challenger has to show.

    Raises:
        DataError: the set cannot be drawn, or shares pictures, groups or looks with what is trained on.
        ModelDirectoryError: a file of a model is missing or altered.
        RegistryError: MLflow is out of reach or holds something unusable.
        EngineError: a model failed or answered nonsense.
    """
    manifest = Manifest.read(manifest_root)
    model = ModelDirectory.open(model_dir)
    registry = Registry.open(tracking_uri, models_uri, cache=workspace / "models")
    champion = registry.champion()
    challenge_set = frozen_set(manifest, workspace / "challenges", count=count, seed=seed, regime=regime)
    refuse_leakage(challenge_set, manifest)
    challenger_answers = answers(workspace, challenge_set, model_dir, code_version=code_version)
    if champion is None or champion.sha256 == model.sha256:
        champion_answers = None if champion is None else challenger_answers
    else:
        champion_answers = answers(workspace, challenge_set, registry.fetch(champion), code_version=code_version)
    decision = decide(
        champion_answers,
        challenger_answers,
        policy or Policy(seed=seed),
        champion_sha256=champion.sha256 if champion else None,
        challenger_sha256=model.sha256,
        consistency=check_consistency(model_dir),
    )
    _count_verdict(challenge_set.root, decision)
    report = evaluate(challenger_answers, seed=seed)
    return Assessment(
        model=model,
        manifest=manifest,
        challenge_set=challenge_set,
        predictions=challenger_answers,
        report=report,
        decision=decision,
    )


def evaluate_model(
    model_dir: Path, challenge_set: ChallengeSet, *, seed: int = 0, run: int = RUN
) -> tuple[Predictions, Report]:
    """A model's answers to a challenge set, through the code that serves it, and what they earn.

    Args:
        model_dir: the model.
        challenge_set: the questions.
        seed: of the replays.
        run: challenges of the run that is forecast.

    Raises:
        SettingsError: a run of no challenges.
        ModelDirectoryError: a file of the model is missing or altered.
        EngineError: the model failed or answered nonsense.
    """
    if run < 1:
        raise SettingsError(f"a run of {run} challenges was asked for, expected at least one")
    predictions = answer(challenge_set, Classifier.open(model_dir))
    return predictions, evaluate(predictions, seed=seed, run=run)


def frozen_set(manifest: Manifest, folder: Path, *, count: int, seed: int, regime: str) -> ChallengeSet:
    """The set in use for this data: the one that is there, or the next one once it is retired.

    Raises:
        DataError: the set cannot be drawn, or what is there was altered.
    """
    pictures = [(one.sha256, one.label, one.source, one.group) for one in manifest.select(split="challenge")]
    key = hashlib.sha256(json.dumps([pictures, count, seed, regime, version_of_views()]).encode()).hexdigest()[:16]
    generation = 0
    while _retired(folder / f"{key}-{generation}"):
        generation += 1
    root = folder / f"{key}-{generation}"
    if root.exists():
        return ChallengeSet.read(root)
    return freeze(manifest, root, count=count, seed=seed + 1_000_003 * generation, regime=regime)


def answers(workspace: Path, challenge_set: ChallengeSet, model_dir: Path, *, code_version: str) -> Predictions:
    """A model's answers to a set; given once, then read from the workspace.

    Raises:
        ModelDirectoryError: a file of the model is missing or altered.
        EngineError: the model failed or answered nonsense.
    """
    sha256 = ModelDirectory.open(model_dir).sha256
    path = _answers(workspace, challenge_set) / code_version[-16:] / f"{sha256}.parquet"
    if path.exists():
        _log.info("answers of model %s to challenge set %s are there", path.stem[:12], challenge_set.version[:12])
        return read_predictions(path)
    predictions = answer(challenge_set, Classifier.open(model_dir))
    write_predictions(path, predictions)
    return predictions


def newest_answers(workspace: Path, challenge_set: ChallengeSet, sha256: str) -> Predictions:
    """The answers that a model, by its sha256, gave to a set last.

    Raises:
        EvidenceError: it gave none.
    """
    found = sorted(
        _answers(workspace, challenge_set).glob(f"*/{sha256}.parquet"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        raise EvidenceError(f"model {sha256[:12]} never answered challenge set {challenge_set.version[:12]}")
    return read_predictions(found[-1])


def training_record(model_dir: Path) -> Mapping[str, Any] | None:
    """`training.json` of a model directory, where it has one."""
    try:
        return json.loads((model_dir / "training.json").read_text())
    except (OSError, ValueError):
        return None


def _answers(workspace: Path, challenge_set: ChallengeSet) -> Path:
    return workspace / "answers" / challenge_set.version[:16]


def _verdicts(root: Path) -> Path:
    return root.with_name(f"{root.name}.verdicts.jsonl")


def _retired(root: Path) -> bool:
    try:
        lines = _verdicts(root).read_text().splitlines()
    except FileNotFoundError:
        return False
    first = datetime.fromisoformat(json.loads(lines[0])["at"]) if lines else datetime.now(UTC)
    return len(lines) >= RETIRED_AFTER_VERDICTS or datetime.now(UTC) - first > RETIRED_AFTER


def _count_verdict(root: Path, decision: Decision) -> None:
    """One line a verdict; the same challenger against the same champion tells nothing new, and is not counted again."""
    line = {
        "challenger": decision.challenger_sha256,
        "champion": decision.champion_sha256,
        "verdict": decision.verdict,
    }
    path = _verdicts(root)
    before = path.read_text().splitlines() if path.exists() else []
    if not any(line.items() <= json.loads(text).items() for text in before):
        entry = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **line})
        atomic.write_text(path, "\n".join([*before, entry]) + "\n")
