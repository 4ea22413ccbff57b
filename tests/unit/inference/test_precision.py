from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

from streetvision.errors import EngineError
from streetvision.inference.fixtures import fixture_images
from streetvision.inference.model_directory import ModelDirectory
from streetvision.inference.onnx import OnnxEngine
from streetvision.inference.precision import write_variant

EXPORTED = [
    pytest.param("efficientnet-lite0", marks=pytest.mark.slow),  # the one of real size
    "dinov3-vitl16",
    "dinov3-convnext-small",
]
LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
Exported = Callable[..., ModelDirectory]


def variant(directory: ModelDirectory, precision: str, folder: Path) -> Path:
    path = folder / f"{precision}.onnx"
    write_variant(directory.model_path, path, precision)
    return path


def answers(model: Path | ModelProto, images: np.ndarray) -> np.ndarray:
    source = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def types_of(path: Path) -> tuple[ModelProto, dict[str, int]]:
    """The model, and the element type of each of its tensors."""
    model = shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    return model, types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def widened(path: Path) -> ModelProto:
    """The variant as a CPU can run it: what is computed in 16 bits is computed in 32 and then rounded."""
    model, types = types_of(path)
    nodes = []
    for node in model.graph.node:
        low = {name for name in node.input if types.get(name) in LOW.values()}
        if node.op_type == "Cast" or not low:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if name in low:
                node.input[index] = f"{node.output[0]}.in{index}"
                nodes.append(helper.make_node("Cast", [name], [node.input[index]], to=TensorProto.FLOAT))
        results = list(node.output)
        node.output[:] = [f"{name}.wide" for name in results]
        nodes.append(node)
        nodes += [helper.make_node("Cast", [f"{name}.wide"], [name], to=types[name]) for name in results]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("preset", EXPORTED)
def test_fp32_answers_as_the_model_does(exported: Exported, preset: str, tmp_path: Path):
    images = fixture_images(224)[4:10]
    expected = answers(exported(preset).model_path, images)
    np.testing.assert_allclose(answers(variant(exported(preset), "fp32", tmp_path), images), expected, atol=1e-6)


@pytest.mark.parametrize("preset", EXPORTED)
def test_fp16_stays_within_a_hundredth_on_pictures(exported: Exported, preset: str, tmp_path: Path):
    images = fixture_images(224)
    expected = answers(exported(preset).model_path, images)
    path = variant(exported(preset), "fp16", tmp_path)
    for difference in (np.abs(answers(path, images) - expected), np.abs(answers(widened(path), images) - expected)):
        assert 0 < difference.max() <= 0.01


# The first step after 1 is 1/1024 in FP16 and 1/128 in BF16; only transformers bear the latter.
@pytest.mark.parametrize("preset", ["dinov3-vitl16", "dinov3-convnext-small"])
def test_bf16_rounds_more_than_fp16_and_stays_within_a_hundredth(exported: Exported, preset: str, tmp_path: Path):
    images = fixture_images(224)
    expected = answers(exported(preset).model_path, images)
    fp16, bf16 = (
        np.abs(answers(widened(variant(exported(preset), precision, tmp_path)), images) - expected).max()
        for precision in LOW
    )
    assert 2 * fp16 < bf16 <= 0.01


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("preset", EXPORTED)
def test_products_are_low_and_what_would_suffer_stays_fp32(
    exported: Exported, preset: str, precision: str, tmp_path: Path
):
    model, types = types_of(variant(exported(preset), precision, tmp_path))
    low, wide = Counter(), Counter()
    for node in model.graph.node:
        of_head = node.name.startswith("head/")
        depthwise = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        data = {types[name] for name in node.input if types.get(name) in {TensorProto.FLOAT, *LOW.values()}}
        if node.op_type != "Cast" and data:
            assert len(data) == 1, f"{node.name} mixes types"
            (low if data == {LOW[precision]} else wide)[node.op_type] += 1
            assert not (data == {LOW[precision]} and (of_head or depthwise)), node.name
    assert set(low) <= {"Conv", "MatMul", "Gemm", "Clip", "Concat", "Gather", "Reshape", "Slice", "Transpose"}
    assert low["Conv"] + low["MatMul"] >= 8
    assert wide["Gemm"] == 3  # the head's
    assert wide["Sigmoid"] == 1
    if preset == "dinov3-vitl16":
        assert wide["Softmax"] == 2
        assert wide["LayerNormalization"] == 5
        assert low["MatMul"] == 16
        assert wide["MatMul"] == 0
        assert (low["Conv"], wide["Conv"]) == (0, 1)  # the first, which reads the pixels


