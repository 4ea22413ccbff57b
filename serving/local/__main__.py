"""`python -m serving.local run | up | reload | down | status`: the main job on one machine, and a stack that stays."""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from serving.local import processes
from serving.local.processes import ServerError
from serving.local.stack import HOTKEY, VALIDATOR, Stack, await_predictor, mlflow_server, serve, start_predictor
from serving.local.state import State
from serving.local.summary import summarise, text
from streetvision import atomic
from streetvision.assessment import newest_answers
from streetvision.challenge_set import ChallengeSet
from streetvision.data.manifest import Manifest
from streetvision.data.source import open_source
from streetvision.errors import BusyError, EvidenceError, RolloutError, SettingsError, StreetvisionError
from streetvision.inference.model_directory import ModelDirectory
from streetvision.predictions import write_predictions
from streetvision.progress import Progress
from streetvision.report.simulation import write_simulation_report
from streetvision.simulation import Event, Miner, SimulationResult, compare, simulate
from streetvision.subnet.wallet import load_keypair


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 well, 1 failed, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    state = State(arguments.state.resolve())
    try:
        match arguments.command:
            case "run":
                with state.locked():
                    return run(state, arguments)
            case "up":
                with state.locked():
                    return up(state, arguments)
            case "down":
                with state.locked():
                    return down(state)
            case "reload":
                with state.locked():
                    return reload(state, as_json=arguments.json)
            case _:
                return status(state, as_json=arguments.json)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2 if isinstance(err, ValueError) else 1
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is left running, and the next run goes on from what is finished", file=sys.stderr)
        return 130


def run(state: State, arguments: argparse.Namespace) -> int:
    """The main job: the pipeline, then its champion behind a miner that a simulated validator asks."""
    begun = time.monotonic()
    code, pipeline = _pipeline(state, arguments)
    if code:
        return code
    receipt = json.loads(Path(pipeline["receipt"]).read_text())
    served = receipt["champion"] or receipt["challenger"]
    atomic.write_bytes(state.report, Path(pipeline["report"]).read_bytes())
    challenge_set = ChallengeSet.read(Path(pipeline["challenge_set"]))
    _say(f"starting predictor and miner edge over model {served['sha256'][:12]}")
    with ExitStack() as stopping:
        stack = serve(state, Path(served["path"]), stopping, stay=False)
        _say(f"a simulated validator sends {arguments.challenges} signed challenges to {stack.miner_url}")
        simulation = _simulate(state, stack, challenge_set, count=arguments.challenges)
    comparison = compare(simulation, newest_answers(state.root, challenge_set, served["sha256"]))
    write_simulation_report(state.simulation, simulation, comparison=comparison)
    seconds = time.monotonic() - begun
    pictures = Manifest.read(Path(pipeline["manifest"]))
    summary = summarise(state, pipeline, receipt, pictures, challenge_set, simulation, comparison, seconds=seconds)
    atomic.write_json(state.summary, summary)
    _say(text(state, summary))
    return 0


def up(state: State, arguments: argparse.Namespace) -> int:
    """Leaves the served champion, its miner edge and the MLflow UI running, written down in `state.json`."""
    if any(server.running for server in state.servers()):
        raise BusyError(f"it is up already: `{state.file}`", hint="`make status` shows it, `make down` stops it")
    model_dir = _champion(state)
    if model_dir is None:
        if code := run(state, arguments):
            return code
        model_dir = Path(state.read_summary()["served"]["path"])
    images = Path(state.read_summary()["challenge_set"])
    predictions = _predictions(state, model_dir, images)
    with ExitStack() as stopping:
        stack = serve(state, model_dir, stopping, stay=True)
        mlflow, mlflow_url = mlflow_server(state, stopping)
        content = {
            "predictor": {
                "url": stack.predictor_url,
                "grpc": stack.predictor_grpc,
                "pid": stack.predictor.pid,
                "model": "roadwork",
            },
            "miner": {
                "url": stack.miner_url,
                "pid": stack.miner.pid,
                "hotkey": stack.miner_hotkey,
                "metrics_url": stack.metrics_url,
            },
            "validator": {"wallet_path": str(state.wallets), "wallet_name": VALIDATOR, "hotkey_name": HOTKEY},
            "mlflow": {"url": mlflow_url, "pid": mlflow.pid},
            "model_dir": str(model_dir),
            "images": str(images),
            "predictions": str(predictions) if predictions else None,
        }
        atomic.write_json(state.file, content)
        stopping.pop_all()  # all is well: nothing is stopped
    status(state, as_json=False)
    print("\ntry   .venv/bin/streetvision simulate    a validator against this miner\nstop  make down")
    return 0


def down(state: State) -> int:
    """Stops what `up` started."""
    found = processes.find(state.root)  # not by `state.json`: it may be damaged or gone
    for pid, name in found.items():
        processes.stop(pid)
        print(f"{name}: stopped")
    if not found:
        print("nothing was up")
    state.file.unlink(missing_ok=True)
    return 0


