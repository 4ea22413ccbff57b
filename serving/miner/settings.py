"""The miner's settings, read from `STREETVISION_MINER_*` and nowhere else."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from streetvision.errors import SettingsError

PREFIX = "STREETVISION_MINER_"

Port = Annotated[int, Field(ge=0, le=65535)]
Url = Annotated[str, AfterValidator(lambda text: str(TypeAdapter(HttpUrl).validate_python(text)).rstrip("/"))]


class Settings(BaseModel):
    """Everything one miner process is told; the wallet, the network and the predictor have no default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wallet_path: Path
    wallet_name: str = Field(min_length=1)
    hotkey_name: str = Field(min_length=1)
    network: Literal["mock", "test", "finney"]
    metagraph_file: Path | None = None
    """JSON list of {uid, hotkey, stake, permit, ip, port}; for the network `mock`."""
    predictor_url: Url
    """Base of the predictor's REST address, as in `http://127.0.0.1:8080`."""
    model_name: str = Field(default="roadwork", pattern=r"^[A-Za-z0-9._-]+$")
    host: str = "0.0.0.0"  # noqa: S104 - validators call from anywhere
    port: Port = 8091
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 9091
    body_limit_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    body_timeout_s: float = Field(default=5.0, gt=0)
    answer_deadline_s: float = Field(default=8.5, gt=0, le=9.0)
    """From the arrival of a challenge; the validator hangs up at 9 s."""
    require_permit: bool = True
    minimum_stake: float = Field(default=0.0, ge=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _network_is_usable(self) -> Self:
        if self.network != "mock":
            raise ValueError(f"network `{self.network}` is not served yet, expected `mock`")
        if self.metagraph_file is None:
            raise ValueError(f"network `mock` needs `{PREFIX}METAGRAPH_FILE`")
        return self

    @property
    def log_level_number(self) -> int:
        """The level as `logging` counts it."""
        return logging.getLevelNamesMapping()[self.log_level.upper()]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The settings of the variables that begin with `STREETVISION_MINER_`.

        Raises:
            SettingsError: a variable is unknown, missing or unusable; every one of them is named.
        """
        values = {
            name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise SettingsError("; ".join(_sentence(error) for error in err.errors())) from err


def _sentence(error: ErrorDetails) -> str:
    name = f"`{PREFIX}{str(error['loc'][0]).upper()}`" if error["loc"] else ""
    match error["type"]:
        case "extra_forbidden":
            return f"{name} is no setting of the miner"
        case "missing":
            return f"{name} is not set"
        case _:
            reason = error["msg"].removeprefix("Value error, ")
            return f"{name} is `{error['input']}`: {reason}" if name else reason
