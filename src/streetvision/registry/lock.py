"""One actor at a time: the lock that promotions and pushes hold."""

import json
import os
import socket
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from streetvision import atomic
from streetvision.errors import BusyError


class Lock(Protocol):
    """What only one actor holds at a time, in this process, on this machine or in the cluster."""

    def hold(self, actor: str) -> AbstractContextManager[None]:
        """Holds the lock for the block; `actor` is who a waiting one is told about.

        Raises:
            BusyError: somebody else held it for too long.
        """
        ...


class LocalLock:
    """The lock between threads and processes of one machine; the system frees it when its holder dies.

    Args:
        path: the lock file; who holds it is written beside it.
        what: what is locked, for the message.
        timeout_s: how long to wait for another holder.
    """

    def __init__(self, path: Path, *, what: str = "promotion", timeout_s: float = 30.0) -> None:
        self._path = path
        self._holder = path.with_name(f"{path.name}.holder.json")
        self._what = what
        self._timeout_s = timeout_s

    @contextmanager
    def hold(self, actor: str) -> Generator[None]:
        """Holds the lock for the block.

        Raises:
            BusyError: somebody else held it for longer than the timeout; the message says who.
            StorageError: the lock file cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._path, timeout=self._timeout_s)
            lock.acquire()
        except Timeout as err:
            raise BusyError(
                f"{self._what} lock is held by {self._who()} for longer than {self._timeout_s:g} s: `{self._path}`",
                hint="wait for the other run to end, then run it again",
            ) from err
        except OSError as err:
            raise atomic.storage_error(self._path, err) from err
        try:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder = {"actor": actor, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
            atomic.write_json(self._holder, holder)
            yield
        finally:
            self._holder.unlink(missing_ok=True)
            lock.release()

    def _who(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            return "`{actor}` (process {pid} on {host}, since {since})".format(**holder)
        except (OSError, ValueError, KeyError, TypeError):  # it may be just writing it, or just gone
            return "another run"
