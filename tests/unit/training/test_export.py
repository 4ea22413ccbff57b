from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from streetvision.errors import EngineError
from streetvision.inference.onnx import OnnxEngine
from streetvision.models.backbones import Backbone
from streetvision.models.heads import Head
from streetvision.training.encode import Features, backbone_onnx, export_onnx
from streetvision.training.export import export_model

TEMPERATURE = 1.7


@pytest.fixture(scope="module")
def head(backbone: Backbone) -> Head:
    torch.manual_seed(0)
    return Head(backbone.width).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(backbone: Backbone, head: Head, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.sigmoid(head(Features(backbone)(torch.from_numpy(images))) / TEMPERATURE).numpy()


def probabilities(folder: Path, images: np.ndarray) -> np.ndarray:
    engine = OnnxEngine(folder / "model.onnx", size_px=224, threads=1)
    return np.concatenate([engine.predict(images[:1]), engine.predict(images[1:8]), engine.predict(images[8:])])


def test_the_exported_model_gives_torchs_calibrated_probability(
    backbone: Backbone, head: Head, images: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    path = backbone_onnx(backbone, tmp_path / "cache")
    difference = export_model(backbone, head, TEMPERATURE, 0.4, tmp_path, backbone_path=path, fixtures=images)
    assert difference < 1e-4
    np.testing.assert_allclose(probabilities(tmp_path, images), expected, atol=1e-4)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["model.onnx"]
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version >= 17


def test_large_weights_lie_beside_the_model(
    backbone: Backbone, head: Head, images: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    path = backbone_onnx(backbone, tmp_path / "cache")
    export_model(
        backbone, head, TEMPERATURE, 0.4, tmp_path, backbone_path=path, fixtures=images, external_data_over_bytes=1000
    )
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size > 10 * (tmp_path / "model.onnx").stat().st_size / 100
    np.testing.assert_allclose(probabilities(tmp_path, images), expected, atol=1e-4)


def test_a_graph_that_differs_from_torch_is_refused(
    backbone: Backbone, head: Head, images: np.ndarray, tmp_path: Path
) -> None:
    class Brighter(Features):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image) * 1.5

    example = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
    export_onnx(Brighter(backbone), example, tmp_path / "b.onnx", input_name="image", output_name="features")
    with pytest.raises(EngineError, match=r"`model\.onnx` differs from torch by"):
        export_model(backbone, head, TEMPERATURE, 0.4, tmp_path, backbone_path=tmp_path / "b.onnx", fixtures=images)


def test_what_onnx_cannot_express_is_an_engine_error(tmp_path: Path) -> None:
    class Unknown(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(features).real

    with pytest.raises(EngineError, match="cannot export `Unknown` to ONNX"):
        export_onnx(Unknown(), torch.eye(2), tmp_path / "x.onnx", input_name="features", output_name="probability")
