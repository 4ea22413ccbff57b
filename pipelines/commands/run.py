"""`python -m pipelines run`: starts a pipeline in Kubeflow and, with `--watch`, tells what becomes of it."""

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from pipelines.api import Job, Kubeflow
from pipelines.catalogue import PIPELINES, packages
from pipelines.commands.options import Output, add_connection, add_runs, connection, given_parameters, seconds
from pipelines.parameters import complete
from pipelines.pods import Pods, PodsError
from pipelines.watch import Watch, steps_of

POLL_S = 5.0


def add(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "run",
        help="start a pipeline in Kubeflow",
        description="Uploads the pipeline where it is not there yet, and starts it. "
        "Exit codes: 0 started (with --watch: SUCCEEDED), 1 the run ended otherwise, 2 bad input, "
        "3 Kubeflow is out of reach or refuses us, or --watch-timeout-s has passed.",
    )
    parser.add_argument("pipeline", choices=sorted(PIPELINES))
    parser.add_argument("--name", help="of the run; without, the pipeline's and the time")
    parser.add_argument("--watch", action="store_true", help="tell steps as they change and why one fails, to the end")
    parser.add_argument("--watch-timeout-s", default="86400", metavar="N", help="when --watch gives up (86400)")
    add_runs(parser)
    add_connection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Starts the run; with `--watch` its end is the exit code.

    Raises:
        SettingsError: an option or parameter cannot be used.
        KubeflowError: the API refused, or is out of reach.
    """
    output, timeout_s = Output(arguments.json), seconds("--watch-timeout-s", arguments.watch_timeout_s)
    parameters = complete(PIPELINES[arguments.pipeline], given_parameters(arguments)({}))
    name = arguments.name or f"{arguments.pipeline} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    with tempfile.TemporaryDirectory() as folder:
        package = packages(Path(folder))[arguments.pipeline]
        steps = steps_of(next(yaml.safe_load_all(package.path.read_text())))
        api = Kubeflow(connection(arguments))
        version = api.upload(package)
    job = Job(
        version=version,
        parameters=parameters,
        experiment=arguments.experiment,
        service_account=arguments.service_account,
        pipeline_root=arguments.pipeline_root,
    )
    run_id = api.start(job, name=name)
    output.say(f"{name}: started as {run_id}, {api.url(run_id)}")
    state = None
    if arguments.watch:
        watch = Watch(api, run_id, steps=steps, pods=_pods(arguments.namespace, output), say=output.say)
        try:
            state = watch.until_end(timeout_s=timeout_s, poll_s=POLL_S)
        except KeyboardInterrupt:
            output.say(f"no longer watched: the run {run_id} goes on in Kubeflow")
            return 130
        output.say(f"{name}: {state or f'still at work after {timeout_s:.0f} s'}")
    output.result(
        {
            "run_id": run_id,
            "name": name,
            "pipeline": arguments.pipeline,
            "version": version.version,
            "state": state,
            "url": api.url(run_id),
        }
    )
    if not arguments.watch:
        return 0
    return 3 if state is None else int(state != "SUCCEEDED")


def _pods(namespace: str, output: Output) -> Pods | None:
    try:
        return Pods(namespace)
    except PodsError as err:
        output.say(f"logs of steps cannot be shown: {err}")
        return None
