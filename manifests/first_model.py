"""The first model of a cluster: a folder that somebody names, what `make run` promoted, or a small one trained now."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from pipelines import versions
from streetvision.data.build import build
from streetvision.data.manifest import Manifest
from streetvision.data.source import open_source
from streetvision.errors import ModelDirectoryError
from streetvision.inference.model_directory import ModelDirectory
from streetvision.training.train import TrainingSettings, train

SCENES = 120
VIEWS = 2


@dataclass(frozen=True, slots=True)
class FirstModel:
    """A model directory and where it comes from."""

    model: ModelDirectory
    origin: str


def first_model(state: Path, model_dir: Path | None = None) -> FirstModel:
    """The folder that is named, else the champion of `make run`, else a small model trained in about half a minute.

    The small one is our own head on the offline backbone, trained on a few procedural scenes: real enough to try a
    cluster with, and no match for what `make run` trains.

    Args:
        state: folder that `make run` keeps everything in.
        model_dir: a model directory.

    Raises:
        ModelDirectoryError: the folder that is named is none, or was altered.
        StorageError: the disk is full, read-only or failing.
    """
    if model_dir is not None:
        return FirstModel(ModelDirectory.open(model_dir), f"`{model_dir}`")
    champion = _champion(state)
    return champion or _trained(state / "first-model")


def _champion(state: Path) -> FirstModel | None:
    summary = state / "summary.json"
    if not summary.is_file():
        return None
    champion = json.loads(summary.read_text()).get("champion")
    if not champion:
        return None
    try:
        return FirstModel(ModelDirectory.open(state / "models" / champion["sha256"]), "the champion of `make run`")
    except ModelDirectoryError:
        return None  # it was cleaned away


def _trained(folder: Path) -> FirstModel:
    target = folder / "model"
    kept = (target / "config.json").exists()
    if not kept:
        logging.getLogger("streetvision").setLevel(logging.WARNING)
        build(open_source("procedural", scenes=SCENES, seed=0), folder / "data", seed=0)
        train(
            Manifest.read(folder / "data"),
            target,
            TrainingSettings(preset="efficientnet-lite0", views=VIEWS, seed=0),
            cache_dir=folder.parent / "cache",
            code_version=versions.code_version(),
            git_sha=versions.git_sha(),
            progress=False,
        )
    when = "before" if kept else "just now"
    return FirstModel(ModelDirectory.open(target), f"trained {when} on {SCENES} procedural scenes")
