from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from streetvision import imaging
from streetvision.data import manifest as manifests
from streetvision.data.manifest import Manifest, Picture
from streetvision.models.backbones import Backbone, load_backbone

PRESET = "dinov3-convnext-small"

MakeManifest = Callable[..., Manifest]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a tiny network of a preset's class: what training does, in milliseconds."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1])
    transformers.DINOv3ConvNextModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def backbone(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(PRESET, cache_dir=tmp_path_factory.mktemp("backbone"), weights=tiny_weights)


@pytest.fixture(scope="session")
def make_manifest(tmp_path_factory: pytest.TempPathFactory) -> MakeManifest:
    """Writes a manifest of small pictures: orange ones show roadwork, blue ones do not."""

    def make(train: int = 12, validation: int = 8, labels: tuple[int, ...] = (0, 1), seed: int = 0) -> Manifest:
        root = tmp_path_factory.mktemp("manifest") / "data"
        rng = np.random.default_rng(seed)
        pictures: list[Picture] = []
        with manifests.write(root) as writer:
            for number in range(train + validation):
                label = labels[number % len(labels)]
                image = rng.integers(0, 120, (64, 80, 3), dtype=np.uint8)
                image[..., 0 if label else 2] += np.uint8(100)
                sha256 = writer.store(imaging.encode_jpeg(image), encoding="JPEG")
                pictures.append(
                    Picture(
                        sha256=sha256,
                        path=manifests.image_path(sha256, "JPEG"),
                        label=label,
                        source="real",
                        generator="camera",
                        group=f"g{number}",
                        split="train" if number < train else "validation",
                        format="JPEG",
                        description="cones" if label else "",
                        prompt="",
                        seed=None,
                        phash="0" * 16,
                    )
                )
            writer.finish(pictures)
        return Manifest.read(root)

    return make


@pytest.fixture(scope="session")
def manifest(make_manifest: MakeManifest) -> Manifest:
    return make_manifest()
