"""Model directories as training exports them, under a random head."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from streetvision.inference.model_directory import ModelDirectory, write_config
from streetvision.models.backbones import Backbone
from streetvision.models.heads import Head
from streetvision.training.encode import backbone_onnx
from streetvision.training.export import export_model


def exported(backbone: Backbone, folder: Path, *, temperature: float = 1.0, **options: Any) -> ModelDirectory:
    """The model directory `folder/model`; `options` are those of `export_model`."""
    torch.manual_seed(0)
    head = Head(backbone.width).eval()
    size_px = backbone.preset.size_px
    pictures = np.random.default_rng(0).integers(0, 256, (2, size_px, size_px, 3), dtype=np.uint8)
    path = folder / "model"
    path.mkdir()
    graph = backbone_onnx(backbone, folder / "cache")
    export_model(backbone, head, temperature, 0.5, path, backbone_path=graph, fixtures=pictures, **options)
    facts = {"threshold": 0.5, "temperature": temperature, "data_version": "", "code_version": "", "git_sha": ""}
    return write_config(path, preset=backbone.preset.name, input_size_px=size_px, **facts)
