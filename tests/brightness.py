"""A small real model that answers how bright a picture is, and the model directory around it."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from streetvision.inference.model_directory import ModelDirectory, write_config

SIZE_PX = 32
THRESHOLD = 0.25


def write_model(
    path: Path,
    *,
    channels: Sequence[int] = (0, 1, 2),
    divisor: float = 255.0,
    input_name: str = "image",
    batch: int | str = "N",
) -> None:
    """Writes an ONNX model whose probability is the mean of those channels / `divisor`."""
    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["float", "channels"], ["seen"], axis=3),
        helper.make_node("ReduceMean", ["seen", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "divisor"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, [batch, SIZE_PX, SIZE_PX, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [batch])],
        [
            helper.make_tensor("channels", TensorProto.INT64, [len(channels)], channels),
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("divisor", TensorProto.FLOAT, [], [divisor]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def describe(folder: Path, *, input_size_px: int = SIZE_PX, threshold: float = THRESHOLD) -> ModelDirectory:
    """The folder as a model directory, after writing its `config.json`."""
    return write_config(
        folder,
        preset="brightness",
        input_size_px=input_size_px,
        threshold=threshold,
        temperature=1.0,
        data_version="d" * 64,
        code_version="c" * 64,
        git_sha="",
    )


def write_model_directory(folder: Path, *, channels: Sequence[int] = (0, 1, 2)) -> Path:
    """The new folder, now a model directory: a mean of those channels above a quarter is roadwork."""
    folder.mkdir()
    write_model(folder / "model.onnx", channels=channels)
    (folder / "training.json").write_text("{}\n")
    describe(folder)
    return folder
