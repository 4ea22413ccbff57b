"""`python -m pipelines schedule`: makes Kubeflow's recurring runs those that a file lists."""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.api import Job, Kubeflow
from pipelines.catalogue import PIPELINES, packages
from pipelines.commands.options import Output, add_connection, add_option, add_runs, connection, given_parameters
from pipelines.parameters import complete
from pipelines.recurring import Change, check_owner, read_schedules, reconcile
from streetvision.errors import SettingsError


def add(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "schedule",
        help="make Kubeflow's recurring runs those that a file lists",
        description="Creates what is missing, replaces what differs, deletes what is no longer listed, and touches "
        "nothing that another owner made. The file is a list in YAML or JSON of: name, pipeline, cron (5 fields), "
        "and where wanted parameters, enabled, max_concurrency, description.",
    )
    parser.add_argument("file", type=Path, help="the list; an empty one ends all recurring runs of the owner")
    add_option(parser, "owner", "whose recurring runs these are", default="streetvision")
    add_runs(parser)
    add_connection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Makes the recurring runs those of the file; everything is checked before anything is changed.

    Raises:
        SettingsError: the file, an option or a parameter cannot be used.
        KubeflowError: the API refused, or is out of reach.
    """
    output, given = Output(arguments.json), given_parameters(arguments)
    owner, schedules = check_owner(arguments.owner), read_schedules(arguments.file)
    parameters: dict[str, dict[str, Any]] = {}
    for schedule in schedules:
        if schedule.pipeline not in PIPELINES:
            known = ", ".join(f"`{name}`" for name in sorted(PIPELINES))
            raise SettingsError(
                f"recurring run `{schedule.name}` has the pipeline `{schedule.pipeline}`, expected {known}"
            )
        try:
            parameters[schedule.name] = complete(PIPELINES[schedule.pipeline], given(schedule.parameters))
        except SettingsError as err:
            raise SettingsError(f"recurring run `{schedule.name}`: {err.message}", hint=err.hint) from err
    with tempfile.TemporaryDirectory() as folder:
        ready = packages(Path(folder))
        api = Kubeflow(connection(arguments))
        versions = {name: api.upload(ready[name]) for name in sorted({schedule.pipeline for schedule in schedules})}
    jobs = {
        schedule.name: Job(
            version=versions[schedule.pipeline],
            parameters=parameters[schedule.name],
            experiment=arguments.experiment,
            service_account=arguments.service_account,
            pipeline_root=arguments.pipeline_root,
        )
        for schedule in schedules
    }
    changes: list[Change] = []

    def told(change: Change) -> None:
        changes.append(change)
        output.say(f"{change.name}: {change.action}")

    reconcile(api, schedules, jobs, owner=owner, told=told)
    output.result([asdict(change) for change in changes])
    return 0
