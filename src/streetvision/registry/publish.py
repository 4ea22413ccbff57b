"""The step after the verdict: every model is registered; a promoted one becomes champion and goes to the hub."""

import importlib
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from streetvision import atomic
from streetvision.assessment import training_record
from streetvision.errors import DataError, RegistryError, RolloutError, SettingsError
from streetvision.evaluation import Report, evaluate
from streetvision.inference.model_directory import ModelDirectory
from streetvision.predictions import read_predictions
from streetvision.registry.decision import Decision
from streetvision.registry.hub import FolderHub, Hub
from streetvision.registry.huggingface import HuggingFaceHub
from streetvision.registry.mlflow import DatasetUse, RegisteredVersion, Registry
from streetvision.registry.modelcard import ModelCard, push_files
from streetvision.report import pngs

HUB_REVISION = "hub_revision"  # tag of a version: the commit that it was pushed as
REPOSITORY = "streetvision/roadwork"  # of a folder hub, whose folder names the place

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A registered model and where its directory lies; `path` is empty where that is no folder of this machine."""

    version: int
    sha256: str
    source: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What became of the challenger, and which model is champion now."""

    verdict: str
    reasons: tuple[str, ...]
    challenger: Served
    champion: Served | None
    revision: str
    url: str
    rollout: str = ""

    def write(self, path: Path) -> None:
        """Leaves the receipt as JSON.

        Raises:
            StorageError: the disk is full, read-only or failing.
        """
        atomic.write_json(path, asdict(self))


def publish(
    model_dir: Path,
    *,
    report: Path,
    predictions: Path,
    decision: Path,
    tracking_uri: str,
    models_uri: str,
    hub: str,
    submitted_by: str,
    rollout: str = "",
) -> Published:
    """Registers the challenger with everything known about it and, on `promote`, moves the aliases, serves and pushes.

    Args:
        model_dir: the challenger.
        report: its HTML report.
        predictions: its prediction table.
        decision: the gate's, as JSON.
        tracking_uri: MLflow's.
        models_uri: where registered models lie, a folder or `s3://BUCKET/PREFIX`.
        hub: `folder:PATH` or `hf:OWNER/NAME`; empty pushes nowhere.
        submitted_by: ss58 address of the miner's hotkey.
        rollout: `NAMESPACE/CRONJOB` whose Job takes the champion to the served predictor; empty leaves that to others.

    Raises:
        RolloutError: the predictor did not come to serve it; the champion before is champion again.
        ClusterError: the cluster is out of reach or refuses.
        RegistryError: MLflow refused, or the champion changed since the decision.
        HubError: the hub refused, or what was read back differs.
        SettingsError: the hub or the hotkey cannot be used.
    """
    job = _rollout_job(rollout) if rollout else None
    verdict = _read_decision(decision)
    table = read_predictions(predictions)
    figures = evaluate(table, seed=verdict.policy.seed)
    model = ModelDirectory.open(model_dir)
    if verdict.challenger_sha256 != model.sha256:
        raise DataError(
            f"the decision is about model {(verdict.challenger_sha256 or 'none')[:12]}, expected {model.version}",
            hint="run `evaluate` again",
        )
    record = training_record(model_dir) or {}
    registry = Registry.open(tracking_uri, models_uri, lock_namespace=job.namespace if job else None)
    champion = registry.champion()
    registered = registry.register(
        model_dir,
        decision=verdict,
        params={"preset": model.config.preset, **record.get("settings", {})},
        metrics=_metrics(figures),
        epochs=record.get("history", []),
        artifacts={
            "report.html": report,
            "predictions.parquet": predictions,
            "report.json": figures.model_dump_json(indent=2).encode(),
            **{f"plots/{name}.png": png for name, png in pngs(figures, table, training=record.get("history")).items()},
        },
        datasets=[
            DatasetUse(
                name="manifest",
                version=model.config.data_version,
                source=f"manifest:{model.config.data_version}",
                context="training",
            ),
            DatasetUse(
                name="challenge set",
                version=str(table.challenge_id[0]).partition("/")[0],
                source="challenge set",
                context="evaluation",
            ),
        ],
    )
    if verdict.verdict == "promote" and (champion is None or champion.sha256 != model.sha256):
        if (champion.sha256 if champion else None) != verdict.champion_sha256:
            raise RegistryError(
                f"champion is {champion.sha256[:12] if champion else 'none'}, "
                f"expected {(verdict.champion_sha256 or 'none')[:12]}, which the challenger was compared with",
                hint="evaluate it against the champion of today",
            )
        registry.promote(registered.version, expected_champion=champion.version if champion else None)
    champion = registry.champion()
    rolled_out = ""
    if job and champion and champion.sha256 == model.sha256:
        rolled_out = _roll_out(job, registry)
    revision = url = ""
    # a champion whose push failed or was cut off is pushed by the next run
    if hub and champion and champion.sha256 == model.sha256 and HUB_REVISION not in champion.tags:
        revision, url = _push(open_hub(hub), model_dir, champion, figures, verdict, submitted_by)
        registry.tag(champion.version, HUB_REVISION, revision)
    return Published(
        verdict=verdict.verdict,
        reasons=verdict.reasons,
        challenger=_served(registered),
        champion=_served(champion) if champion else None,
        revision=revision,
        url=url,
        rollout=rolled_out,
    )


