"""One training run: manifest in, model directory out."""

import hashlib
import logging
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import safetensors.torch
import torch
from numpy.typing import NDArray

from streetvision import atomic
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import DataError
from streetvision.inference.model_directory import write_config
from streetvision.models.backbones import Backbone, load_backbone
from streetvision.models.heads import Head
from streetvision.subnet import regimes
from streetvision.training.balance import view_weights
from streetvision.training.calibrate import Calibration, calibrate
from streetvision.training.encode import backbone_onnx
from streetvision.training.export import export_model
from streetvision.training.features import ViewFeatures, extract
from streetvision.training.fit import Epoch, Samples, fit
from streetvision.training.settings import TrainingSettings
from streetvision.training.views import render, views_of

__all__ = ["TrainingResult", "TrainingSettings", "train"]

_log = logging.getLogger(__name__)

HEAD = "model.safetensors"
RECORD = "training.json"
_FIXTURES = 2  # pictures whose views the exported model is compared with torch on


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What came of a training run.

    Attributes:
        model_dir: the model directory.
        model_sha256: identity of the model.
        history: every epoch.
        best_epoch: the one whose head was kept.
        calibration: temperature and threshold, with log-loss and accuracy on the validation views.
        views_computed: views whose features were not in the cache.
        views_reused: views whose features were.
    """

    model_dir: Path
    model_sha256: str
    history: tuple[Epoch, ...]
    best_epoch: int
    calibration: Calibration
    views_computed: int
    views_reused: int

    @property
    def metrics(self) -> dict[str, float]:
        """The headline figures, for a pipeline's UI."""
        best = next(epoch for epoch in self.history if epoch.epoch == self.best_epoch)
        return {
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "validation_loss": best.validation_loss,
            "validation_accuracy": best.validation_accuracy,
            "temperature": self.calibration.temperature,
            "threshold": self.calibration.threshold.value,
            "log_loss": self.calibration.log_loss,
            "views_computed": self.views_computed,
            "views_reused": self.views_reused,
        }


def train(
    manifest: Manifest,
    out_dir: Path,
    settings: TrainingSettings,
    *,
    cache_dir: Path,
    code_version: str,
    git_sha: str,
    workers: int | None = None,
    progress: bool = True,
) -> TrainingResult:
    """The finished run, after its model directory appeared at `out_dir` as a whole.

    A run that was killed goes on where it was: features from the cache, the head from its checkpoint.

    Args:
        manifest: pictures of the splits `train` and `validation`, with both labels in each.
        out_dir: the model directory; what stood there is replaced.
        settings: what is trained.
        cache_dir: folder for backbones, features and checkpoints, shared by all runs.
        code_version: hash of the library, for `config.json`.
        git_sha: commit of the library, or empty.
        workers: cores to keep busy; all by default.
        progress: show how far it is.

    Raises:
        DataError: a split lacks a label, or a picture cannot be used.
        WeightsError: the backbone's weights cannot be used.
        SettingsError: the regime is unknown or halted.
        StorageError: the disk is full, read-only or failing.
        EngineError: the exported model differs from torch.
    """
    regimes.active(settings.regime)
    train_pictures = _with_both_labels(manifest, "train")
    validation_pictures = _with_both_labels(manifest, "validation")
    pictures = train_pictures + validation_pictures
    backbone = load_backbone(
        settings.preset,
        cache_dir=cache_dir,
        weights=settings.weights,
        revision=settings.revision,
        token_env=settings.token_env,
    )
    views = extract(
        manifest,
        pictures,
        backbone,
        views=settings.views,
        regime=settings.regime,
        cache_dir=cache_dir,
        workers=workers,
        progress=progress,
    )
    is_train = views.picture < len(train_pictures)
    training = _samples(pictures, views, is_train, settings.regime)
    validation = _samples(pictures, views, ~is_train, settings.regime)
    checkpoint = cache_dir / "checkpoints" / f"{_run_id(manifest, backbone, settings, code_version)}.safetensors"
    fitted = fit(
        training,
        validation,
        settings,
        checkpoint=checkpoint,
        device="cuda" if torch.cuda.is_available() else "cpu",
        on_epoch=_log_epoch if progress else None,
    )
    calibration = calibrate(
        _logits(fitted.head, validation.features),
        validation.label,
        validation.weight.astype(np.float64),
        np.array([pictures[index].group for index in views.picture[~is_train]]),
        seed=settings.seed,
    )
    with atomic.directory(out_dir, replaces=RECORD) as folder:
        difference = export_model(
            backbone,
            fitted.head,
            calibration.temperature,
            calibration.threshold.value,
            folder,
            backbone_path=backbone_onnx(backbone, cache_dir),
            fixtures=_fixtures(manifest, validation_pictures, settings, backbone.preset.size_px),
        )
        atomic.write_bytes(folder / HEAD, safetensors.torch.save(fitted.head.state_dict()))
        record = {
            "schema_version": 1,
            "settings": settings.model_dump(),
            "backbone": {
                "preset": backbone.preset.name,
                "licence": backbone.preset.licence,
                "weights_sha256": backbone.weights_sha256,
                "width": backbone.width,
                "input_size_px": backbone.preset.size_px,
            },
            "data": {
                "version": manifest.version,
                "pictures": _count(pictures),
                "views": {"train": len(training.label), "validation": len(validation.label)},
            },
            "history": [asdict(epoch) for epoch in fitted.history],
            "best_epoch": fitted.best_epoch,
            "calibration": asdict(calibration),
            "max_difference_to_torch": difference,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "onnxruntime": onnxruntime.__version__,
                "numpy": np.__version__,
            },
        }
        atomic.write_json(folder / RECORD, record)
        written = write_config(
            folder,
            preset=settings.preset,
            input_size_px=backbone.preset.size_px,
            threshold=calibration.threshold.value,
            temperature=calibration.temperature,
            data_version=manifest.version,
            code_version=code_version,
            git_sha=git_sha,
        )
    checkpoint.unlink(missing_ok=True)
    return TrainingResult(
        model_dir=out_dir,
        model_sha256=written.sha256,
        history=fitted.history,
        best_epoch=fitted.best_epoch,
        calibration=calibration,
        views_computed=views.computed,
        views_reused=len(views.values) - views.computed,
    )


