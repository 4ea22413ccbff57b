"""`python -m serving.predictor --model-dir DIR`."""

import gc
import sys

from streetvision.errors import StreetvisionError


def main() -> int:
    """Serves until told to stop; 0 after that, 2 where it could not start."""
    gc.disable()  # importing makes no garbage, and looking for it takes a third of the start
    try:
        from serving.predictor.server import serve
        from serving.predictor.settings import Settings

        serve(Settings.from_arguments(sys.argv[1:]))
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    finally:
        gc.enable()
    return 0


if __name__ == "__main__":
    sys.exit(main())
