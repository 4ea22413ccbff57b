"""`python -m pipelines upload`: every compiled pipeline as a version in Kubeflow; the same content makes no new one."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.api import Kubeflow
from pipelines.catalogue import Package, packages
from pipelines.commands.options import Output, add_connection, connection


def add(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("upload", help="upload every compiled pipeline to Kubeflow; what is there stays")
    parser.add_argument("--check", action="store_true", help="upload nothing; exit 1 where a version is missing")
    add_connection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Uploads what is not there yet, or says what is missing.

    Raises:
        SettingsError: an option cannot be used.
        KubeflowError: the API refused, or is out of reach.
    """
    output = Output(arguments.json)
    with tempfile.TemporaryDirectory() as folder:
        ready = packages(Path(folder))
        api = Kubeflow(connection(arguments))
        if arguments.check:
            return _check(api, list(ready.values()), output)
        versions = [api.upload(package) for package in ready.values()]
    for version in versions:
        output.say(f"{version.pipeline} {version.version}: {'uploaded' if version.created else 'there already'}")
    output.result([asdict(version) for version in versions])
    return 0


def _check(api: Kubeflow, packages: Sequence[Package], output: Output) -> int:
    found = [api.find(package) for package in packages]
    for package, version in zip(packages, found, strict=True):
        output.say(f"{package.name} {package.version}: {'there' if version else 'missing'}")
    output.result([asdict(version) for version in found if version])
    return 0 if all(found) else 1
