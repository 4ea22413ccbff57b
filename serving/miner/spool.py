"""The folder where the prediction log waits for its upload: segments of records with their pictures."""

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from serving.logs import Occasional
from streetvision import atomic
from streetvision.errors import BusyError, SettingsError

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
RECORDS = "records.jsonl"
PICTURE_SUFFIX = ".jpg"

_BLOCK_BYTES = 4096
_NAME = re.compile(r"\d{8}T\d{12}Z-[A-Za-z0-9._-]+-[0-9a-f]{8}")
_DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True, eq=False)
class Segment:
    """A folder with records, one JSON line each, and with pictures, named by their sha256.

    Attributes:
        folder: named by when it was begun and by whom; older names come first.
        since_s: Unix time of its beginning.
        size_bytes: what it takes on the disk, about.
    """

    folder: Path
    since_s: float
    size_bytes: int = 0

    @property
    def name(self) -> str:
        """What it is called wherever it goes."""
        return self.folder.name

    @property
    def records(self) -> Path:
        """File of its records."""
        return self.folder / RECORDS

    def pictures(self) -> list[Path]:
        """Files of its pictures."""
        return sorted(self.folder.glob(f"*{PICTURE_SUFFIX}"))


@dataclass(slots=True, eq=False)
class _Open(Segment):
    """The segment that is written to."""

    descriptor: int = -1
    length: int = 0
    """Of the records that are complete."""
    known: set[str] = field(default_factory=set[str])
    """Pictures that lie in it."""
    until_s: float = 0.0
    """Monotonic time at which it is to be closed."""


