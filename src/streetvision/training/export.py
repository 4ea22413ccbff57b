"""The trained model as one ONNX file: picture in, calibrated probability out."""

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import compose
from torch import Tensor, nn

from streetvision.errors import EngineError
from streetvision.inference.engine import HEAD_PREFIX, OUTPUT_NAME
from streetvision.inference.model_directory import EXTERNAL_DATA, MODEL
from streetvision.inference.onnx import OnnxEngine
from streetvision.models.backbones import Backbone
from streetvision.models.heads import Head
from streetvision.training.encode import FEATURES, Features, export_onnx

MAX_DIFFERENCE = 1e-4
EXTERNAL_DATA_OVER_BYTES = 1_500_000_000  # protobuf ends at 2 GB
_CHECK_BATCH = 8


class Probability(nn.Module):
    """float32[N,width] features -> float32[N] calibrated probability of roadwork."""

    temperature: Tensor

    def __init__(self, head: Head, temperature: float) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("temperature", torch.tensor(temperature))
        self.eval()

    def forward(self, features: Tensor) -> Tensor:
        """Probability of each picture."""
        return torch.sigmoid(self.head(features) / self.temperature)


def export_model(
    backbone: Backbone,
    head: Head,
    temperature: float,
    threshold: float,
    folder: Path,
    *,
    backbone_path: Path,
    fixtures: NDArray[np.uint8],
    external_data_over_bytes: int = EXTERNAL_DATA_OVER_BYTES,
) -> float:
    """The largest difference to torch on the fixtures, after writing `model.onnx` to the folder.

    The graph that drew the features is taken as it is, and the head is set on top of it.

    Args:
        backbone: the network in torch, to compare with.
        head: on the CPU.
        temperature: what logits are divided by.
        threshold: noted in the model, so that another cut is another model; it is applied outside.
        folder: where `model.onnx` and, for large weights, `model.onnx.data` are written.
        backbone_path: the backbone as ONNX (`encode.backbone_onnx`).
        fixtures: uint8[N,S,S,3] pictures to compare on.
        external_data_over_bytes: weights of more bytes go to `model.onnx.data`.

    Raises:
        EngineError: the exported model differs from torch by more than 1e-4, or cannot be exported.
    """
    probability = Probability(head, temperature)
    path = folder / MODEL
    head_path = folder / ".head.onnx"
    example = torch.zeros(2, backbone.width)
    export_onnx(probability, example, head_path, input_name=FEATURES, output_name=OUTPUT_NAME)
    upper = compose.add_prefix(onnx.load(head_path), HEAD_PREFIX, rename_inputs=False, rename_outputs=False)
    head_path.unlink()
    model = compose.merge_models(onnx.load(backbone_path), upper, io_map=[(FEATURES, FEATURES)])
    onnx.helper.set_model_props(model, {"threshold": repr(threshold)})
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > external_data_over_bytes
    onnx.save_model(model, path, save_as_external_data=large, location=EXTERNAL_DATA if large else None)
    onnx.checker.check_model(path)
    difference = _difference(nn.Sequential(Features(backbone.cpu()), probability).eval(), path, fixtures)
    if not difference <= MAX_DIFFERENCE:
        raise EngineError(
            f"`{path.name}` differs from torch by {difference:.1e}, expected at most {MAX_DIFFERENCE:g}",
            hint="delete the exported backbone in the cache and train again",
        )
    return difference


def _difference(module: nn.Module, path: Path, fixtures: NDArray[np.uint8]) -> float:
    engine = OnnxEngine(path, size_px=fixtures.shape[1], threads=1, batch_sizes=(_CHECK_BATCH,))
    worst = 0.0
    for start in range(0, len(fixtures), _CHECK_BATCH):
        batch = fixtures[start : start + _CHECK_BATCH]
        with torch.inference_mode():
            expected = module(torch.from_numpy(batch)).numpy()
        worst = max(worst, float(np.abs(engine.predict(batch) - expected).max()))
    return worst
