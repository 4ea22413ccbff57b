"""What the commands that speak with a Kubeflow have in common: options, each also from the environment, and output."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.api import Connection
from pipelines.parameters import read_file, read_settings
from streetvision.errors import SettingsError

_PREFIX = "STREETVISION_KFP_"


@dataclass(frozen=True, slots=True)
class Output:
    """Lines for people, and one JSON document where it is asked for: then lines go to standard error."""

    json: bool

    def say(self, line: str) -> None:
        """Tells people."""
        stream = sys.stderr if self.json else sys.stdout
        stream.write(line + "\n")
        stream.flush()

    def result(self, value: Any) -> None:
        """Tells programs."""
        if self.json:
            sys.stdout.write(json.dumps(value) + "\n")


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where Kubeflow is."""
    add_option(parser, "host", "address of the Kubeflow Pipelines API, such as http://ml-pipeline.kubeflow:8888")
    add_option(parser, "namespace", "where the steps' pods run", default="kubeflow")
    add_option(parser, "token-file", "bearer token, read anew for each request", metavar="PATH")
    add_option(parser, "ca-file", "certificates that an https address is checked against", metavar="PATH")
    add_option(
        parser, "timeout-s", "how long a request is repeated where the API is out of reach", default="60", metavar="N"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what is run."""
    add_option(parser, "parameters", "pipeline parameters, a mapping in YAML or JSON", metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one pipeline parameter")
    add_option(parser, "experiment", "group that runs are shown in", default="streetvision")
    add_option(parser, "service-account", "ServiceAccount of the steps' pods; Kubeflow's own without", metavar="NAME")
    add_option(
        parser, "pipeline-root", "where artifacts go, such as s3://BUCKET/kfp; Kubeflow's own without", metavar="URI"
    )


def connection(arguments: argparse.Namespace) -> Connection:
    """Where Kubeflow is.

    Raises:
        SettingsError: no address, or a time that is none.
    """
    if not arguments.host:
        raise SettingsError(
            "the address of the Kubeflow Pipelines API is missing",
            hint="`--host URL` or STREETVISION_KFP_HOST; in the cluster it is mostly http://ml-pipeline.kubeflow:8888",
        )
    return Connection(
        host=arguments.host,
        namespace=arguments.namespace,
        token_file=Path(arguments.token_file) if arguments.token_file else None,
        ca_file=Path(arguments.ca_file) if arguments.ca_file else None,
        timeout_s=seconds("--timeout-s", arguments.timeout_s),
    )


def given_parameters(arguments: argparse.Namespace) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What lays the parameters of one run between those of the file and those of `--set`.

    Raises:
        SettingsError: the file cannot be used, or a `--set` has no `=`.
    """
    below = read_file(Path(arguments.parameters)) if arguments.parameters else {}
    above = read_settings(arguments.set)
    return lambda own: below | own | above


def seconds(option: str, text: str | float) -> float:
    """A time from 0 on.

    Raises:
        SettingsError: it is none.
    """
    try:
        value = float(text)
    except ValueError as err:
        raise SettingsError(f"`{option}` is `{text}`, expected seconds") from err
    if not (math.isfinite(value) and value >= 0):
        raise SettingsError(f"`{option}` is `{text}`, expected seconds from 0 on")
    return value


def add_option(
    parser: argparse.ArgumentParser, name: str, text: str, *, default: str | None = None, metavar: str | None = None
) -> None:
    """Adds an option that the environment may give too."""
    variable = _PREFIX + name.upper().replace("-", "_")
    preset = f", {default} without" if default else ""
    parser.add_argument(
        f"--{name}", default=os.environ.get(variable) or default, metavar=metavar, help=f"{text} ({variable}{preset})"
    )
