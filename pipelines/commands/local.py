"""`python -m pipelines local`: runs a pipeline on this machine by kfp's local runner, cached across runs."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipelines import local, versions
from pipelines.catalogue import PIPELINES
from pipelines.parameters import check, read_settings, typed
from streetvision import atomic
from streetvision.data.source import open_source
from streetvision.errors import BusyError


def add(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("local", help="run a pipeline on this machine, without a cluster or containers")
    parser.add_argument("pipeline", choices=sorted(PIPELINES))
    parser.add_argument("--state", type=Path, default=Path(".streetvision"), help="folder of everything a run keeps")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    parser.add_argument("--outputs", type=Path, help="write the pipeline's outputs here, as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the pipeline and leaves its outputs.

    Raises:
        SettingsError: a parameter is unknown or out of range.
        BusyError: another pipeline is at work in the same folder.
    """
    signal.signal(signal.SIGTERM, _end_steps)
    pipeline = PIPELINES[arguments.pipeline]
    state: Path = arguments.state.resolve()
    given = {"source": "procedural", **read_settings(arguments.set)}
    values = typed(pipeline, given)
    check(values)
    pictures = open_source(values["source"], scenes=values["scenes"], seed=values["seed"])
    given = {
        "data_fingerprint": pictures.fingerprint(),
        "submitted_by": given.get("submitted_by") or _hotkey(state),
        "code_version": versions.code_version(),
        "git_sha": versions.git_sha(),
        "workspace": str(state),
        "tracking_uri": f"sqlite:///{state}/mlflow.db",
        "models_uri": str(state / "models"),
        "hub": f"folder:{state}/hub",
        **given,
    }
    try:
        state.mkdir(parents=True, exist_ok=True)
        with FileLock(state / "pipeline.lock", blocking=False):
            log = state / "logs" / f"{arguments.pipeline}.log"
            outputs = local.run(pipeline, typed(pipeline, given), root=state / "kfp", log=log)
    except Timeout as err:
        raise BusyError(f"another pipeline is at work in `{state}`", hint="wait for it to end") from err
    if arguments.outputs:
        atomic.write_json(arguments.outputs, outputs)
    else:
        sys.stdout.write(json.dumps(outputs, indent=2) + "\n")
    return 0


def _hotkey(state: Path) -> str:
    """Ss58 address of the folder's own hotkey."""
    from streetvision.subnet.wallet import create_hotkey  # bittensor is in no image of the pipelines

    return create_hotkey(state / "wallets", "miner", "default")


def _end_steps(*_: object) -> None:
    """Interrupts us and, where we lead a group of our own, the steps."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGINT)
    raise KeyboardInterrupt