def test_input_and_output_stay_what_they_were(exported: Exported, tmp_path: Path):
    path = variant(exported("dinov3-vitl16"), "fp16", tmp_path)
    OnnxEngine(path, size_px=224, threads=1)  # which checks names, types and shapes
    assert onnx.load(path).graph.node[0].op_type == "Cast"  # TensorRT can do nothing else with uint8


def test_weights_lie_beside_the_graph_whatever_their_size(exported: Exported, tmp_path: Path):
    path = variant(exported("dinov3-convnext-small", external_data_over_bytes=1000), "fp16", tmp_path)
    images = fixture_images(224)[:4]
    expected = answers(exported("dinov3-convnext-small").model_path, images)
    np.testing.assert_allclose(answers(path, images), expected, atol=0.01)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fp16.onnx", "fp16.onnx.data"]
    large = [t for t in onnx.load(path, load_external_data=False).graph.initializer if np.prod(t.dims) * 2 > 1024]
    assert large
    assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in large)


@pytest.mark.slow
def test_fp16_halves_the_weights(exported: Exported, tmp_path: Path):
    sizes = [
        variant(exported(), precision, tmp_path).with_name(f"{precision}.onnx.data").stat().st_size
        for precision in ("fp32", "fp16")
    ]
    assert sizes[1] < 0.75 * sizes[0]  # the head of three layers stays as it is


def product_model(path: Path, weight: float) -> None:
    """Two matrix products with one weight each; the first stays FP32."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "one"], ["first"]),
        helper.make_node("MatMul", ["first", "weight"], ["product"]),
        helper.make_node("Relu", ["product"], ["kept"]),
        helper.make_node("Add", ["kept", "half"], ["uneven"]),
        helper.make_node("Concat", ["kept", "half"], ["both"], axis=1),
        helper.make_node("ReduceMax", ["both"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Add", ["uneven", "most"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, 1])],
        [
            helper.make_tensor("one", TensorProto.FLOAT, [1, 1], [1.0]),
            helper.make_tensor("weight", TensorProto.FLOAT, [1, 1], [weight]),
            helper.make_tensor("half", TensorProto.FLOAT, [1, 1], [1 / 3]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize(("precision", "kept"), [("fp16", 65504.0), ("bf16", 131072.0)])
def test_weight_beyond_the_range_becomes_the_largest_number(precision: str, kept: float, tmp_path: Path):
    product_model(tmp_path / "model.onnx", 131072.0)
    write_variant(tmp_path / "model.onnx", tmp_path / "v.onnx", precision)
    (weight,) = [t for t in onnx.load(tmp_path / "v.onnx").graph.initializer if t.data_type == LOW[precision]]
    assert float(numpy_helper.to_array(weight).item()) == kept


def test_what_moves_numbers_is_low_only_where_that_rounds_nothing(tmp_path: Path):
    product_model(tmp_path / "model.onnx", 0.1)
    write_variant(tmp_path / "model.onnx", tmp_path / "v.onnx", "fp16")
    model, types = types_of(tmp_path / "v.onnx")
    of = {node.op_type: {types[name] for name in node.input} for node in model.graph.node}
    assert of["Relu"] == {TensorProto.FLOAT16}
    assert of["Concat"] == {TensorProto.FLOAT}  # one third would be rounded
    image = np.array([[3]], dtype=np.uint8)
    product = float(np.float16(0.1)) * 3
    assert answers(tmp_path / "v.onnx", image)[0, 0] == pytest.approx(1 / 3 + product + max(product, 1 / 3), abs=1e-3)


@pytest.mark.parametrize("precision", LOW)
def test_a_branch_may_read_what_was_computed_in_16_bits(precision: str, tmp_path: Path):
    """Exporters leave such branches behind where a shape decides; DINOv3 has two."""

    def branch(name: str, source: str) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("Add", [source, "third"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "third"], ["first"]),
        helper.make_node("MatMul", ["first", "third"], ["product"]),
        helper.make_node("Greater", ["pixels", "third"], ["bright"]),
        helper.make_node("Squeeze", ["bright"], ["condition"]),
        helper.make_node(
            "If",
            ["condition"],
            ["probability"],
            then_branch=branch("then", "product"),
            else_branch=branch("else", "first"),
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, None)],
        [helper.make_tensor("third", TensorProto.FLOAT, [1, 1], [1 / 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    write_variant(tmp_path / "model.onnx", tmp_path / "v.onnx", precision)
    for value, expected in ((0, 1 / 3), (9, 9 / 9 + 1 / 3)):
        image = np.array([[value]], dtype=np.uint8)
        assert answers(widened(tmp_path / "v.onnx"), image).item() == pytest.approx(expected, abs=0.01)


def test_a_file_that_is_no_model_is_one_sentence(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot load `.*model\.onnx`: ") as raised:
        write_variant(tmp_path / "model.onnx", tmp_path / "v.onnx", "fp16")
    assert "\n" not in raised.value.message
