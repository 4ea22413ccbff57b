"""The local cluster: `python -m tests.cluster engine | images | up | load | status | down`."""

import argparse
import json
import signal
import sys
from types import FrameType

from manifests.docker import Docker
from streetvision.errors import StreetvisionError
from tests.cluster.kind import NAME
from tests.cluster.lab import Lab
from tests.cluster.table import Steps


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 well, 1 failed, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    quiet = getattr(arguments, "json", False)
    steps = Steps((lambda line: None) if quiet else lambda line: print(line, flush=True))
    try:
        _run(Lab(steps, arguments.name), arguments, steps)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2 if isinstance(err, ValueError) else 1
    except KeyboardInterrupt:
        print("\ninterrupted: what was built is kept; `make kind-down` removes what was started", file=sys.stderr)
        return 130
    return 0


def _run(lab: Lab, arguments: argparse.Namespace, steps: Steps) -> None:
    match arguments.command:
        case "up":
            kind = lab.up()
            print(f"\n{steps.table()}\n\nthe cluster is up: `kubectl --context {kind.cluster.context} get nodes`")
            for variable in _variables(kind.docker):
                print(f"its container engine: export {variable}")
        case "down":
            print("the cluster is gone" if lab.down() else "there was no cluster")
        case "engine":
            docker = lab.engine()
            print(f"a container engine answers: {' '.join([*_variables(docker), docker.command])}")
        case "images":
            print(f"\n{lab.images()}\n\n{steps.table()}")
        case "load":
            loaded = lab.load(arguments.image) if arguments.image else lab.load_ours()
            print("\n".join(f"loaded {image}" for image in loaded) or "there was nothing to load")
        case _:
            found = lab.status()
            print(json.dumps(found, indent=2) if arguments.json else _text(found))


def _variables(docker: Docker) -> list[str]:
    return [f"{name}={value}" for name, value in docker.environment.items()]


def _text(found: dict) -> str:
    cluster = found["cluster"]
    if found["engine"] is None:
        return "no container engine answers, and there is no cluster"
    if cluster is None:
        return "there is no cluster"
    lines = [
        f"cluster {cluster['name']}: {'answers' if cluster['answers'] else 'does not answer'}",
        f"context: {cluster['context']}",
        f"node image: {cluster['node_image']}",
        f"cert-manager, KServe, kwok: {'installed' if cluster['addons'] else 'not installed'}",
        f"images brought to it: {', '.join(cluster['images']) or 'none'}",
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--name", default=NAME, help="of the cluster (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("engine", help="a container engine with the base images of ours")
    commands.add_parser("up", help="the cluster with cert-manager, KServe and kwok; what is up already stays")
    commands.add_parser("down", help="removes the cluster and stops an engine of ours; what was built stays")
    commands.add_parser("images", help="builds the node image alone")
    load = commands.add_parser("load", help="brings images from the engine to the cluster's node")
    load.add_argument("image", nargs="*", help="default: those of ours that were built, if there is a cluster")
    status = commands.add_parser("status", help="what there is")
    status.add_argument("--json", action="store_true")
    return parser


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
