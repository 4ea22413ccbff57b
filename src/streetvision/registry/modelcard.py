"""What a pushed model says about itself: `model_card.json` for the subnet, `README.md` for people."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import jinja2
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from streetvision.errors import ModelDirectoryError, SettingsError
from streetvision.evaluation import Report
from streetvision.inference.model_directory import ModelDirectory
from streetvision.registry.decision import Check, Decision

CARD = "model_card.json"
README = "README.md"

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SS58_FORMAT = 42  # the generic Substrate prefix, which Bittensor uses


def ss58(address: str) -> str:
    """The address itself, where it is an account of Bittensor's format with a right checksum.

    Raises:
        ValueError: another alphabet, length, format or checksum.

    Source: paritytech/polkadot-sdk substrate/primitives/core/src/crypto.rs (SS58: base58 of format, 32-byte key and the
        first two bytes of blake2b-512 of `SS58PRE`, format and key).
    """
    number = 0
    for character in address:
        digit = _ALPHABET.find(character)
        if digit < 0:
            raise ValueError(f"`{address}` holds `{character}`, which no ss58 address does")
        number = number * 58 + digit
    length = 35
    if not 47 <= len(address) <= 48 or number >= 256**length:
        raise ValueError(f"`{address}` has {len(address)} characters, expected an ss58 address of 48")
    raw = number.to_bytes(length, "big")
    if raw[0] != _SS58_FORMAT:
        raise ValueError(f"`{address}` has ss58 format {raw[0]}, expected {_SS58_FORMAT}")
    if hashlib.blake2b(b"SS58PRE" + raw[:-2]).digest()[:2] != raw[-2:]:
        raise ValueError(f"`{address}` has a wrong checksum: a character is mistyped")
    return address


class ModelCard(BaseModel):
    """`model_card.json`: exactly the five keys that the subnet documents.

    Args:
        model_name: free text.
        description: free text.
        version: `X.Y.Z`.
        submitted_by: the miner's hotkey (ss58).
        submission_time: Unix seconds.

    Source: natixnetwork/streetvision-subnet docs/Mining.md @ 28a1755
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    model_name: str = Field(min_length=1, max_length=96)
    description: str = Field(min_length=1, max_length=2000)
    version: str = Field(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")
    submitted_by: Annotated[str, AfterValidator(ss58)]
    submission_time: int = Field(gt=0, lt=10**11)  # above that they are milliseconds

    @classmethod
    def make(cls, **values: str | int) -> "ModelCard":
        """The card of these values.

        Raises:
            SettingsError: a value is missing, unknown or out of its range, named in the message.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise _settings_error(err) from err

    @classmethod
    def read(cls, data: bytes) -> "ModelCard":
        """The card in a `model_card.json`.

        Raises:
            SettingsError: it is not JSON, or not exactly such a card.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as err:
            raise _settings_error(err) from err

    def encode(self) -> bytes:
        """The content of `model_card.json`."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def _settings_error(err: ValidationError) -> SettingsError:
    problem = err.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or CARD
    return SettingsError(f"model card: `{where}`: {problem['msg'].removeprefix('Value error, ')}")


def push_files(
    model_dir: Path,
    card: ModelCard,
    report: Report,
    *,
    decision: Decision | None = None,
    data_summary: Mapping[str, str | int] | None = None,
    license_id: str = "apache-2.0",
) -> dict[str, Path | bytes]:
    """Everything a push holds, by its path in the repository: the model directory, both cards and the report as JSON.

    Raises:
        ModelDirectoryError: a file of the model directory is missing or altered.
    """
    model = ModelDirectory.open(model_dir)
    readme = render_readme(
        model, card, report, decision=decision, data_summary=data_summary or {}, license_id=license_id
    )
    return {
        **{name: model_dir / name for name in ("config.json", *model.config.files)},
        "report.json": (report.model_dump_json(indent=2) + "\n").encode(),
        CARD: card.encode(),
        README: readme.encode(),
    }


def check_consistency(model_dir: Path, card: ModelCard | None = None, *, hotkey: str | None = None) -> Check:
    """Whether the model directory is what its `config.json` says and the card is of this hotkey, for the gate.

    Without a card the one that lies in the directory is looked at, if there is one, as in what was pushed.
    """
    try:
        model = ModelDirectory.open(model_dir)
        if card is None and (model_dir / CARD).exists():
            card = ModelCard.read((model_dir / CARD).read_bytes())
    except (ModelDirectoryError, SettingsError) as err:
        return Check(name="consistency", status="failed", sentence=err.message)
    except OSError as err:
        return Check(name="consistency", status="failed", sentence=f"cannot read `{CARD}`: {err.strerror or err}")
    if card is not None and hotkey is not None and card.submitted_by != hotkey:
        sentence = f"the card is submitted by `{card.submitted_by}`, expected the wallet's hotkey `{hotkey}`"
        return Check(name="consistency", status="failed", sentence=sentence)
    sentence = f"all {len(model.config.files)} files of model {model.version} are what `config.json` says"
    return Check(name="consistency", status="passed", sentence=sentence)


def render_readme(
    model: ModelDirectory,
    card: ModelCard,
    report: Report,
    *,
    decision: Decision | None = None,
    data_summary: Mapping[str, str | int] | None = None,
    license_id: str = "apache-2.0",
) -> str:
    """The model card for people: YAML front matter that the hub reads, then Markdown."""
    return _TEMPLATE.render(
        model=model,
        config=model.config,
        card=card,
        report=report,
        decision=decision,
        data_summary=data_summary or {},
        license_id=license_id,
    )


def _cell(text: object) -> str:
    """The text on one line of a Markdown table or paragraph."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|")


_ENVIRONMENT = jinja2.Environment(
    autoescape=False,  # noqa: S701 (Markdown, not HTML: `cell` and `tojson` keep values in their place)
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["cell"] = _cell  # pyright: ignore[reportUnknownMemberType]
_TEMPLATE = _ENVIRONMENT.from_string(Path(__file__).with_name("model_card.md.j2").read_text())