def open_hub(name: str) -> Hub:
    """The hub called `folder:PATH` or `hf:OWNER/NAME`.

    Raises:
        SettingsError: the name has neither form.
    """
    kind, _, place = name.partition(":")
    if kind == "folder" and place:
        return FolderHub(Path(place), REPOSITORY)
    if kind == "hf" and place.count("/") == 1:
        return HuggingFaceHub(place)
    raise SettingsError(f"hub is `{name}`, expected `folder:PATH` or `hf:OWNER/NAME`")


def _push(
    hub: Hub, model_dir: Path, registered: RegisteredVersion, figures: Report, decision: Decision, submitted_by: str
) -> tuple[str, str]:
    card = ModelCard.make(
        model_name="roadwork",
        description=f"P(roadwork) of a street-level photo; mean reward {figures.reward.mean:.3f} on frozen challenges",
        version=f"1.{registered.version}.0",
        submitted_by=submitted_by,
        submission_time=int(time.time()),
    )
    pictures = (training_record(model_dir) or {}).get("data", {}).get("pictures", [])
    counts = {f"{row['split']}, {row['source']}, label {row['label']}": row["pictures"] for row in pictures}
    files = push_files(model_dir, card, figures, decision=decision, data_summary=counts)
    commit = hub.push(files, message=f"roadwork version {registered.version}", parent=hub.head())
    return commit.revision, commit.url


def _rollout_job(name: str) -> Any:
    try:
        jobs: Any = importlib.import_module("streetvision.operations.rollout_job")  # loads the Kubernetes client
    except ImportError as err:
        raise SettingsError(
            f"the rollout `{name}` is a Job of a cluster, which needs the package `{err.name}`",
            hint="install `kubernetes`, or name no rollout",
        ) from err
    return jobs.RolloutJob.parse(name)


def _roll_out(job: Any, registry: Registry) -> str:
    """What the Job said; it does nothing where the champion is served already."""
    try:
        return job.run()
    except RolloutError as err:
        champion = registry.champion()
        left = f"version {champion.version} is champion" if champion else "there is no champion"
        raise RolloutError(f"{err.message}; {left}", hint=err.hint) from err


def _served(version: RegisteredVersion) -> Served:
    parts = urlsplit(version.source)
    path = unquote(parts.path) if parts.scheme == "file" else ""
    return Served(version=version.version, sha256=version.sha256, source=version.source, path=path)


def _metrics(report: Report) -> dict[str, float]:
    strata = {f"accuracy/{one.source}/level{one.level}": one.accuracy.mean for one in report.strata}
    return report.headline | strata


def _read_decision(path: Path) -> Decision:
    try:
        return Decision.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as err:
        raise DataError(f"`{path}` is no decision of the gate: {err}", hint="run `evaluate` again") from err
