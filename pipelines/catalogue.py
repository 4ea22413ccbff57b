"""The pipelines by name, and their compiled form."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from pipelines.retrain import retrain

PIPELINES: dict[str, Any] = {"retrain": retrain}
COMPILED = Path(__file__).parent / "compiled"

_SETTINGS = ("STREETVISION_IMAGE_PREFIX", "STREETVISION_IMAGE_TAG")  # what a compiled pipeline takes from outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A compiled pipeline: its name, its file, and `digest`, the sha256 of what it says whatever its layout."""

    name: str
    path: Path
    digest: str

    @property
    def version(self) -> str:
        """What this content is called wherever it is uploaded."""
        return self.digest[:16]

    @property
    def description(self) -> str:
        """What the pipeline is for."""
        return PIPELINES[self.name].pipeline_spec.pipeline_info.description


def compile_into(folder: Path) -> dict[str, Path]:
    """Every pipeline by name, compiled into `folder` with the images that the environment names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.yaml" for name in PIPELINES}
    for name, path in paths.items():
        compiler.Compiler().compile(PIPELINES[name], str(path))
    return paths


def packages(scratch: Path) -> dict[str, Package]:
    """Every pipeline as it goes to Kubeflow: the committed file, or a fresh one where the environment names images.

    Args:
        scratch: an empty folder for fresh ones.
    """
    if any(os.environ.get(name) for name in _SETTINGS):
        paths = compile_into(scratch)
    else:
        paths = {name: COMPILED / f"{name}.yaml" for name in PIPELINES}
    return {name: Package(name=name, path=path, digest=_digest(path)) for name, path in paths.items()}


def _digest(path: Path) -> str:
    documents = list(yaml.safe_load_all(path.read_text()))
    return hashlib.sha256(json.dumps(documents, sort_keys=True).encode()).hexdigest()
