from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from streetvision.models.backbones import Backbone
from streetvision.training.encode import Features, OnnxEncoder, backbone_onnx


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)


def test_the_exported_backbone_gives_torchs_features_for_any_number_of_pictures(
    backbone: Backbone, images: np.ndarray, tmp_path: Path
) -> None:
    encoder = OnnxEncoder(backbone_onnx(backbone, tmp_path))
    with torch.no_grad():
        expected = Features(backbone)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(images[:1]), expected[:1], atol=1e-5)


def test_the_backbone_is_exported_once(backbone: Backbone, tmp_path: Path) -> None:
    path = backbone_onnx(backbone, tmp_path)
    before = path.stat().st_mtime_ns
    assert backbone_onnx(backbone, tmp_path) == path
    assert path.stat().st_mtime_ns == before
    assert onnx.load(path).opset_import[0].version >= 17


def test_a_damaged_export_is_made_again(backbone: Backbone, tmp_path: Path) -> None:
    path = backbone_onnx(backbone, tmp_path)
    intact = path.read_bytes()
    path.write_bytes(intact[:-20])
    assert backbone_onnx(backbone, tmp_path).read_bytes() == intact
