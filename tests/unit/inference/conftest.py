from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streetvision.inference.model_directory import ModelDirectory
from tests.brightness import write_model_directory

if TYPE_CHECKING:
    from streetvision.models.backbones import Backbone

MakeExported = Callable[..., ModelDirectory]


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A model directory of a model that answers the mean brightness; threshold 0.25."""
    return write_model_directory(tmp_path / "model")


def _tiny_backbone(preset: str, folder: Path) -> "Backbone":
    """The preset's backbone: real weights where a package brings them, else a tiny random network of its class."""
    import torch
    import transformers

    from streetvision.models.backbones import load_backbone

    networks = {
        "dinov3-vitl16": lambda: transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=128,
                num_register_tokens=4,
            )
        ),
        "dinov2-base": lambda: transformers.Dinov2Model(
            transformers.Dinov2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=224)
        ),
        "dinov3-convnext-small": lambda: transformers.DINOv3ConvNextModel(
            transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1])
        ),
        "siglip2-so400m": lambda: transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(
                hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, image_size=384
            )
        ),
    }
    if preset not in networks:
        return load_backbone(preset, cache_dir=folder)
    torch.manual_seed(0)
    networks[preset]().save_pretrained(folder / "weights")
    return load_backbone(preset, cache_dir=folder, weights=folder / "weights")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> MakeExported:
    """Model directories as training exports them, with a random head on the preset's class of backbone."""
    from tests.bench.models import exported  # torch takes five seconds, for those tests to pay that want a model

    made: dict[tuple[str, int], ModelDirectory] = {}

    def make(preset: str = "efficientnet-lite0", *, external_data_over_bytes: int = 1 << 30) -> ModelDirectory:
        if (preset, external_data_over_bytes) not in made:
            folder = tmp_path_factory.mktemp(preset)
            backbone = _tiny_backbone(preset, folder / "cache")
            made[preset, external_data_over_bytes] = exported(
                backbone,
                folder,
                temperature=0.2,  # sharp, so that small differences of the features show
                external_data_over_bytes=external_data_over_bytes,
            )
        return made[preset, external_data_over_bytes]

    return make
