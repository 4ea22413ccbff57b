"""`streetvision rollout`: the registry's champion becomes what a release serves, proven, or all is as it was."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streetvision.commands.arguments import Commands, add_command, print_json

if TYPE_CHECKING:
    from streetvision.operations.proof import Predictor


def add(commands: Commands) -> None:
    """Adds the command to the parser."""
    rollout = add_command(commands, "rollout", _rollout, "brings the registry's champion into the served predictor")
    rollout.description = (
        "Brings the registry's champion into the predictor of a release, proves that it serves there, and takes both "
        "back where it does not. Without --release: into the predictor of `make up`. "
        "Exit code 0: it serves; 1: it failed, and all is as it was; 2: bad input, or refused."
    )
    release = rollout.add_argument_group("a release on a cluster")
    release.add_argument("--release", metavar="NAME", help="helm's name of it")
    release.add_argument("--namespace", help="of the release; default: our own")
    release.add_argument("--inference-service", metavar="NAME", help="default: RELEASE-roadwork")
    release.add_argument("--alias", default="champion", help="of the version that is to be served")
    release.add_argument("--chart", type=Path, default=Path("charts/streetvision"), help="the release's own chart")
    release.add_argument("--tracking-uri", metavar="URI", help="MLflow's; default: $MLFLOW_TRACKING_URI")
    release.add_argument("--helm", default="helm", help="the program, of version 3 or 4")
    release.add_argument("--timeout-s", type=float, default=900.0, help="of the proof, and of the way back")
    release.add_argument("--prove", metavar="URI", help="change nothing; only prove that the release serves this model")
    rollout.add_argument("--state", type=Path, default=Path(".streetvision"), help="folder of `make up`")


def _rollout(arguments: argparse.Namespace) -> int:
    from streetvision.errors import SettingsError

    if arguments.timeout_s <= 0:
        raise SettingsError(f"--timeout-s is {arguments.timeout_s:g}, expected more than 0")
    signal.signal(signal.SIGTERM, _interrupt)  # a Job that ran too long is to take its half-done work back
    if arguments.prove and not arguments.release:
        raise SettingsError("--prove needs --release: whose predictor serves the model?")
    if arguments.prove:
        return _prove(arguments)
    return _to_release(arguments) if arguments.release else _locally(arguments)


def _prove(arguments: argparse.Namespace) -> int:
    predictor = _predictor(arguments)
    predictor.prove(arguments.prove, timeout_s=arguments.timeout_s)
    if arguments.json:
        print_json({"outcome": "proven", "inference_service": predictor.name, "uri": arguments.prove})
    else:
        print(f"proven: {predictor} serves `{arguments.prove}`")
    return 0


def _to_release(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from streetvision.errors import SettingsError
    from streetvision.operations.helm import Helm
    from streetvision.operations.rollout import Rollout
    from streetvision.registry.lease import LeaseLock, promotion_lock
    from streetvision.registry.mlflow import Registry
    from streetvision.registry.store import cache_folder

    tracking_uri = arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri:
        raise SettingsError("no registry is named", hint="set --tracking-uri or $MLFLOW_TRACKING_URI")
    predictor = _predictor(arguments)
    namespace = predictor.namespace
    rollout = Rollout(
        registry=Registry(tracking_uri, cache_folder() / "models", lock=promotion_lock(namespace)),
        helm=Helm(arguments.helm, namespace),
        release=arguments.release,
        chart=arguments.chart,
        predictor=predictor,
        lock=LeaseLock(
            predictor.cluster,
            f"{arguments.release}-rollout",
            namespace=namespace,
            what="rollout",
            timeout_s=arguments.timeout_s,
        ),
        timeout_s=arguments.timeout_s,
    )
    done = rollout.run(arguments.alias)
    sentence = str(done) if done else "there is no champion yet: nothing to do"
    if arguments.json:
        print_json({**(asdict(done) if done else {"outcome": "nothing to do"}), "sentence": sentence})
    else:
        print(sentence)
    return 0


def _locally(arguments: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "serving.local", "--state", str(arguments.state), "reload"]
    return subprocess.run([*command, "--json"] if arguments.json else command, check=False).returncode


def _predictor(arguments: argparse.Namespace) -> "Predictor":
    from streetvision.cluster import Cluster
    from streetvision.operations.proof import Predictor

    cluster = Cluster.connect()
    name = arguments.inference_service or f"{arguments.release}-roadwork"
    return Predictor(cluster, arguments.namespace or cluster.namespace, name)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
