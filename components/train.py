"""The step `train`: a head on a frozen backbone, calibrated and exported as one ONNX."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.PIPELINE_GPU, install_kfp_package=False)
def train(
    manifest: dsl.Input[dsl.Dataset],
    preset: str,
    regime: str,
    views: int,
    seed: int,
    workspace: str,
    git_sha: str,
    code_version: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Trains, calibrates and exports; returns the sha256 of the model."""
    from pathlib import Path

    from streetvision.data.manifest import Manifest
    from streetvision.training.train import TrainingSettings, train

    settings = TrainingSettings(preset=preset, regime=regime, views=views, seed=seed)
    pictures, cache = Manifest.read(Path(manifest.path)), Path(workspace, "cache")
    result = train(pictures, Path(model.path), settings, cache_dir=cache, code_version=code_version, git_sha=git_sha)
    metrics.metadata.update(result.metrics)
    Path(metrics.path).touch()  # kfp's local cache takes an artifact without a file for lost
    model.metadata.update(framework="onnx", sha256=result.model_sha256, preset=preset, **result.metrics)
    return result.model_sha256
