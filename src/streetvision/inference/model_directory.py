"""The model directory: what is exported, gated, registered, pushed and served."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from streetvision import atomic
from streetvision.errors import ModelDirectoryError

CONFIG = "config.json"
MODEL = "model.onnx"
EXTERNAL_DATA = "model.onnx.data"  # weights too large for one protobuf file
_ADDED_LATER = {CONFIG, "README.md", "model_card.json"}  # by us and by the push to the hub

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]  # no folders, no way out


class ModelConfig(BaseModel):
    """`config.json`: how the model was made, how it is served, and the sha256 of every file beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: Literal[1] = 1
    model_name: str = "roadwork"
    preset: str
    input_size_px: int = Field(ge=1, le=4096)
    labels: tuple[str, str] = ("none", "roadwork")
    threshold: float = Field(gt=0, lt=1)
    temperature: float = Field(gt=0)
    data_version: str
    code_version: str
    git_sha: str
    created_at: AwareDatetime
    files: Mapping[FileName, Sha256]

    @field_validator("files")
    @classmethod
    def _has_a_model(cls, files: Mapping[str, str]) -> Mapping[str, str]:
        if MODEL not in files:
            raise ValueError(f"`{MODEL}` is not listed")
        return files


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A folder whose files are what its `config.json` says.

    Attributes:
        path: the folder.
        config: its `config.json`.
        sha256: identity of the model: of `model.onnx` followed by `model.onnx.data` where there is one, which is what
            `cat model.onnx model.onnx.data | sha256sum` prints. Without external data it is the sha256 of `model.onnx`.
    """

    path: Path
    config: ModelConfig
    sha256: str

    @classmethod
    def open(cls, path: Path) -> "ModelDirectory":
        """The directory, every listed file read and compared with its sha256.

        Raises:
            ModelDirectoryError: a file is missing, altered or unreadable, named in the message.
        """
        config = read_config(path)
        found = _hash_files(path, config.files)
        for name, expected in config.files.items():
            if found[name] != expected:
                raise ModelDirectoryError(
                    f"`{name}` has sha256 {found[name][:12]}…, expected {expected[:12]}…: `{path}`",
                    hint="the file was altered or only half copied; fetch the model directory again",
                )
        if (path / EXTERNAL_DATA).exists() and EXTERNAL_DATA not in config.files:
            raise ModelDirectoryError(f"`{EXTERNAL_DATA}` is not listed in `{CONFIG}`: `{path}`")
        return cls(path, config, _model_sha256(path, config.files))

    @property
    def version(self) -> str:
        """The first 12 characters of `sha256`, which every answer carries."""
        return self.sha256[:12]

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL


def write_config(
    path: Path,
    *,
    preset: str,
    input_size_px: int,
    threshold: float,
    temperature: float,
    data_version: str,
    code_version: str,
    git_sha: str,
    model_name: str = "roadwork",
    created_at: datetime | None = None,
) -> ModelDirectory:
    """The finished model directory, after writing its `config.json` over the files that lie in it.

    Every other file of the folder is listed with its sha256, except hidden ones and those the push adds later
    (`README.md`, `model_card.json`).

    Args:
        path: the folder, with at least `model.onnx`.
        preset: name of the backbone's preset.
        input_size_px: side S of the pictures `model.onnx` takes.
        threshold: the calibrated probability that is served as 0.5, in (0, 1).
        temperature: what the logits are divided by inside `model.onnx`, above 0.
        data_version: content hash of the manifest it was trained on.
        code_version: hash of the library that made it.
        git_sha: commit of that library, or empty.
        model_name: name it is registered and served under.
        created_at: with time zone; now by default.

    Raises:
        ModelDirectoryError: `model.onnx` is missing, or a value is out of its range.
        StorageError: the disk is full, read-only or failing.
    """
    try:
        names = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as err:
        raise ModelDirectoryError(f"model directory cannot be read: `{path}`: {err.strerror}") from err
    try:
        config = ModelConfig(
            model_name=model_name,
            preset=preset,
            input_size_px=input_size_px,
            threshold=threshold,
            temperature=temperature,
            data_version=data_version,
            code_version=code_version,
            git_sha=git_sha,
            created_at=created_at or datetime.now(UTC).replace(microsecond=0),
            files=_hash_files(path, [name for name in names if name not in _ADDED_LATER]),
        )
    except ValidationError as err:
        raise ModelDirectoryError(f"cannot describe the model in `{path}`: {_first_problem(err)}") from err
    atomic.write_text(path / CONFIG, config.model_dump_json(indent=2) + "\n")
    return ModelDirectory(path, config, _model_sha256(path, config.files))


def read_config(path: Path) -> ModelConfig:
    """What a model directory says of itself; its other files are not looked at.

    Raises:
        ModelDirectoryError: `config.json` is missing or unusable.
    """
    try:
        return ModelConfig.model_validate_json((path / CONFIG).read_bytes())
    except FileNotFoundError as err:
        raise ModelDirectoryError(
            f"`{CONFIG}` is missing: `{path}`", hint="a model directory is what `streetvision train` writes"
        ) from err
    except OSError as err:
        raise ModelDirectoryError(f"`{CONFIG}` cannot be read: `{path}`: {err.strerror}") from err
    except ValidationError as err:
        raise ModelDirectoryError(f"`{CONFIG}` is unusable: `{path}`: {_first_problem(err)}") from err


def _hash_files(path: Path, names: Mapping[str, str] | list[str]) -> dict[str, str]:
    return {name: _sha256(path, [name]) for name in names}


def _model_sha256(path: Path, files: Mapping[str, str]) -> str:
    return _sha256(path, [MODEL, EXTERNAL_DATA]) if EXTERNAL_DATA in files else files[MODEL]


def _sha256(path: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        try:
            with (path / name).open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except FileNotFoundError as err:
            raise ModelDirectoryError(f"`{name}` is missing: `{path}`", hint="fetch the model directory again") from err
        except OSError as err:
            raise ModelDirectoryError(f"`{name}` cannot be read: `{path}`: {err.strerror}") from err
    return digest.hexdigest()


def _first_problem(err: ValidationError) -> str:
    problem = err.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"`{where}`: {problem['msg']}" if where else problem["msg"]
