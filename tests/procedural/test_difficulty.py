"""The drawn scenes are neither a toy nor a riddle: colour alone is not enough, the default model is."""

import logging
from pathlib import Path

import numpy as np
import pytest

from streetvision.data.baseline import colour_baseline
from streetvision.data.build import build
from streetvision.data.manifest import Manifest
from streetvision.data.procedural import ProceduralSource
from streetvision.inference.classifier import Classifier
from streetvision.subnet import challenges
from streetvision.training.train import TrainingSettings, train

SCENES = 900
SHARES = (0.62, 0.13, 0.25)
_log = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # draws 900 scenes and trains on them, for each seed


@pytest.fixture(scope="module", params=[11, 12, 13])
def manifest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One picture of every scene: what is tested on was not trained on, nor any other frame of it."""
    root = tmp_path_factory.mktemp(f"seed-{request.param}") / "data"
    build(ProceduralSource(SCENES, seed=request.param, frames=(1, 1)), root, seed=0, shares=SHARES)
    return Manifest.read(root)


@pytest.mark.parametrize("hsv", [False, True], ids=["rgb", "hsv"])
def test_colour_histograms_are_not_enough(manifest: Manifest, hsv: bool) -> None:
    accuracy = colour_baseline(manifest, hsv=hsv)
    _log.warning("colour histograms (%s): accuracy %.3f", "hsv" if hsv else "rgb", accuracy)
    assert 0.55 <= accuracy <= 0.80


def test_the_default_model_learns_the_task(manifest: Manifest, tmp_path: Path) -> None:
    train(
        manifest,
        tmp_path / "model",
        TrainingSettings(),
        cache_dir=tmp_path / "cache",
        code_version="test",
        git_sha="test",
        progress=False,
    )
    classifier = Classifier.open(tmp_path / "model")
    pictures = manifest.select(split="challenge")
    labels = np.array([picture.label for picture in pictures])
    accuracies: list[float] = []
    for level in range(4):
        views = [
            challenges.view(manifest.read_bytes(picture), seed=1000 + index, level=level)
            for index, picture in enumerate(pictures)
        ]
        answers = np.concatenate([classifier.predict(views[i : i + 32]).probability for i in range(0, len(views), 32)])
        accuracies.append(float(((answers > 0.5) == (labels == 1)).mean()))
    _log.warning("accuracy at levels 0 to 3: %s", ", ".join(f"{accuracy:.3f}" for accuracy in accuracies))
    assert accuracies[0] >= 0.90
    assert np.mean(accuracies) >= 0.85
    assert np.mean(accuracies) <= 0.99
