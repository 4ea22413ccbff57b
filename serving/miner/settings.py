"""The miner's settings, read from `STREETVISION_MINER_*`, and from one file that may change while it runs."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    RedisDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    WebsocketUrl,
    model_validator,
)
from pydantic_core import ErrorDetails

from serving.miner.files import read_regular
from serving.miner.http_server import Limits
from serving.miner.nonces import kept_nonces
from serving.miner.verification import CallerPolicy
from streetvision.errors import SettingsError

PREFIX = "STREETVISION_MINER_"
MIB = 1024 * 1024

Port = Annotated[int, Field(ge=0, le=65535)]
Url = Annotated[str, AfterValidator(lambda text: str(TypeAdapter(HttpUrl).validate_python(text)).rstrip("/"))]
NodeUrl = Annotated[str, AfterValidator(lambda text: str(TypeAdapter(WebsocketUrl).validate_python(text)).rstrip("/"))]


def _listed(value: object) -> object:
    """A variable of the environment holds a list with commas in between."""
    return [part for part in map(str.strip, value.split(",")) if part] if isinstance(value, str) else value


def _redis_url(url: SecretStr) -> SecretStr:
    try:
        TypeAdapter(RedisDsn).validate_python(url.get_secret_value())
    except ValidationError:  # which would quote it, and there may be a password in it
        raise ValueError("no address of a Redis server, expected `redis://host:6379/0`") from None
    return url


class Settings(BaseModel):
    """Everything one miner process is told; the wallet, the network and the predictor have no default.

    What `reloaded` says can change takes effect while the miner runs, when it comes from the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    settings_file: Path | None = None
    """JSON object of further settings, their names in lower case and without the prefix."""
    wallet_path: Path
    """Folder of the wallets, as `~/.bittensor/wallets`; there must be no coldkey in it."""
    wallet_name: str = Field(min_length=1)
    """Folder of the wallet in there."""
    hotkey_name: str = Field(min_length=1)
    """File of the hotkey in the wallet's folder `hotkeys`."""
    network: Literal["mock", "test", "finney"]
    """Where validators come from: a chain, or a file."""
    metagraph_file: Path | None = None
    """JSON list of {uid, hotkey, stake, permit, ip, port}; for the network `mock`."""
    netuid: int | None = Field(default=None, ge=0, le=65535)
    """Number of the subnet; 72 on `finney` and 323 on `test` where it is not given."""
    chain_endpoints: Annotated[tuple[NodeUrl, ...], BeforeValidator(_listed)] = ()
    """Nodes in the order they are asked in, as `wss://my-node:9944`, commas between; the public one where none is."""
    chain_deadline_s: float = Field(default=30.0, gt=0)
    """Of one question to one node."""
    sync_interval_s: float = Field(default=1200.0, ge=60)
    """Between two looks at the neurons."""
    metagraph_cache: Path | None = None
    """Where the neurons outlive a restart."""
    announce: bool = True
    """Whether the chain is told where validators shall call, when it says something else."""
    announce_ip: str | None = None
    """The address for that; the one that the internet sees where it is not given."""
    announce_port: int | None = Field(default=None, ge=1, le=65535)
    """The port for that; `port` where it is not given."""
    guarded_paths: Annotated[tuple[Path, ...], BeforeValidator(_listed)] = ()
    """What else is searched for coldkeys and mnemonics: every volume that is mounted, but not what callers sent."""
    predictor_url: Url
    """Base of the predictor's REST address, as in `http://127.0.0.1:8080`."""
    fallback_url: Url | None = None
    """Of a second predictor, asked where the first has no answer."""
    shadow_url: Url | None = None
    """Of a challenger, which is shown what was answered; what it says goes to the prediction log."""
    model_name: str = Field(default="roadwork", pattern=r"^[A-Za-z0-9._-]+$")
    """As the predictors call it."""
    host: str = "0.0.0.0"  # noqa: S104 - validators call from anywhere
    """Address where challenges are taken."""
    port: Port = 8091
    """Port where challenges are taken."""
    metrics_host: str = "127.0.0.1"
    """Address of the operator's port: `/metrics`, `/health/live`, `/health/ready`."""
    metrics_port: Port = 9091
    """The operator's port."""
    regime: Literal["R0", "R1", "R2", "R3"] = "R1"
    """Rules of the subnet; in R3 pictures come at their own size."""
    body_limit_bytes: int | None = Field(default=None, ge=1024)
    """Of a body whose caller may ask; by the regime where it is not given."""
    bodies_limit_bytes: int = Field(default=64 * MIB, ge=MIB)
    """Of all bodies in flight together."""
    head_timeout_s: float = Field(default=5.0, gt=0)
    """Until the headers of a request are complete."""
    body_timeout_s: float = Field(default=5.0, gt=0)
    """Until its body is, headers included."""
    idle_timeout_s: float = Field(default=30.0, gt=0)
    """Until a connection without a request is closed."""
    connections: int = Field(default=1024, ge=1)
    """Of all callers together."""
    connections_per_address: int = Field(default=64, ge=0)
    """Of one address; 0 for no limit, as behind a load balancer that hides its callers."""
    answer_deadline_s: float = Field(default=8.5, gt=0, le=9.0)
    """From the arrival of a challenge; the validator hangs up at 9 s."""
    drain_s: float = Field(default=0.0, ge=0)
    """How long connections are still accepted after readiness is gone, for a load balancer to notice."""
    require_permit: bool = True
    """Whether only callers with a validator permit are answered."""
    minimum_stake: float = Field(default=0.0, ge=0)
    """In alpha, of a caller who is answered."""
    nonce_file: Path | None = None
    """Where nonces outlive a restart."""
    spool_folder: Path | None = None
    """Where the prediction log waits for its upload; without one nothing is written down."""
    spool_limit_bytes: int = Field(default=1024 * MIB, ge=32 * MIB)
    """Above which its oldest part is dropped unsent."""
    replica: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """Which miner this is in the prediction log; the name of its machine where it is empty."""
    bucket: str | None = Field(default=None, min_length=1)
    """Where the prediction log goes; its keys are those that boto3 finds."""
    bucket_prefix: str = ""
    """Of its objects' names there."""
    s3_endpoint_url: Url | None = None
    """Of an S3 server that is not Amazon's."""
    nonce_server: Annotated[SecretStr, AfterValidator(_redis_url)] | None = None
    """Address of a Redis server where replicas share nonces."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """At debug every answer and every refusal is a line."""

    @model_validator(mode="after")
    def _network_is_usable(self) -> Self:
        if self.network == "mock" and self.metagraph_file is None:
            raise ValueError(f"network `mock` needs `{PREFIX}METAGRAPH_FILE`")
        if self.network != "mock" and self.metagraph_file is not None:
            raise ValueError(f"`{PREFIX}METAGRAPH_FILE` is for the network `mock`, here it is `{self.network}`")
        return self

    @model_validator(mode="after")
    def _log_has_a_place(self) -> Self:
        for name in ("shadow_url", "bucket"):
            if getattr(self, name) and self.spool_folder is None:
                raise ValueError(f"`{PREFIX}{name.upper()}` needs `{PREFIX}SPOOL_FOLDER`, where the prediction log is")
        return self

    @property
    def written_for_callers(self) -> list[Path]:
        """Files and folders of ours whose content others choose."""
        nonces = [] if self.nonce_file is None else kept_nonces(self.nonce_file)
        return [path for path in (self.spool_folder, self.metagraph_cache, *nonces) if path is not None]

    @property
    def log_level_number(self) -> int:
        """The level as `logging` counts it."""
        return logging.getLevelNamesMapping()[self.log_level.upper()]

    @property
    def largest_body_bytes(self) -> int:
        """What a body may have whose caller may ask."""
        return self.body_limit_bytes or (4 if self.regime == "R3" else 2) * MIB

    @property
    def limits(self) -> Limits:
        """What callers may take."""
        return Limits(
            head_timeout_s=self.head_timeout_s,
            body_timeout_s=self.body_timeout_s,
            idle_timeout_s=self.idle_timeout_s,
            connections=self.connections,
            connections_per_address=self.connections_per_address,
            bodies_bytes=self.bodies_limit_bytes,
            unproven_bytes=self.bodies_limit_bytes // 4,
        )

    @property
    def policy(self) -> CallerPolicy:
        """Who is answered."""
        return CallerPolicy(require_permit=self.require_permit, minimum_stake=self.minimum_stake)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The settings of the variables that begin with `STREETVISION_MINER_`, and of the file that one may name.

        Raises:
            SettingsError: one is unknown, missing, unusable or given twice; every one of them is named.
        """
        values: dict[str, Any] = {
            name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)
        }
        if file := values.get("settings_file"):
            more = _read(Path(file))
            if twice := sorted(values.keys() & more.keys()):
                raise SettingsError(
                    f"`{twice[0]}` is given by `{PREFIX}{twice[0].upper()}` and by `{file}`, expected one of them"
                )
            values |= more
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise SettingsError("; ".join(_sentence(error) for error in err.errors())) from err

    @classmethod
    def help(cls) -> str:
        """Every variable with its default and what it means, a line or two each."""
        lines: list[str] = []
        for name, field in cls.model_fields.items():
            default = " [required]" if field.is_required() else f" [{_shown(field.default)}]"
            live = ", may change while it runs" if name in _LIVE else ""
            lines.append(f"{PREFIX}{name.upper()}{default}{live}")
            if field.description:
                lines.append(f"    {field.description}")
        return "\n".join(lines)

    def reloaded(self, other: Self) -> tuple[set[str], set[str]]:
        """Names of what differs in `other`: what may change while the miner runs, and what waits for a restart."""
        changed = {name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)}
        return changed & _LIVE, changed - _LIVE


