"""`python -m pipelines ...`: compiles the pipelines, runs one here, or brings them to a Kubeflow."""

import argparse
import sys

from pipelines.api import KubeflowError
from pipelines.commands import compile as compiling
from pipelines.commands import local, run, schedule, upload
from streetvision.errors import StreetvisionError


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    0 well, 1 stale or failed, 2 bad input, 3 Kubeflow is out of reach or refuses us, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (compiling, local, upload, run, schedule):
        command.add(commands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code if isinstance(err, KubeflowError) else 2 if isinstance(err, ValueError) else 1
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, the next run goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
