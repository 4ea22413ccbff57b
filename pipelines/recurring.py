"""Recurring runs as a file declares them: what differs in Kubeflow is made so, and only where it is ours."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from pipelines.api import Job, Kubeflow, Version
from pipelines.parameters import read_yaml
from streetvision.errors import SettingsError

Action = Literal["created", "replaced", "enabled", "disabled", "unchanged", "deleted"]

_MARK = re.compile(r"managed by streetvision, owner (\S+), content ([0-9a-f]{16})\Z")
_OWNER = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 6))
_CRON_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}


class Schedule(BaseModel):
    """One recurring run.

    Attributes:
        name: of it and its runs; what tells it from the file's others.
        pipeline: what it runs.
        cron: minute, hour, day of month, month, day of week, in Kubeflow's time zone.
        parameters: of its runs, over those that all have.
        enabled: whether it starts anything.
        max_concurrency: how many of its runs may be at work at a time.
        description: for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1, max_length=128)
    pipeline: str
    cron: str
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    enabled: bool = True
    max_concurrency: int = Field(default=1, ge=1, le=10)
    description: str = ""

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        seconds_first(value)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one recurring run."""

    name: str
    action: Action
    recurring_run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """A recurring run of ours as it stands in Kubeflow."""

    recurring_run_id: str
    content: str
    enabled: bool


def read_schedules(path: Path) -> list[Schedule]:
    """The recurring runs that a YAML or JSON file lists.

    Raises:
        SettingsError: the file is missing, no such list, or names one twice.
    """
    document = read_yaml(path)
    try:
        schedules = TypeAdapter(list[Schedule]).validate_python(document)
    except ValidationError as err:
        first = err.errors()[0]
        raise SettingsError(f"`{path}`, {_place(document, first['loc'])}: {first['msg']}") from err
    names = [schedule.name for schedule in schedules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"`{path}` names the recurring run `{twice[0]}` twice, expected each name once")
    return schedules


def check_owner(owner: str) -> str:
    """The owner, who has a name like a Helm release's.

    Raises:
        SettingsError: it is no such name.
    """
    if not _OWNER.match(owner):
        raise SettingsError(f"owner is `{owner}`, expected lower case letters, digits, `-` and `.`")
    return owner


def seconds_first(cron: str) -> str:
    """Five-field cron as Kubeflow reads it, with a sixth field for seconds in front.

    Raises:
        ValueError: it has not five fields, or one is out of its range.
    """
    fields = cron.split()
    if len(fields) != len(_CRON_FIELDS):
        known = ", ".join(name for name, _, _ in _CRON_FIELDS)
        raise ValueError(
            f"cron `{cron}` has {len(fields)} fields, expected 5 ({known}): the seconds that Kubeflow wants are put in "
            "front here"
        )
    for field, (name, low, high) in zip(fields, _CRON_FIELDS, strict=True):
        if not all(_fits(part, name, low, high) for part in field.split(",")):
            raise ValueError(f"cron `{cron}`: the {name} is `{field}`, expected {low} to {high}, `*`, `a-b` or `*/n`")
    return f"0 {' '.join(fields)}"


def reconcile(
    api: Kubeflow, schedules: Sequence[Schedule], jobs: Mapping[str, Job], *, owner: str, told: Callable[[Change], None]
) -> None:
    """Makes Kubeflow's recurring runs of this owner those that are listed; others are left alone.

    One that differs is replaced, because Kubeflow keeps a compiled copy of what it runs: the new one is there before
    the old one goes, so that a failure in between leaves no gap, and the next reconciliation clears up.

    Args:
        api: of Kubeflow.
        schedules: all that the owner wants.
        jobs: what each of them starts, by its name.
        owner: whose recurring runs these are.
        told: takes each change as soon as it is made.

    Raises:
        KubeflowError: the API refused or went out of reach; what was told before is done.
    """
    standing = _standing(api, owner)
    for schedule in schedules:
        told(_settle(api, schedule, jobs[schedule.name], owner, standing.pop(schedule.name, [])))
    for name, gone in standing.items():
        for one in gone:
            api.delete_recurring_run(one.recurring_run_id)
            told(Change(name=name, action="deleted", recurring_run_id=one.recurring_run_id))


def _settle(api: Kubeflow, schedule: Schedule, job: Job, owner: str, standing: list[_Standing]) -> Change:
    content = _content(schedule, job)
    same = next((one for one in standing if one.content == content), None)
    action: Action = "unchanged"
    if same is None:
        recurring_run_id = api.create_recurring_run(
            job,
            name=schedule.name,
            description=f"{schedule.description}\n\nmanaged by streetvision, owner {owner}, content {content}".lstrip(),
            cron=seconds_first(schedule.cron),
            enabled=schedule.enabled,
            max_concurrency=schedule.max_concurrency,
        )
        action = "replaced" if standing else "created"
    else:
        recurring_run_id = same.recurring_run_id
        if same.enabled != schedule.enabled:
            api.switch_recurring_run(recurring_run_id, on=schedule.enabled)
            action = "enabled" if schedule.enabled else "disabled"
    for one in standing:
        if one is not same:
            api.delete_recurring_run(one.recurring_run_id)
    return Change(name=schedule.name, action=action, recurring_run_id=recurring_run_id)


def _standing(api: Kubeflow, owner: str) -> dict[str, list[_Standing]]:
    ours: dict[str, list[_Standing]] = defaultdict(list)
    for one in api.recurring_runs():
        mark = _MARK.search(one.description or "")
        if mark and mark[1] == owner:
            ours[one.display_name].append(
                _Standing(recurring_run_id=one.recurring_run_id, content=mark[2], enabled=str(one.status) == "ENABLED")
            )
    return dict(ours)


def _content(schedule: Schedule, job: Job) -> str:
    """Changes whenever a recurring run has to be made anew: all but whether it is enabled."""
    values = schedule.model_dump(exclude={"enabled"}) | asdict(job) | {"version": _identity(job.version)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _identity(version: Version) -> list[str]:
    return [version.pipeline_id, version.version_id, version.version]


def _fits(part: str, name: str, low: int, high: int) -> bool:
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return False
    if span in ("*", "?"):
        return True
    names = {text: low + at for at, text in enumerate(_CRON_NAMES.get(name, ()))}
    ends = [names.get(end.lower(), int(end) if end.isdecimal() else -1) for end in span.split("-")]
    return len(ends) <= 2 and low <= ends[0] <= ends[-1] <= high


def _place(document: Any, location: tuple[int | str, ...]) -> str:
    """Where in the file, in words: `recurring run `nightly`, `cron``."""
    if not location:
        return "the whole file"
    entry: Any = cast(list[Any], document)[int(location[0])]
    named = cast(dict[str, Any], entry).get("name") if isinstance(entry, dict) else None
    inner = "".join(f", `{part}`" for part in location[1:])
    return (f"recurring run `{named}`" if named else f"recurring run number {int(location[0]) + 1}") + inner
