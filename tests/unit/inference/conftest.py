from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from streetvision.inference.model_directory import ModelDirectory, write_config

SIZE_PX = 32


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
