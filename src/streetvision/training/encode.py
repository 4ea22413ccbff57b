"""The backbone as it runs: exported once to ONNX, and from then on the same graph in the cache and in the model."""

import hashlib
import logging
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streetvision import atomic
from streetvision.errors import EngineError
from streetvision.models.backbones import Backbone, Normalise

_log = logging.getLogger(__name__)

OPSET = 17
FEATURES = "features"
IMAGE = "image"
_ONNX = "backbone.onnx"
_DIGEST = "sha256"  # of the exported files, beside them


class Encoder(Protocol):
    """Pictures to features."""

    numerics: str  # features are cached under it: other arithmetic, other features
    batch_size: int

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32[N,width] of uint8[N,S,S,3]; may be called from several threads."""
        ...


class Features(nn.Module):
    """uint8[N,S,S,3] -> float32[N,width]: normalisation and backbone."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.normalise = Normalise(backbone.preset)
        self.backbone = backbone
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Features of each picture."""
        return self.backbone(self.normalise(image))


class OnnxEncoder:
    """The exported backbone in ONNX Runtime, one core for each call: calls run side by side."""

    numerics = "onnxruntime cpu fp32"
    batch_size = 8

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32[N,width] of uint8[N,S,S,3]."""
        output: Any = self._session.run([FEATURES], {IMAGE: images})[0]
        return np.asarray(output, dtype=np.float32)


class CudaEncoder:
    """The backbone in torch on the first GPU, in full float32."""

    numerics = "torch cuda fp32"
    batch_size = 64

    def __init__(self, backbone: Backbone) -> None:
        self._module = Features(backbone).to("cuda")

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32[N,width] of uint8[N,S,S,3]."""
        with (
            torch.inference_mode(),
            torch.autocast("cuda", enabled=False),
            torch.backends.cudnn.flags(allow_tf32=False),
        ):
            return self._module(torch.from_numpy(images).to("cuda")).cpu().numpy()


def encoder_of(backbone: Backbone, *, cache_dir: Path) -> Encoder:
    """The fastest encoder of this machine: the GPU's where there is one, else ONNX Runtime."""
    return CudaEncoder(backbone) if torch.cuda.is_available() else OnnxEncoder(backbone_onnx(backbone, cache_dir))


def backbone_onnx(backbone: Backbone, cache_dir: Path) -> Path:
    """The backbone as ONNX file (`image` uint8[N,S,S,3] -> `features` float32[N,width]), exported at first use.

    Raises:
        EngineError: the exporter cannot express the network.
        StorageError: the cache cannot be written.
    """
    preset = backbone.preset
    inside = repr((backbone.weights_sha256, preset, OPSET))  # weights, size, normalisation, pooling
    folder = cache_dir / "backbones" / f"{preset.name}-{hashlib.sha256(inside.encode()).hexdigest()[:16]}"
    if not _is_intact(folder):
        _log.info("exporting backbone `%s` to ONNX", preset.name)
        with atomic.directory(folder) as new:
            example = torch.zeros(2, preset.size_px, preset.size_px, 3, dtype=torch.uint8)
            export_onnx(Features(backbone).cpu(), example, new / _ONNX, input_name=IMAGE, output_name=FEATURES)
            (new / _DIGEST).write_text(_digest(new))
    return folder / _ONNX


def _is_intact(folder: Path) -> bool:
    try:
        return (folder / _DIGEST).read_text() == _digest(folder)
    except OSError:
        return False


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.name != _DIGEST):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def export_onnx(module: nn.Module, example: Tensor, path: Path, *, input_name: str, output_name: str) -> None:
    """Writes the module as ONNX with any number of rows in and out.

    torch's tracing exporter: a second where the newer one takes ten, with the same differences to torch (1e-6).

    Raises:
        EngineError: the exporter cannot express the module.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and warns of every shape that it takes for constant
        try:
            torch.onnx.export(
                module,
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[input_name],
                output_names=[output_name],
                dynamic_axes={input_name: {0: "N"}, output_name: {0: "N"}},
            )
        except (RuntimeError, TypeError, ValueError) as err:
            raise EngineError(f"cannot export `{type(module).__name__}` to ONNX: {err}") from err
