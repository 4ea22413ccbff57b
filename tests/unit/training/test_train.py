import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from streetvision.data.manifest import Manifest
from streetvision.errors import DataError, SettingsError
from streetvision.inference.classifier import Classifier
from streetvision.inference.model_directory import ModelDirectory
from streetvision.models.heads import Head
from streetvision.training import train as module
from streetvision.training.fit import Epoch
from streetvision.training.train import TrainingResult, TrainingSettings, train

PRESET = "dinov3-convnext-small"


@pytest.fixture(scope="module")
def settings(tiny_weights: Path) -> TrainingSettings:
    return TrainingSettings(preset=PRESET, weights=str(tiny_weights), epochs=12, batch_size=16)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(manifest: Manifest, out_dir: Path, settings: TrainingSettings, cache_dir: Path) -> TrainingResult:
    return train(manifest, out_dir, settings, cache_dir=cache_dir, code_version="c0de", git_sha="abc", workers=2)


@pytest.fixture(scope="module")
def result(
    manifest: Manifest, settings: TrainingSettings, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    return run(manifest, tmp_path_factory.mktemp("models") / "model", settings, cache_dir)


def test_a_run_ends_in_a_model_directory_that_serves(result: TrainingResult, manifest: Manifest) -> None:
    directory = ModelDirectory.open(result.model_dir)
    assert directory.sha256 == result.model_sha256
    assert set(directory.config.files) == {"model.onnx", "model.safetensors", "training.json"}
    assert directory.config.data_version == manifest.version
    assert (directory.config.code_version, directory.config.git_sha) == ("c0de", "abc")
    pictures = manifest.select(split="validation")
    answers = Classifier.open(result.model_dir).predict([manifest.read_bytes(picture) for picture in pictures])
    right = (np.asarray(answers.probability) > 0.5) == np.array([picture.label for picture in pictures])
    assert right.mean() > 0.8  # orange or blue


def test_the_record_tells_how_the_model_came_about(result: TrainingResult, settings: TrainingSettings) -> None:
    record = json.loads((result.model_dir / "training.json").read_text())
    assert record["settings"] == settings.model_dump()
    assert len(record["history"]) == len(result.history)
    assert record["calibration"]["temperature"] == result.calibration.temperature
    assert record["data"]["views"] == {"train": 48, "validation": 32}
    assert sum(row["pictures"] for row in record["data"]["pictures"]) == 20


def test_the_head_is_kept_as_safetensors(result: TrainingResult) -> None:
    Head(16).load_state_dict(safetensors.torch.load_file(result.model_dir / "model.safetensors"))


def test_a_second_run_computes_no_view_and_makes_the_very_same_model(
    result: TrainingResult, manifest: Manifest, settings: TrainingSettings, cache_dir: Path, tmp_path: Path
) -> None:
    again = run(manifest, tmp_path / "again", settings, cache_dir)
    assert (again.views_computed, again.views_reused) == (0, 80)
    assert again.model_sha256 == result.model_sha256


def test_a_killed_run_leaves_no_model_and_goes_on_to_the_very_same_one(
    result: TrainingResult,
    manifest: Manifest,
    settings: TrainingSettings,
    cache_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epochs: list[int] = []

    def kill(epoch: Epoch) -> None:
        epochs.append(epoch.epoch)
        if epoch.epoch == 7 and len(epochs) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_log_epoch", kill)
    with pytest.raises(KeyboardInterrupt):
        run(manifest, tmp_path / "model", settings, cache_dir)
    assert list(tmp_path.iterdir()) == []
    assert run(manifest, tmp_path / "model", settings, cache_dir).model_sha256 == result.model_sha256
    assert epochs[7] == 6  # gone on after the checkpoint at 5
    assert not list((cache_dir / "checkpoints").iterdir())


@pytest.mark.parametrize(("labels", "missing"), [((0,), 1), ((1,), 0)])
def test_one_class_only_is_refused(
    make_manifest, settings: TrainingSettings, tmp_path: Path, labels: tuple[int, ...], missing: int
) -> None:
    with pytest.raises(DataError, match=f"split `train` has no picture with label {missing} "):
        run(make_manifest(train=2, validation=2, labels=labels), tmp_path / "model", settings, tmp_path / "cache")


def test_an_empty_validation_split_is_refused(make_manifest, settings: TrainingSettings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split `validation` has no picture"):
        run(make_manifest(train=2, validation=0), tmp_path / "model", settings, tmp_path / "cache")


def test_a_halted_regime_is_refused(manifest: Manifest, settings: TrainingSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="R4"):
        run(manifest, tmp_path / "model", settings.model_copy(update={"regime": "R4"}), tmp_path / "cache")
