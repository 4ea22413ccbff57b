import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from streetvision.errors import ModelDirectoryError
from streetvision.inference.model_directory import ModelDirectory
from tests.brightness import describe


def test_open_gives_back_what_write_config_wrote(model_dir: Path) -> None:
    written = describe(model_dir)
    opened = ModelDirectory.open(model_dir)
    assert opened == written
    assert set(opened.config.files) == {"model.onnx", "training.json"}
    assert opened.sha256 == hashlib.sha256((model_dir / "model.onnx").read_bytes()).hexdigest()
    assert opened.version == opened.sha256[:12]


def test_files_of_the_push_are_neither_listed_nor_refused(model_dir: Path) -> None:
    (model_dir / "README.md").write_text("card")
    (model_dir / ".hidden").write_text("x")
    assert set(describe(model_dir).config.files) == {"model.onnx", "training.json"}
    ModelDirectory.open(model_dir)


def test_external_data_counts_into_the_identity_of_the_model(model_dir: Path) -> None:
    model = (model_dir / "model.onnx").read_bytes()
    (model_dir / "model.onnx.data").write_bytes(b"weights")
    with pytest.raises(ModelDirectoryError, match=r"`model.onnx.data` is not listed"):
        ModelDirectory.open(model_dir)
    describe(model_dir)
    directory = ModelDirectory.open(model_dir)
    assert "model.onnx.data" in directory.config.files
    assert directory.sha256 == hashlib.sha256(model + b"weights").hexdigest()


@pytest.mark.parametrize("name", ["model.onnx", "training.json", "config.json"])
def test_missing_file_is_named(model_dir: Path, name: str) -> None:
    (model_dir / name).unlink()
    with pytest.raises(ModelDirectoryError, match=f"`{name}` is missing"):
        ModelDirectory.open(model_dir)


@pytest.mark.parametrize("name", ["model.onnx", "training.json"])
def test_altered_file_is_named(model_dir: Path, name: str) -> None:
    data = bytearray((model_dir / name).read_bytes())
    data[-1] ^= 1
    (model_dir / name).write_bytes(bytes(data))
    with pytest.raises(ModelDirectoryError, match=f"`{name}` has sha256"):
        ModelDirectory.open(model_dir)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2),
        ("threshold", 1.0),
        ("temperature", 0.0),
        ("input_size_px", 0),
        ("files", {}),
        ("files", {"model.onnx": "a" * 64, "../secret": "a" * 64}),
        ("created_at", "yesterday"),
        ("surprise", 1),
    ],
)
def test_unusable_config_names_the_field(model_dir: Path, field: str, value: Any) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    config[field] = value
    (model_dir / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelDirectoryError, match=f"`config.json` is unusable.*`{field}"):
        ModelDirectory.open(model_dir)


def test_config_that_is_no_json_is_one_sentence(model_dir: Path) -> None:
    (model_dir / "config.json").write_bytes(b"\xff\x00")
    with pytest.raises(ModelDirectoryError, match="`config.json` is unusable") as raised:
        ModelDirectory.open(model_dir)
    assert "\n" not in raised.value.message


def test_write_config_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match=r"`model.onnx` is not listed"):
        describe(tmp_path)
    with pytest.raises(ModelDirectoryError, match="cannot be read"):
        describe(tmp_path / "nowhere")


@pytest.mark.parametrize("threshold", [0.0, 1.0, math.nan])
def test_write_config_refuses_a_threshold_that_cannot_be_mapped(model_dir: Path, threshold: float) -> None:
    with pytest.raises(ModelDirectoryError, match="`threshold`"):
        describe(model_dir, threshold=threshold)
