"""Which nonces were taken: no signed request is answered twice, not after a restart and not by another replica."""

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from serving.logs import event
from serving.miner.files import read_regular
from streetvision import atomic
from streetvision.errors import WireError

logger = logging.getLogger(__name__)

# Longer than any nonce can be replayed: 13 s until it is stale, and 2 s that it may lie ahead of our clock.
GENERATION_S = 20.0
SESSIONS_PER_CALLER = 1024


class Session(NamedTuple):
    """Whose nonces must grow: those of one caller's session with one of our keys."""

    receiver: str
    caller: str
    name: str


class NonceStore(Protocol):
    """The newest nonce of every session, for as long as an older one could be replayed."""

    async def take(self, session: Session, nonce_ns: int) -> None:
        """Takes a nonce whose signature was verified, so that neither it nor an older one is taken again.

        Raises:
            WireError: 401, it is not newer than the last; 429, the caller opened too many sessions.
        """
        ...

    @property
    def sessions(self) -> int:
        """How many are remembered here."""
        ...

    @property
    def failures(self) -> int:
        """How often it could not remember as it should."""
        ...


class LocalNonces:
    """The nonces of one edge: in memory, and in a file that the next process reads.

    Memory and file are kept in two generations, and the older one is dropped as a whole. A line is appended for every
    nonce and not flushed to the disk: it outlives the process, and a machine takes longer to restart than a nonce
    stays valid. A file that cannot be written costs a log line and a count, and no challenge. An edge that finds no
    file takes only nonces from after its start, as nobody knows which older ones were taken.

    Args:
        file: where nonces are kept; beside it lies the older generation, with the suffix `.1`.
        sessions_per_caller: more within one generation are refused, not forgotten.
        clock_ns: the time of day, with which nonces are compared.
        clock_s: measures generations, and how long ago the store was made.

    Raises:
        StorageError: the file cannot be read or created.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        sessions_per_caller: int = SESSIONS_PER_CALLER,
        clock_ns: Callable[[], int] = time.time_ns,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._older_file = file and kept_nonces(file)[1]
        self._sessions_per_caller = sessions_per_caller
        self._clock_ns, self._clock_s = clock_ns, clock_s
        self._current: dict[Session, int] = {}
        self._opened: Counter[str] = Counter()
        self._since_s = clock_s()
        self._failures = 0
        self._write_fails = False
        try:
            known = file is not None and file.exists()
            self._older = self._read()
            self._log = None if file is None else _open(file)
        except OSError as err:
            raise atomic.storage_error(file or Path(), err) from err
        self._born_s = None if known else clock_s()

    def close(self) -> None:
        """Closes the file."""
        if self._log is not None:
            os.close(self._log)
            self._log = None

    @property
    def sessions(self) -> int:
        """How many are remembered here."""
        return len(self._current) + len(self._older)

    @property
    def failures(self) -> int:
        """How often the file could not be written."""
        return self._failures

    async def take(self, session: Session, nonce_ns: int) -> None:
        """Takes a nonce, as in `NonceStore`; never waits."""
        if nonce_ns < self._born_ns():
            raise WireError("nonce is from before this miner started", status=401, reason="stale_nonce")
        self.remember(session, nonce_ns)

    def _born_ns(self) -> int:
        """When this store was made, by the time of day as it is known now: a clock may be set meanwhile."""
        return 0 if self._born_s is None else self._clock_ns() - round((self._clock_s() - self._born_s) * 1e9)

    def remember(self, session: Session, nonce_ns: int) -> None:
        """Takes a nonce of any time.

        Raises:
            WireError: as in `NonceStore.take`.
        """
        if self._clock_s() - self._since_s >= GENERATION_S:
            self._turn()
        last_ns = self._current.get(session)
        if last_ns is None:
            last_ns = self._older.get(session, 0)
            if nonce_ns > last_ns:
                self._open_session(session.caller)
        if nonce_ns <= last_ns:
            raise replayed()
        self._current[session] = nonce_ns
        self._write(session, nonce_ns)

    def _open_session(self, caller: str) -> None:
        if self._opened[caller] >= self._sessions_per_caller:
            raise too_many_sessions(self._sessions_per_caller)
        self._opened[caller] += 1

    def _turn(self) -> None:
        self._older, self._current = self._current, {}
        self._opened.clear()
        self._since_s = self._clock_s()
        if self._file is not None and self._older_file is not None and self._log is not None:
            try:
                # Removed first, for a file that takes another's place is flushed to the disk.
                self._older_file.unlink(missing_ok=True)
                with contextlib.suppress(FileNotFoundError):  # an earlier turn got no further
                    self._file.rename(self._older_file)
                renewed = _open(self._file)
            except OSError as err:
                self._fail(err)
            else:
                os.close(self._log)
                self._log = renewed

    def _write(self, session: Session, nonce_ns: int) -> None:
        if self._log is None:
            return
        try:
            os.write(self._log, f"{nonce_ns} {session.receiver} {session.caller} {session.name}\n".encode())
            self._write_fails = False
        except OSError as err:
            self._fail(err)

    def _fail(self, err: OSError) -> None:
        self._failures += 1
        if not self._write_fails:
            event(logger, "nonce_file_unwritable", level=logging.ERROR, file=str(self._file), reason=err.strerror)
        self._write_fails = True

    def _read(self) -> dict[Session, int]:
        found: dict[Session, int] = {}
        for file in (self._older_file, self._file):
            if file is not None and file.exists():
                for line in read_regular(file).decode("ascii", errors="replace").split("\n")[:-1]:
                    nonce, *fields = line.split(" ", 3)
                    if nonce.isdigit() and len(fields) == 3:  # else it is what a crash left of a line
                        session = Session(*fields)
                        found[session] = max(int(nonce), found.get(session, 0))
        return found


def kept_nonces(file: Path) -> tuple[Path, Path]:
    """Where nonces lie: the file, and the older generation beside it."""
    return file, file.with_name(file.name + ".1")


def _open(file: Path) -> int:
    """A file to append lines to; what a crash left of the last one is ended."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor


def replayed() -> WireError:
    """The refusal of a nonce that is not newer than the last."""
    return WireError("nonce is not newer than the last one of this session", status=401, reason="replay")


def too_many_sessions(count: int) -> WireError:
    """The refusal of one session too many."""
    return WireError(f"caller opened {count} sessions in a short time", status=429, reason="too_many_sessions")