def reload(state: State, *, as_json: bool) -> int:
    """Puts the registry's champion into the predictor that is up; the one before comes back where that fails."""
    if not any(server.name == "predictor" and server.running for server in state.servers()):
        raise SettingsError(f"no predictor is up: `{state.root}`", hint="`make up` starts it")
    from streetvision.registry.mlflow import Registry

    registry = Registry(state.tracking_uri, state.root / "models")
    champion = registry.to_be_served()
    content = json.loads(state.file.read_text())
    before, after = Path(content["model_dir"]), registry.fetch(champion)
    outcome = "unchanged"
    if after != before:
        outcome = "rolled out"
        try:
            _replace_predictor(state, content, after)
        except ServerError as err:
            _replace_predictor(state, content, before)
            served = registry.by_source(before.as_uri())
            registry.take_back(champion.version, champion=served.version if served else None, reason=err.message)
            raise RolloutError(
                f"version {champion.version} was not rolled out: {err.message}\n`{before}` is served again",
                hint=err.hint,
            ) from err
    if as_json:
        print(json.dumps({"outcome": outcome, "version": champion.version, "sha256": champion.sha256}))
    else:
        print(f"{outcome}: version {champion.version} ({champion.sha256[:12]}) is served")
    return 0


def _replace_predictor(state: State, content: dict[str, Any], model_dir: Path) -> None:
    """Another predictor at the address of the one that is up, once it answers; the state says so."""
    processes.stop(content["predictor"]["pid"])
    ports = (int(content["predictor"][name].rpartition(":")[2]) for name in ("url", "grpc"))
    predictor = start_predictor(state, model_dir, http=next(ports), grpc=next(ports), stay=True)
    content["predictor"]["pid"], content["model_dir"] = predictor.pid, str(model_dir)
    predictions = _predictions(state, model_dir, Path(content["images"]))
    content["predictions"] = str(predictions) if predictions else None
    atomic.write_json(state.file, content)  # first, so that it is found again
    try:
        await_predictor(state, predictor, content["predictor"]["url"])
    except BaseException:
        processes.stop(predictor.pid)
        raise


def status(state: State, *, as_json: bool) -> int:
    """Shows what is up; 0 where everything is, 1 otherwise."""
    servers = state.servers()
    content = json.loads(state.file.read_text()) if servers else {}
    if as_json:
        print(json.dumps({**content, "running": {server.name: server.running for server in servers}}, indent=2))
    elif not servers:
        print("nothing is up: `make up` starts the predictor, the miner edge and MLflow")
    else:
        for server in servers:
            state_word = "running" if server.running else "STOPPED"
            print(f"{server.name:<10} {state_word}  {content[server.name]['url']}  (process {server.pid})")
        print(f"{'metrics':<10} {content['miner']['metrics_url']}")
        print(f"{'hotkey':<10} {content['miner']['hotkey']}")
        print(f"{'model':<10} {content['model_dir']}")
        print(f"{'pictures':<10} {content['images']}")
    return 0 if servers and all(server.running for server in servers) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.local", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".streetvision"), help="folder of everything that is kept")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (
        ("run", "the main job, end to end"),
        ("up", "predictor, miner edge and MLflow stay running; the main job first where there is no champion"),
    ):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("--data", default="procedural", help="a folder or CSV of your own photos")
        command.add_argument("--preset", default="efficientnet-lite0", help="backbone")
        command.add_argument("--challenges", type=_positive, default=500, help="how many the simulated validator sends")
        command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter")
    commands.add_parser("down", help="stop what `up` started")
    reloading = commands.add_parser("reload", help="the registry's champion comes into the predictor that is up")
    reloading.add_argument("--json", action="store_true")
    commands.add_parser("status", help="what is up").add_argument("--json", action="store_true")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is no whole number above 0")
    return int(text)


def _pipeline(state: State, arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Exit code and outputs of the pipeline, which runs as a process of its own and prints its own sentence."""
    source = arguments.data
    if source != "procedural":
        source = str(Path(source).resolve())
        open_source(source, scenes=0, seed=0).fingerprint()  # a folder that cannot be used is said here, at once
    outputs = state.root / "retrain.json"
    command = [sys.executable, "-m", "pipelines", "local", "retrain", "--state", str(state.root)]
    command += ["--outputs", str(outputs), "--set", f"source={source}", "--set", f"preset={arguments.preset}"]
    for setting in arguments.set:
        command += ["--set", setting]
    # in a session of its own, so that we end it and its steps in order, whatever ends us
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=processes.die_with_parent,
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        raise
    finally:
        processes.stop(process.pid)
    return code, {} if code else json.loads(outputs.read_text())


def _champion(state: State) -> Path | None:
    """The model directory of the registry's champion, once the main job ran to its end."""
    if not state.summary.is_file():
        return None
    from streetvision.registry.mlflow import Registry  # importing MLflow takes seconds, and no other command needs it

    registry = Registry(state.tracking_uri, state.root / "models")
    champion = registry.champion()
    return registry.fetch(champion) if champion else Path(state.read_summary()["served"]["path"])


def _predictions(state: State, model_dir: Path, images: Path) -> Path | None:
    """A table of what the model answered to the challenge set, for `streetvision simulate`; None where it never did."""
    try:
        answers = newest_answers(state.root, ChallengeSet.read(images), ModelDirectory.open(model_dir).sha256)
    except EvidenceError:
        return None
    write_predictions(state.predictions, answers)
    return state.predictions


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _simulate(state: State, stack: Stack, challenge_set: ChallengeSet, *, count: int) -> SimulationResult:
    keypair = load_keypair(state.wallets, VALIDATOR, HOTKEY)
    miners = [Miner(url=stack.miner_url, hotkey=stack.miner_hotkey, uid=1)]
    with Progress("sent", total=count, unit="challenge") as progress:

        def advance(_: tuple[Event, ...]) -> None:
            progress.advance(1)

        return asyncio.run(simulate(miners, challenge_set, keypair, count=count, seed=0, time_scale=0, on_step=advance))


def _say(words: str) -> None:
    print(f"\n{words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
