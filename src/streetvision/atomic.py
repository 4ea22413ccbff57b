"""Files and folders that appear complete or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from streetvision.errors import SettingsError, StorageError


def write_bytes(path: Path, data: bytes) -> None:
    """Leaves `path` with exactly `data`, or untouched.

    Raises:
        StorageError: the disk is full, read-only or failing; nothing is half-written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as err:
        raise storage_error(path, err) from err
    finally:  # nothing is left where Ctrl-C came in between
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Leaves `path` with exactly `text` in UTF-8, or untouched."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Leaves `path` with `value` as indented JSON, or untouched."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def directory(path: Path, *, replaces: str | None = None) -> Generator[Path]:
    """Yields an empty folder beside `path` that takes its place when the block ends well.

    What stood at `path` before is replaced then, and kept if the block raises.

    Args:
        path: of the folder.
        replaces: a file that marks the folders that may be replaced; any other that is not empty is left alone.

    Raises:
        SettingsError: a folder without that mark stands there.
        StorageError: the disk is full, read-only or failing.
    """
    if replaces and not (path / replaces).exists() and path.exists() and (path.is_file() or any(path.iterdir())):
        raise SettingsError(
            f"`{path}` is not empty and holds no `{replaces}`: it is not replaced", hint="name a new or an empty folder"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o755)
    except OSError as err:
        raise storage_error(path, err) from err
    try:
        yield temporary
        _replace_directory(temporary, path)
    except StorageError:
        raise
    except OSError as err:
        if err.errno is None:  # one of ours, or a library's: not a failing disk
            raise
        raise storage_error(path, err) from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_directory(new: Path, path: Path) -> None:
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old.tmp", dir=path.parent))
        path.rename(old / path.name)
        try:
            new.rename(path)
        except OSError:
            (old / path.name).rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same immutable content as `source`, by hard link where the disk allows it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            return
        except OSError:
            shutil.copyfile(source, target)
    except OSError as err:
        raise storage_error(target, err) from err


def storage_error(path: Path, err: OSError) -> StorageError:
    """The one sentence for a failing disk."""
    reason = err.strerror or str(err)
    return StorageError(
        f"cannot write `{path}`: {reason}", hint="free some space or choose another folder, then run it again"
    )
