"""One actor at a time: the lock that promotions and pushes hold."""

import hashlib
import importlib
import json
import logging
import os
import socket
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from streetvision import atomic
from streetvision.errors import BusyError, SettingsError
from streetvision.registry.store import cache_folder, models_folder

_log = logging.getLogger(__name__)


class Hold:
    """The right of one holder.

    Attributes:
        token: a number that is larger for every later holder, by which an older one is known; nothing where the
            system ends a right with its holder.
    """

    token: int | None = None

    def check(self) -> None:
        """Returns while the right lasts.

        Raises:
            BusyError: it ended before the block did.
        """


class Lock(Protocol):
    """What only one actor holds at a time, in this process, on this machine or in the cluster."""

    def hold(self, actor: str, *, above: int = 0) -> AbstractContextManager[Hold]:
        """Holds the lock for the block.

        Args:
            actor: who a waiting one is told about.
            above: what the token has to be larger than.

        Raises:
            BusyError: somebody else held it for too long.
        """
        ...


def open_lock(models_uri: str, *, namespace: str | None = None) -> Lock:
    """The lock of promotions for models at this address.

    A file beside the models where they lie in a folder; a Lease where they lie in a bucket and this is a pod or
    `$KUBECONFIG` names a cluster; else a file of this machine.

    Args:
        models_uri: a folder or `s3://BUCKET/PREFIX`.
        namespace: of the Lease; our own by default.

    Raises:
        SettingsError: the cluster cannot be used, or its client is not installed.
    """
    if folder := models_folder(models_uri):
        return LocalLock(folder / ".promotion.lock")
    if os.environ.get("KUBERNETES_SERVICE_HOST") or os.environ.get("KUBECONFIG"):
        try:
            lease: Any = importlib.import_module("streetvision.registry.lease")  # loads the Kubernetes client
        except ImportError as err:
            raise SettingsError(
                f"promotions are serialised by a Lease of the cluster, which needs the package `{err.name}`",
                hint="install `kubernetes`",
            ) from err
        return lease.promotion_lock(namespace)
    _log.warning("no cluster is named, so only promotions of this machine wait for each other")
    name = hashlib.sha256(models_uri.encode()).hexdigest()[:16]
    return LocalLock(cache_folder() / "locks" / name)


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
    def hold(self, actor: str, *, above: int = 0) -> Generator[Hold]:
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
            yield Hold()
        finally:
            self._holder.unlink(missing_ok=True)
            lock.release()

    def _who(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            return "`{actor}` (process {pid} on {host}, since {since})".format(**holder)
        except (OSError, ValueError, KeyError, TypeError):  # it may be just writing it, or just gone
            return "another run"
