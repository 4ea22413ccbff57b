"""`python -m pipelines compile | local`: write the compiled pipelines, or run one on this machine."""

import argparse
import filecmp
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from kfp import compiler

from pipelines import local, versions
from pipelines.retrain import retrain
from streetvision import atomic
from streetvision.data.source import open_source
from streetvision.errors import BusyError, SettingsError, StreetvisionError
from streetvision.models.presets import PRESETS
from streetvision.subnet.wallet import create_hotkey

PIPELINES: dict[str, Any] = {"retrain": retrain}
COMPILED = Path(__file__).parent / "compiled"


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 well, 1 stale or failed, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    compiling = commands.add_parser("compile", help="write pipelines/compiled/*.yaml")
    compiling.add_argument("--check", action="store_true", help="write nothing; exit 1 where a committed file is stale")

    here = commands.add_parser("local", help="run a pipeline on this machine by kfp's local runner, cached across runs")
    here.add_argument("pipeline", choices=sorted(PIPELINES))
    here.add_argument("--state", type=Path, default=Path(".streetvision"), help="folder of everything a run keeps")
    here.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    here.add_argument("--outputs", type=Path, help="write the pipeline's outputs here, as JSON")

    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "compile":
            return _compile(check=arguments.check)
        signal.signal(signal.SIGTERM, _end_steps)
        return _local(arguments)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2 if isinstance(err, ValueError) else 1
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, the next run goes on from there", file=sys.stderr)
        return 130


def _compile(*, check: bool) -> int:
    stale: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, pipeline in PIPELINES.items():
            fresh = Path(folder, f"{name}.yaml")
            compiler.Compiler().compile(pipeline, str(fresh))
            committed = COMPILED / fresh.name
            if check and not (committed.is_file() and filecmp.cmp(fresh, committed, shallow=False)):
                stale.append(name)
            elif not check:
                atomic.write_bytes(committed, fresh.read_bytes())
                print(committed)
    for name in stale:
        print(f"`{COMPILED.name}/{name}.yaml` is stale: run `make compile`", file=sys.stderr)
    return 1 if stale else 0


def _local(arguments: argparse.Namespace) -> int:
    pipeline = PIPELINES[arguments.pipeline]
    state: Path = arguments.state.resolve()
    given = {"source": "procedural", **dict(_parameter(text) for text in arguments.set)}
    typed = _typed(pipeline, given)
    _check(typed)
    pictures = open_source(given["source"], scenes=typed["scenes"], seed=typed["seed"])
    given = {
        "data_fingerprint": pictures.fingerprint(),
        "submitted_by": create_hotkey(state / "wallets", "miner", "default"),
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
            outputs = local.run(pipeline, _typed(pipeline, given), root=state / "kfp", log=log)
    except Timeout as err:
        raise BusyError(f"another pipeline is at work in `{state}`", hint="wait for it to end") from err
    if arguments.outputs:
        atomic.write_json(arguments.outputs, outputs)
    else:
        print(json.dumps(outputs, indent=2))
    return 0


def _check(parameters: dict[str, Any]) -> None:
    """Refuses at once what a step would refuse minutes later."""
    if parameters["preset"] not in PRESETS:
        known = ", ".join(f"`{name}`" for name in PRESETS)
        raise SettingsError(f"preset is `{parameters['preset']}`, expected one of {known}")
    for name, least in (("views", 1), ("scenes", 1), ("challenges", 101), ("seed", 0)):
        if parameters[name] < least:
            raise SettingsError(f"parameter `{name}` is {parameters[name]}, expected at least {least}")


def _end_steps(*_: object) -> None:
    """Interrupts us and, where we lead a group of our own, the steps."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGINT)
    raise KeyboardInterrupt


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"`--set {text}` has no `=`, expected NAME=VALUE")
    return name, value


def _typed(pipeline: Any, given: dict[str, str]) -> dict[str, Any]:
    """The arguments in the types that the pipeline declares, defaults filled in."""
    declared = pipeline.component_spec.inputs
    if unknown := sorted(set(given) - set(declared)):
        raise SettingsError(
            f"pipeline has no parameter `{unknown[0]}`, expected one of {', '.join(f'`{name}`' for name in declared)}"
        )
    convert: dict[str, Callable[[str], Any]] = {"Integer": int, "Float": float}
    typed = {name: specification.default for name, specification in declared.items() if specification.optional}
    for name, value in given.items():
        try:
            typed[name] = convert.get(declared[name].type, str)(value)
        except ValueError as err:
            raise SettingsError(f"parameter `{name}` is `{value}`, expected {declared[name].type}") from err
    return typed


if __name__ == "__main__":
    sys.exit(main())