def _with_both_labels(manifest: Manifest, split: str) -> tuple[Picture, ...]:
    for label, meaning in ((1, "roadwork"), (0, "no roadwork")):
        if not manifest.select(split=split, label=label):
            raise DataError(
                f"split `{split}` has no picture with label {label} ({meaning}), expected both labels in it: "
                f"`{manifest.root}`",
                hint="add pictures of that label, in more groups than there are splits, and build the data again",
            )
    return manifest.select(split=split)


def _samples(pictures: Sequence[Picture], views: ViewFeatures, rows: NDArray[np.bool_], regime: str) -> Samples:
    """The views of one split, weighted among themselves."""
    of_view = [pictures[index] for index in views.picture[rows]]
    return Samples(
        features=views.values[rows],
        label=np.array([picture.label for picture in of_view], dtype=np.uint8),
        weight=view_weights(of_view, views.level[rows], regime=regime),
    )


def _run_id(manifest: Manifest, backbone: Backbone, settings: TrainingSettings, code_version: str) -> str:
    parts = [manifest.version, backbone.weights_sha256, settings.model_dump_json(), code_version]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _log_epoch(epoch: Epoch) -> None:
    _log.info(
        "epoch %d: log-loss %.4f, on validation %.4f; accuracy %.3f, on validation %.3f",
        epoch.epoch,
        epoch.train_loss,
        epoch.validation_loss,
        epoch.train_accuracy,
        epoch.validation_accuracy,
    )


def _logits(head: Head, features: NDArray[np.float32]) -> NDArray[np.float64]:
    with torch.inference_mode():
        return head(torch.from_numpy(features)).double().numpy()


def _fixtures(
    manifest: Manifest, pictures: Sequence[Picture], settings: TrainingSettings, size_px: int
) -> NDArray[np.uint8]:
    """Views of the first pictures: uint8[N,S,S,3] as the model will meet them."""
    views = [
        render(
            manifest.read_bytes(picture),
            picture.format,
            views_of(picture.sha256, count=settings.views, regime=settings.regime),
            settings.regime,
            size_px,
        )
        for picture in pictures[:_FIXTURES]
    ]
    return np.concatenate(views)


def _count(pictures: Sequence[Picture]) -> list[dict[str, str | int]]:
    counts = Counter((picture.split, picture.source, picture.label) for picture in pictures)
    return [
        {"split": split, "source": source, "label": label, "pictures": count}
        for (split, source, label), count in sorted(counts.items())
    ]