class Spool:
    """A folder of segments, of which the newest is written to and the others wait to be taken away.

    One thread writes. A record is on the disk when `write` returns; pictures are with the system then, and a power cut
    may take the latest. Where the disk or the limit is reached the oldest segment goes, with its pictures.

    Args:
        folder: where segments are kept, of this process alone.
        replica: whose they are, a part of their names.
        limit_bytes: what they may take together.
        segment_bytes: a segment is closed when it takes as much.
        segment_age_s: or when it was begun so long ago.

    Attributes:
        shed: how many segments were dropped unsent.

    Raises:
        SettingsError: the limit holds fewer than four segments.
        BusyError: another process writes there.
        StorageError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replica: str,
        limit_bytes: int = 1024 * MIB,
        segment_bytes: int = 8 * MIB,
        segment_age_s: float = 60.0,
    ) -> None:
        if limit_bytes < 4 * segment_bytes:
            raise SettingsError(
                f"a spool of {limit_bytes} bytes holds fewer than four segments of {segment_bytes} bytes",
                hint="raise the limit of the spool or lower the size of a segment",
            )
        self.folder = folder
        self.replica = re.sub(r"[^A-Za-z0-9._-]", "_", replica)
        self.shed = 0
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._segment_age_s = segment_age_s
        self._open: _Open | None = None
        self._lock = threading.Lock()  # of the three that the uploader uses too
        self._closed: dict[str, Segment] = {}
        self._size_bytes = 0
        self._log_shed = Occasional(logger, "spool_shed")
        self._file_lock = _locked(folder)
        try:
            self._recover()
        except OSError as err:
            self._file_lock.release()
            raise atomic.storage_error(folder, err) from err

    @property
    def segments(self) -> int:
        """How many lie here."""
        return len(self._closed) + (self._open is not None)

    @property
    def size_bytes(self) -> int:
        """What they take on the disk, about."""
        return self._size_bytes

    @property
    def oldest_age_s(self) -> float:
        """How long ago the oldest of them was begun, 0 where there is none."""
        since_s = [segment.since_s for segment in (*self.closed(), self._open) if segment]
        return max(0.0, time.time() - min(since_s)) if since_s else 0.0

    @property
    def due_s(self) -> float | None:
        """Monotonic time at which the open segment is to be closed, None where there is none."""
        return self._open.until_s if self._open else None

    def write(self, records: bytes, pictures: Mapping[str, bytes]) -> None:
        """Puts records and pictures on the disk, and makes room for them where there is none.

        Args:
            records: whole lines.
            pictures: by their sha256 in hexadecimal digits.

        Raises:
            OSError: the disk fails, or is full of what is not ours; nothing of the call is left there.
        """
        self._keep_limit(_on_disk(len(records)) + sum(_on_disk(len(data)) for data in pictures.values()))
        while True:
            try:
                return self._write(records, pictures)
            except OSError as err:
                self.rotate()
                if err.errno not in _DISK_IS_FULL or not self._drop_oldest():
                    raise

    def rotate_if_due(self) -> None:
        """Closes the open segment if it is large or old enough."""
        if self._open and (self._open.size_bytes >= self._segment_bytes or time.monotonic() >= self._open.until_s):
            self.rotate()

    def rotate(self) -> None:
        """Closes the open segment, so that it can be taken away."""
        if self._open is None:
            return
        segment, self._open = self._open, None
        with contextlib.suppress(OSError):
            os.close(segment.descriptor)
        if segment.length:
            with self._lock:
                self._closed[segment.name] = Segment(segment.folder, segment.since_s, segment.size_bytes)
        else:
            _delete(segment.folder)

    def close(self) -> None:
        """Leaves the folder to others."""
        self._file_lock.release()

    def closed(self) -> list[Segment]:
        """The segments that can be taken away, the oldest first."""
        with self._lock:
            return [self._closed[name] for name in sorted(self._closed)]

    def remove_picture(self, segment: Segment, picture: Path) -> None:
        """Takes one picture out of a closed segment."""
        size = picture.stat().st_size
        picture.unlink()
        with self._lock:
            if segment.name in self._closed:
                segment.size_bytes -= _on_disk(size)
                self._size_bytes -= _on_disk(size)

    def remove(self, segment: Segment) -> bool:
        """Takes a closed segment away; whether it still was there."""
        with self._lock:
            known = self._closed.pop(segment.name, None)
            if known is None:
                return False
            self._size_bytes -= known.size_bytes
        _delete(segment.folder)
        return True

    def _write(self, records: bytes, pictures: Mapping[str, bytes]) -> None:
        segment = self._open = self._open or self._begin()
        written: list[Path] = []
        try:
            for sha256, data in pictures.items():
                if sha256 not in segment.known:
                    file = segment.folder / (sha256 + PICTURE_SUFFIX)
                    written.append(file)
                    file.write_bytes(data)
            _write_all(segment.descriptor, records)
            os.fdatasync(segment.descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # shortening a file works on a full disk
                os.ftruncate(segment.descriptor, segment.length)
            for file in written:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            raise
        added = sum(_on_disk(len(pictures[file.stem])) for file in written)
        added += _on_disk(segment.length + len(records)) - _on_disk(segment.length)
        segment.known.update(pictures)
        segment.length += len(records)
        segment.size_bytes += added
        with self._lock:
            self._size_bytes += added

    def _begin(self) -> _Open:
        now = datetime.now(UTC)
        folder = self.folder / f"{now:%Y%m%dT%H%M%S%fZ}-{self.replica}-{secrets.token_hex(4)}"
        try:
            folder.mkdir(parents=True)  # also the spool's, where somebody deleted it
            (folder / RECORDS).touch()
            for parent in (folder, self.folder):
                _sync_folder(parent)
            descriptor = os.open(folder / RECORDS, os.O_APPEND | os.O_WRONLY)
        except OSError:
            _delete(folder)
            raise
        until_s = time.monotonic() + self._segment_age_s
        return _Open(folder, now.timestamp(), descriptor=descriptor, until_s=until_s)

    def _keep_limit(self, coming_bytes: int) -> None:
        while self._size_bytes + coming_bytes > self._limit_bytes and self._drop_oldest():
            pass

    def _drop_oldest(self) -> bool:
        """Whether there was a segment to drop."""
        for segment in self.closed():
            if self.remove(segment):
                self.shed += 1
                self._log_shed(segment=segment.name, spool_bytes=self._size_bytes, shed=self.shed)
                return True
        return False

    def _recover(self) -> None:
        """Closes what an earlier process left."""
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)):
            records = folder / RECORDS
            if not records.exists() or not records.stat().st_size:  # it was about to be made or to be deleted
                _delete(folder)
                continue
            size = sum(_on_disk(file.stat().st_size) for file in folder.iterdir())
            segment = Segment(folder, records.stat().st_mtime, size)
            self._closed[segment.name] = segment
            self._size_bytes += size


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as err:
        raise BusyError(
            f"another miner keeps its prediction log in `{folder}`", hint="give every replica a folder of its own"
        ) from err
    except OSError as err:
        raise atomic.storage_error(folder, err) from err
    return lock


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(folder: Path) -> None:
    """Deletes a segment, its records first: what is left after a crash is then known to be of no use."""
    with contextlib.suppress(OSError):
        (folder / RECORDS).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
