"""A model directory to measure with: the default backbone under a random head."""

from pathlib import Path

import numpy as np
import torch

from streetvision.inference.model_directory import ModelDirectory, write_config
from streetvision.models.backbones import load_backbone
from streetvision.models.heads import Head
from streetvision.training.encode import backbone_onnx
from streetvision.training.export import export_model


def exported(folder: Path) -> ModelDirectory:
    backbone = load_backbone("efficientnet-lite0", cache_dir=folder / "cache")
    torch.manual_seed(0)
    head = Head(backbone.width).eval()
    size_px = backbone.preset.size_px
    pictures = np.random.default_rng(0).integers(0, 256, (2, size_px, size_px, 3), dtype=np.uint8)
    path = folder / "model"
    path.mkdir()
    graph = backbone_onnx(backbone, folder / "cache")
    export_model(backbone, head, 1.0, 0.5, path, backbone_path=graph, fixtures=pictures)
    facts = {"threshold": 0.5, "temperature": 1.0, "data_version": "", "code_version": "", "git_sha": ""}
    return write_config(path, preset=backbone.preset.name, input_size_px=size_px, **facts)
