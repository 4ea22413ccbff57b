"""`python -m serving.predictor --model-dir DIR`."""

import sys

from serving.predictor.server import Settings, serve
from streetvision.errors import StreetvisionError


def main() -> int:
    """Serves until told to stop; 0 after that, 2 where it could not start."""
    try:
        serve(Settings.from_arguments(sys.argv[1:]))
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
