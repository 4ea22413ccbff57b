"""`python -m serving.miner`: settings come from `STREETVISION_MINER_*` (see settings.py)."""

import argparse
import os
import signal
import sys

import uvloop

from serving import logs
from serving.miner.server import serve
from serving.miner.settings import Settings
from streetvision.errors import BusyError, InputError, StorageError


def main() -> int:
    """Runs the miner; 0 after a signal, 2 where it could not start."""
    argparse.ArgumentParser(
        prog="python -m serving.miner",
        description="Answer validators. Every setting is a variable of the environment:\n\n" + Settings.help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    try:
        settings = Settings.from_environment(os.environ)
        logs.configure(settings.log_level_number)
        uvloop.run(serve(settings))
    except (InputError, BusyError, StorageError) as err:
        print(f"miner: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
