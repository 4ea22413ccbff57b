"""Files that somebody else writes: whether one has changed, and what it holds."""

import errno
from pathlib import Path

Stamp = tuple[int, int, int]


def stamp(file: Path) -> Stamp | None:
    """Time of change, size and inode of a file; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_regular(file: Path) -> bytes:
    """The content of a file, never waiting for a writer, as a named pipe would have us do.

    Raises:
        OSError: there is none, or it is no regular file.
    """
    if file.exists() and not file.is_file() and not file.is_dir():
        raise OSError(errno.EINVAL, "no regular file")
    return file.read_bytes()