_LIVE = {
    *("wallet_path", "wallet_name", "hotkey_name"),
    "predictor_url",
    *("require_permit", "minimum_stake", "regime", "body_limit_bytes", "bodies_limit_bytes", "answer_deadline_s"),
    *("head_timeout_s", "body_timeout_s", "idle_timeout_s", "connections", "connections_per_address", "log_level"),
}


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default is None or default in ((), "") else str(default)


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(file))
    except OSError as err:
        raise SettingsError(f"settings file `{file}` cannot be read: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise SettingsError(f"settings file `{file}` is no JSON: {err}") from err
    if not isinstance(value, dict):
        raise SettingsError(f"settings file `{file}` holds no JSON object, expected names and values")
    return cast(dict[str, Any], value)


def _sentence(error: ErrorDetails) -> str:
    setting = str(error["loc"][0]) if error["loc"] else ""
    name = f"`{PREFIX}{setting.upper()}`"
    reason = error["msg"].removeprefix("Value error, ")
    match error["type"]:
        case "extra_forbidden":
            return f"{name} is no setting of the miner"
        case "missing":
            return f"{name} is not set"
        case _ if not setting:
            return reason
        case _ if setting == "nonce_server":  # a secret
            return f"{name}: {reason}"
        case _:
            return f"{name} is `{error['input']}`: {reason}"
