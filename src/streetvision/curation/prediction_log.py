"""The prediction log: the records that the miner writes, and the one row that they make of a challenge."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streetvision.errors import DataError
from streetvision.subnet.regimes import NO_ANSWER


class Challenge(BaseModel):
    """What is known of a challenge when it is accepted."""

    # A miner that is newer than its reader may say more.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    request_id: str
    received_at: AwareDatetime
    validator: str
    """Hotkey of the caller."""
    uid: int
    """Its place on the subnet."""
    route: str
    wire: str
    """Format of the signature, `legacy` or `btauth/1`."""
    unauthenticated_body: bool
    """Whether the picture may have been swapped on its way; never train on it unreviewed."""
    image_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    image_bytes: int
    replica: str
    """Which miner it was."""


class AcceptRecord(Challenge):
    """A challenge that was accepted; written while the predictor works on it."""

    kind: Literal["accept"] = "accept"


class OutcomeRecord(BaseModel):
    """What was answered."""

    model_config = Challenge.model_config

    kind: Literal["outcome"] = "outcome"
    request_id: str
    finished_at: AwareDatetime
    prediction: float
    """P(roadwork) as it was sent, or -1 for no answer."""
    answered_by: str
    reason: str
    """Why there is no answer, empty where there is one."""
    model_version: str
    latency_ms: float
    parts_ms: dict[str, float]


class ShadowRecord(BaseModel):
    """What a challenger would have answered."""

    model_config = Challenge.model_config

    kind: Literal["shadow"] = "shadow"
    request_id: str
    finished_at: AwareDatetime
    probability: float
    model_version: str
    latency_ms: float


Record = AcceptRecord | OutcomeRecord | ShadowRecord

_LINE: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


class Row(Challenge):
    """One accepted challenge and what became of it; what is not known is null or an empty text."""

    outcome: Literal["answered", "abstained", "unknown"]
    """`unknown` where the miner died in between, or where what it wrote last is lost."""
    finished_at: AwareDatetime | None = None
    prediction: float | None = None
    answered_by: str = ""
    reason: str = ""
    model_version: str = ""
    latency_ms: float | None = None
    parts_ms: dict[str, float] = Field(default_factory=dict)
    shadow_probability: float | None = None
    shadow_model_version: str = ""
    shadow_latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The rows of a prediction log, and what could not become one.

    Attributes:
        rows: by the time at which the challenge was received.
        orphans: requests whose end is known and whose acceptance is lost.
        torn_lines: lines that are no record; a miner that dies may leave one a segment.
    """

    rows: tuple[Row, ...]
    orphans: int
    torn_lines: int

    @classmethod
    def of(cls, segments: Iterable[bytes]) -> Self:
        """The log that segments of JSON lines hold, in whatever order and however often they are given."""
        records: list[Record] = []
        torn_lines = 0
        for segment in segments:
            found, torn = parse(segment)
            records += found
            torn_lines += torn
        rows, orphans = merge(records)
        return cls(rows=rows, orphans=orphans, torn_lines=torn_lines)


def parse(segment: bytes) -> tuple[list[Record], int]:
    """The records of one segment of JSON lines, and how many of its lines are none."""
    records: list[Record] = []
    torn_lines = 0
    for line in segment.split(b"\n"):
        if line:
            try:
                records.append(_LINE.validate_json(line))
            except ValidationError:
                torn_lines += 1
    return records, torn_lines


def merge(records: Iterable[Record]) -> tuple[tuple[Row, ...], int]:
    """One row for every challenge accepted, and the number of requests of which only the end is known.

    Records may come in any order and more than once: of several of a kind for one request the earliest counts.
    """
    accepts: dict[str, AcceptRecord] = {}
    outcomes: dict[str, OutcomeRecord] = {}
    shadows: dict[str, ShadowRecord] = {}
    for record in records:
        key = record.request_id
        match record:
            case AcceptRecord():
                accepts[key] = min(accepts.get(key, record), record, key=lambda accept: accept.received_at)
            case OutcomeRecord():
                outcomes[key] = min(outcomes.get(key, record), record, key=lambda outcome: outcome.finished_at)
            case ShadowRecord():
                shadows[key] = min(shadows.get(key, record), record, key=lambda shadow: shadow.finished_at)
    rows = [_row(accept, outcomes.get(key), shadows.get(key)) for key, accept in accepts.items()]
    rows.sort(key=lambda row: (row.received_at, row.request_id))
    return tuple(rows), len((outcomes.keys() | shadows.keys()) - accepts.keys())


def segment_files(folder: Path) -> list[Path]:
    """The segments below a folder, as a miner spools them or as they lie in its bucket, by name.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"`{folder}` is no folder, expected one with segments of a prediction log")
    return sorted(folder.rglob("*.jsonl"))


def read_log(files: Iterable[Path]) -> Log:
    """The log that segments make, in whatever order and however often they are given.

    Raises:
        DataError: one cannot be read.
    """
    return Log.of(_read(file) for file in files)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        raise DataError(f"segment `{file}` cannot be read: {err.strerror or err}") from err


def _row(accept: AcceptRecord, outcome: OutcomeRecord | None, shadow: ShadowRecord | None) -> Row:
    values = accept.model_dump(exclude={"kind"}) | {"outcome": "unknown"}
    if outcome is not None:
        values |= outcome.model_dump(exclude={"kind"})
        values["outcome"] = "abstained" if outcome.prediction == NO_ANSWER else "answered"
    if shadow is not None:
        said = shadow.model_dump(include={"probability", "model_version", "latency_ms"})
        values |= {f"shadow_{name}": value for name, value in said.items()}
    return Row.model_validate(values)
