"""`streetvision ...`: each part of the main job as a command of its own."""

import argparse
import logging
import sys
from collections.abc import Sequence

from streetvision.commands import data, engine, evaluate, gate, rollout, simulate, subnet, synthesize, train
from streetvision.commands.arguments import Command
from streetvision.errors import SettingsError, StreetvisionError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    0 well, 1 failed (`gate`: keep; `sentinel`: different), 2 bad input, 3 not enough evidence, 130 interrupted, 141 the
    reader of the output has left.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    run: Command = arguments.run
    try:
        if (seed := getattr(arguments, "seed", None)) is not None and seed < 0:
            raise SettingsError(f"--seed is {seed}, expected a number from 0 on")
        return run(arguments)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2 if isinstance(err, ValueError) else 1
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streetvision", description="Train, gate and serve a roadwork classifier.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (data, synthesize, train, subnet, evaluate, gate, simulate, rollout, engine):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
