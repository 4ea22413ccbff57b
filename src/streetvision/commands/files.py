"""What a command reads: a file, or standard input where its name is `-`."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from streetvision.errors import DataError

STDIN = Path("-")


def input_name(path: Path) -> str:
    """How messages call the input."""
    return "standard input" if path == STDIN else str(path)


@contextmanager
def open_input(path: Path) -> Generator[BinaryIO]:
    """Yields the input's bytes as they come; only reading belongs into the block.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        if path == STDIN:
            yield sys.stdin.buffer
        else:
            with path.open("rb") as file:
                yield file
    except OSError as err:
        raise DataError(f"cannot read `{input_name(path)}`: {err.strerror}") from err
