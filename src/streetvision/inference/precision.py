"""Lower precision as a strongly typed ONNX: what TensorRT is given, derived from the FP32 model where it will run.

TensorRT has no switch for it any more: a network computes in the types that its graph spells out. FP32 stays the
artifact and the reference.

In 16 bits are computed matrix products and convolutions, with their weights, and what only moves or bounds their
results (`_MOVING`), which rounds nothing. Everything else stays an island of FP32: normalisation of the pixels and the
first convolution, depthwise convolutions (few products to a sum, so each rounding shows, and no work for tensor cores),
LayerNormalization and every other mean, variance or power, Softmax, GELU, position angles, sums such as the residual
stream (DINOv3 has values there that FP16 cannot hold), and the head with its temperature and sigmoid.

Source: plain FP16 of DINOv3 is wrong: github.com/NVIDIA/TensorRT issue 4723
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from streetvision.errors import EngineError
from streetvision.inference.engine import HEAD_PREFIX, INPUT_NAME, Precision
from streetvision.inference.onnx import CPU, ONNX_RUNTIME_ERRORS

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_COMPUTING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_MOVING = {  # op -> how many of its inputs are data, the rest being shapes and indices
    "Clip": 3,
    "Concat": None,
    "Expand": 1,
    "Flatten": 1,
    "Gather": 1,
    "MaxPool": 1,
    "Relu": 1,
    "Reshape": 1,
    "Slice": 1,
    "Split": 1,
    "Squeeze": 1,
    "Tile": 1,
    "Transpose": 1,
    "Unsqueeze": 1,
}


def write_variant(model: Path, target: Path, precision: Precision) -> None:
    """Writes the model in another precision, with the same input and output; weights go to `<target's name>.data`.

    Args:
        model: the FP32 model; its external data, where it has any, lies beside it.
        target: the ONNX file to write; its folder needs room for the weights twice.
        precision: of matrix products and convolutions; weights beyond its range become its largest number.

    Raises:
        EngineError: the model cannot be loaded.
    """
    variant = _folded(model, target.parent)
    _cast_pixels_first(variant.graph)
    if precision != "fp32":
        _Lowering(variant.graph, precision).run()
    # Always beside the graph: one way for small and large models, and no limit of 2 GB.
    onnx.save_model(variant, target, save_as_external_data=True, location=f"{target.name}.data")


def _folded(path: Path, scratch: Path) -> ModelProto:
    """The model after ONNX Runtime computed what is constant in it, so that every weight is an initializer."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        folded = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # standard ops only
        options.optimized_model_filepath = str(folded)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "folded.data")
        try:
            onnxruntime.InferenceSession(str(path), options, providers=[CPU])
        except ONNX_RUNTIME_ERRORS as err:
            reason = str(err).strip().partition("\n")[0]
            raise EngineError(f"ONNX Runtime cannot load `{path}`: {reason}") from err
        return onnx.load(folded)


def _cast_pixels_first(graph: GraphProto) -> None:
    """Makes a cast the first thing that happens to the pixels: TensorRT takes uint8, but can do nothing else with it.

    The exported model transposes first, which on CPU is faster on bytes.
    """
    readers = [node for node in graph.node if INPUT_NAME in node.input]
    if [node.op_type for node in readers] != ["Transpose"]:
        return
    transpose = readers[0]
    casts = [node for node in graph.node if transpose.output[0] in node.input]
    if [node.op_type for node in casts] != ["Cast"]:
        return
    transpose.op_type, casts[0].op_type = "Cast", "Transpose"
    attributes = list(transpose.attribute)
    _replace(transpose.attribute, casts[0].attribute)
    _replace(casts[0].attribute, attributes)
    _replace(graph.value_info, [info for info in graph.value_info if info.name != transpose.output[0]])


class _Lowering:
    """One pass over a graph in its order, with a cast wherever two types meet.

    A tensor's own name stands for FP32; in 16 bits it has another.
    """

    def __init__(self, graph: GraphProto, precision: Precision) -> None:
        self._graph = graph
        self._precision = precision
        self._type = _TYPES[precision]
        self._dtype = helper.tensor_dtype_to_np_dtype(self._type)
        self._constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        self._computed: dict[str, str] = {}  # tensors that arise in 16 bits, and their names there
        self._rounded: dict[str, str] = {}  # tensors that arise in FP32 and are read in 16 bits, and their names there
        self._widened: set[str] = set()  # those of `_computed` that have an FP32 form too
        self._nodes: list[NodeProto] = []
        self._first = next((node for node in graph.node if node.op_type in _COMPUTING), None)

    def run(self) -> None:
        for node in self._graph.node:
            if node.op_type in _COMPUTING and not self._is_island(node):
                self._lower(node, len(node.input))
            elif node.op_type in _MOVING and self._rounds_nothing(node):
                self._lower(node, _MOVING[node.op_type])
            else:
                self._widen(_names_read(node))
                self._nodes.append(node)
        self._widen(output.name for output in self._graph.output)
        _replace(self._graph.node, self._nodes)
        used = {name for node in self._nodes for name in _names_read(node)}
        _replace(self._graph.initializer, [tensor for tensor in self._graph.initializer if tensor.name in used])

    def _is_island(self, node: NodeProto) -> bool:
        grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        return node is self._first or grouped or node.name.startswith(HEAD_PREFIX)

    def _rounds_nothing(self, node: NodeProto) -> bool:
        data = [name for name in node.input[: _MOVING[node.op_type]] if name]
        return any(name in self._computed for name in data) and all(
            name in self._computed or (name in self._constants and self._is_exact(name)) for name in data
        )

    def _is_exact(self, constant: str) -> bool:
        values = numpy_helper.to_array(self._constants[constant])
        return np.array_equal(values.astype(self._dtype).astype(np.float32), values)

    def _lower(self, node: NodeProto, data_inputs: int | None) -> None:
        """Lets the node compute in 16 bits."""
        for index, name in enumerate(node.input[:data_inputs]):
            if name:
                node.input[index] = self._computed.get(name) or self._round(name)
        for index, name in enumerate(node.output):
            node.output[index] = self._computed[name] = f"{name}.{self._precision}"
        self._nodes.append(node)

    def _round(self, name: str) -> str:
        """The name of an FP32 tensor in 16 bits."""
        if name not in self._rounded:
            low = self._rounded[name] = f"{name}.{self._precision}"
            if name in self._constants:
                self._graph.initializer.append(self._rounded_constant(name, low))
            else:
                self._nodes.append(helper.make_node("Cast", [name], [low], to=self._type))
        return self._rounded[name]

    def _rounded_constant(self, name: str, low: str) -> TensorProto:
        values = numpy_helper.to_array(self._constants[name])
        limit = float(ml_dtypes.finfo(self._dtype).max)
        return numpy_helper.from_array(np.clip(values, -limit, limit).astype(self._dtype), low)

    def _widen(self, names: Iterable[str]) -> None:
        """Sees to it that the FP32 form of every name exists."""
        for name in names:
            if name in self._computed and name not in self._widened:
                self._widened.add(name)
                self._nodes.append(helper.make_node("Cast", [self._computed[name]], [name], to=TensorProto.FLOAT))


def _names_read(node: NodeProto) -> list[str]:
    """The node's inputs, and what its branches take from around them."""
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names += [name for inner in attribute.g.node for name in _names_read(inner)]
            names += [output.name for output in attribute.g.output]
    return names


def _replace(field: Any, values: Iterable[Any]) -> None:
    """Makes a repeated field of a protobuf message hold exactly these values."""
    values = list(values)
    del field[:]
    field.extend(values)
