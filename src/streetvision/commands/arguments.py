"""What the commands share: how one is added to the parser, and how JSON is printed."""

import argparse
import json
from collections.abc import Callable
from typing import Any

Command = Callable[[argparse.Namespace], int]
Commands = Any  # argparse's group of commands has no public type


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """A command that only has commands of its own."""
    return commands.add_parser(name, help=text).add_subparsers(required=True, metavar="COMMAND")


def add_command(commands: Commands, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    """A command that does something; all have `--seed` and `--json`."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def print_json(value: Any) -> None:
    """Prints one JSON document on a line of its own."""
    print(json.dumps(value))
