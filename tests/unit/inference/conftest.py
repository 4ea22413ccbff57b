from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from streetvision.inference.model_directory import ModelDirectory, write_config

if TYPE_CHECKING:
    from streetvision.models.backbones import Backbone

SIZE_PX = 32
MakeExported = Callable[..., ModelDirectory]


def _brightness_model(path: Path, *, divisor: float = 255.0, input_name: str = "image", batch: int | str = "N") -> None:
    """An ONNX model whose probability is the mean brightness / `divisor`."""
    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "divisor"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, [batch, SIZE_PX, SIZE_PX, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [batch])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("divisor", TensorProto.FLOAT, [], [divisor]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def _describe(path: Path, *, input_size_px: int = SIZE_PX, threshold: float = 0.25) -> ModelDirectory:
    return write_config(
        path,
        preset="brightness",
        input_size_px=input_size_px,
        threshold=threshold,
        temperature=1.0,
        data_version="d" * 64,
        code_version="c" * 64,
        git_sha="",
    )


@pytest.fixture
def brightness_model() -> Callable[..., None]:
    return _brightness_model


@pytest.fixture
def describe() -> Callable[..., ModelDirectory]:
    return _describe


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A model directory of a model that answers the mean brightness; threshold 0.25."""
    path = tmp_path / "model"
    path.mkdir()
    _brightness_model(path / "model.onnx")
    (path / "training.json").write_text("{}\n")
    _describe(path)
    return path


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
    import torch  # five seconds, which only those tests are to pay that want a model

    from streetvision.models.heads import Head
    from streetvision.training.encode import backbone_onnx
    from streetvision.training.export import export_model

    made: dict[tuple[str, int], ModelDirectory] = {}

    def make(preset: str = "efficientnet-lite0", *, external_data_over_bytes: int = 1 << 30) -> ModelDirectory:
        if (preset, external_data_over_bytes) not in made:
            folder = tmp_path_factory.mktemp(preset)
            backbone = _tiny_backbone(preset, folder / "cache")
            torch.manual_seed(0)
            head = Head(backbone.width).eval()
            size_px = backbone.preset.size_px
            pictures = np.random.default_rng(0).integers(0, 256, (2, size_px, size_px, 3), dtype=np.uint8)
            path = folder / "model"
            path.mkdir()
            export_model(
                backbone,
                head,
                0.2,  # sharp, so that small differences of the features show
                0.5,
                path,
                backbone_path=backbone_onnx(backbone, folder / "cache"),
                fixtures=pictures,
                external_data_over_bytes=external_data_over_bytes,
            )
            made[preset, external_data_over_bytes] = _describe(path, input_size_px=size_px, threshold=0.5)
        return made[preset, external_data_over_bytes]

    return make
