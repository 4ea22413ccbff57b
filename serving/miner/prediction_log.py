"""The prediction log as the miner writes it: what was accepted, what was answered, and the pictures."""

import asyncio
import contextlib
import hashlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from serving.logs import Occasional
from serving.miner.app import Accepted, Finished
from serving.miner.shadow import ShadowAnswer
from serving.miner.spool import MIB, Spool
from streetvision.curation.prediction_log import AcceptRecord, OutcomeRecord, Record, ShadowRecord

logger = logging.getLogger(__name__)

COMMIT_WAIT_S = 0.020

_RECORD_BYTES = 1024  # what an entry takes in memory beside its picture, about
_BATCH_BYTES = 4 * MIB
_WRITER_GRACE_S = 5.0
_UPLOADER_GRACE_S = 5.0


class _Entry(NamedTuple):
    record: Accepted | Finished | ShadowAnswer
    time_ns: int
    size_bytes: int
    written: asyncio.Future[None] | None = None
    """Who waits for it."""


class PredictionLog:
    """Writes down every accepted challenge and what became of it; never raises, and holds no answer up for long.

    A thread writes whatever came up in the meantime with one flush of the disk. While the disk hangs entries wait in
    memory, and beyond a limit the oldest are lost.

    Args:
        spool: where it is kept.
        commit_wait_s: how long an answer may wait until its challenge is on the disk.
        backlog_bytes: what may wait in memory.

    Attributes:
        late: answers that went out before their challenge was on the disk.
    """

    def __init__(self, spool: Spool, *, commit_wait_s: float = COMMIT_WAIT_S, backlog_bytes: int = 64 * MIB) -> None:
        self.late = 0
        self._spool = spool
        self._commit_wait_s = commit_wait_s
        self._backlog = _Backlog(backlog_bytes)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dropped = self._unwritten = 0  # each is changed by one thread alone
        self._log_lost = Occasional(logger, "prediction_log_lost", level=logging.ERROR)
        # A daemon, so that no disk keeps the process from ending.
        self._writer = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._writer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Writes what is left, and closes the last segment."""
        self._backlog.close()
        await asyncio.to_thread(self._writer.join, _WRITER_GRACE_S)
        if not self._writer.is_alive():
            self._spool.rotate()

    @property
    def lost(self) -> int:
        """Records that could not be written."""
        return self._dropped + self._unwritten

    @property
    def backlog_bytes(self) -> int:
        """What waits in memory."""
        return self._backlog.size_bytes

    async def accept(self, record: Accepted) -> None:
        """Returns when the challenge is on the disk, or after a moment if it is not yet."""
        written = asyncio.get_running_loop().create_future()
        self._put(_Entry(record, record.time_ns, _RECORD_BYTES + len(record.image), written))
        try:
            async with asyncio.timeout(self._commit_wait_s):
                await written
        except TimeoutError:
            self.late += 1

    def finish(self, record: Finished) -> None:
        """Takes what became of a challenge."""
        self._put(_Entry(record, time.time_ns(), _RECORD_BYTES))

    def shadow(self, record: ShadowAnswer) -> None:
        """Takes what a challenger would have answered."""
        self._put(_Entry(record, time.time_ns(), _RECORD_BYTES))

    def _put(self, entry: _Entry) -> None:
        if dropped := self._backlog.put(entry):
            self._dropped += len(dropped)
            self._log_lost(reason="the disk is too slow", lost=self.lost)
            _release(dropped)

    def _run(self) -> None:
        while (entries := self._backlog.take(until_s=self._spool.due_s)) is not None:
            try:
                self._write(entries)
                self._spool.rotate_if_due()
            except Exception:
                self._unwritten += len(entries)
                logger.exception("unforeseen error in the prediction log")
            waiting = [entry for entry in entries if entry.written]
            if waiting and self._loop:
                with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody who waits
                    self._loop.call_soon_threadsafe(_release, waiting)

    def _write(self, entries: list[_Entry]) -> None:
        lines: list[bytes] = []
        pictures: dict[str, bytes] = {}
        for entry in entries:
            try:
                record = self._record(entry, pictures)
            except ValueError as err:
                self._lose(1, f"{type(err).__name__} in {type(entry.record).__name__}")
            else:
                lines.append(record.model_dump_json().encode() + b"\n")
        if lines:
            try:
                self._spool.write(b"".join(lines), pictures)
            except OSError as err:
                self._lose(len(lines), err.strerror or str(err))

    def _record(self, entry: _Entry, pictures: dict[str, bytes]) -> Record:
        """The record of an entry, its picture put to the others."""
        time_utc = datetime.fromtimestamp(entry.time_ns / 1e9, UTC)
        match entry.record:
            case Accepted() as accepted:
                sha256 = hashlib.sha256(accepted.image).hexdigest()
                pictures[sha256] = accepted.image
                return AcceptRecord(
                    request_id=accepted.request_id,
                    received_at=time_utc,
                    validator=accepted.validator,
                    uid=accepted.uid,
                    route=accepted.route,
                    wire=accepted.wire,
                    unauthenticated_body=accepted.unauthenticated_body,
                    image_sha256=sha256,
                    image_bytes=len(accepted.image),
                    replica=self._spool.replica,
                )
            case Finished() as finished:
                return OutcomeRecord(
                    request_id=finished.request_id,
                    finished_at=time_utc,
                    prediction=finished.prediction,
                    answered_by=finished.answered_by,
                    reason=finished.reason,
                    model_version=finished.model_version,
                    latency_ms=finished.latency_ms,
                    parts_ms=dict(finished.parts_ms),
                )
            case ShadowAnswer() as answer:
                return ShadowRecord(
                    request_id=answer.request_id,
                    finished_at=time_utc,
                    probability=answer.probability,
                    model_version=answer.model_version,
                    latency_ms=answer.latency_ms,
                )

    def _lose(self, count: int, reason: str) -> None:
        self._unwritten += count
        self._log_lost(reason=reason, lost=self.lost)


@contextlib.asynccontextmanager
async def kept_in(
    folder: Path,
    *,
    replica: str = "",
    limit_bytes: int = 1024 * MIB,
    segment_bytes: int = 8 * MIB,
    segment_age_s: float = 60.0,
    bucket: str | None = None,
    bucket_prefix: str = "",
    endpoint_url: str | None = None,
    gauge: Callable[[str, str, Callable[[], float]], None] | None = None,
) -> AsyncGenerator[PredictionLog]:
    """A prediction log in a folder, and on its way to a bucket where there is one.

    Args:
        folder: the spool, of this process alone.
        replica: which miner this is; the name of its machine where it is empty.
        limit_bytes: what the spool may take.
        segment_bytes: a segment is closed, and can go, when it takes as much.
        segment_age_s: or when it was begun so long ago.
        bucket: where it goes; without one it stays, the newest up to the limit.
        bucket_prefix: of every object in the bucket.
        endpoint_url: of an S3 server that is not Amazon's.
        gauge: shows a number to the operator, given its name, a text and how to ask for it.

    Raises:
        SettingsError: the limit or the bucket is unusable.
        BusyError: another process keeps its log in the folder.
        StorageError: the folder cannot be used.
    """
    uploader = None
    spool = Spool(
        folder,
        replica=replica or socket.gethostname(),
        limit_bytes=limit_bytes,
        segment_bytes=segment_bytes,
        segment_age_s=segment_age_s,
    )
    try:
        if bucket is not None:
            # Not everybody has one, and boto3 takes half a second to import.
            from serving.miner.uploader import Bucket, Uploader

            uploader = Uploader(spool, Bucket(bucket, prefix=bucket_prefix, endpoint_url=endpoint_url))
            uploader.start()
        async with PredictionLog(spool) as log:
            if gauge is not None:
                _show(gauge, log, spool)
                if uploader is not None:
                    gauge("upload_segments", "Segments taken to the bucket", lambda: uploader.sent)
                    gauge("upload_failures", "Tries to take a segment there in vain", lambda: uploader.failures)
                    gauge("upload_spoilt_pictures", "Pictures that a crash cut off", lambda: uploader.spoilt)
            yield log
    finally:
        if uploader is not None:
            await asyncio.to_thread(uploader.close, wait_s=_UPLOADER_GRACE_S)
        spool.close()


def _show(gauge: Callable[[str, str, Callable[[], float]], None], log: PredictionLog, spool: Spool) -> None:
    gauge("prediction_log_late", "Answers sent before their challenge was on the disk", lambda: log.late)
    gauge("prediction_log_lost", "Records that could not be written", lambda: log.lost)
    gauge("prediction_log_backlog_bytes", "What waits in memory for the disk", lambda: log.backlog_bytes)
    gauge("spool_segments", "Segments of the prediction log on the disk", lambda: spool.segments)
    gauge("spool_bytes", "What they take", lambda: spool.size_bytes)
    gauge("spool_oldest_age_seconds", "How long ago the oldest of them was begun", lambda: spool.oldest_age_s)
    gauge("spool_shed", "Segments dropped unsent for want of room", lambda: spool.shed)


class _Backlog:
    """Entries on their way to the writer, the newest up to a limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.size_bytes = 0
        self._limit_bytes = limit_bytes
        self._entries: deque[_Entry] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, entry: _Entry) -> list[_Entry]:
        """Takes an entry, and gives back those that there is no room for any more."""
        with self._changed:
            if self._closed:
                return [entry]
            self._entries.append(entry)
            self.size_bytes += entry.size_bytes
            dropped: list[_Entry] = []
            while self.size_bytes > self._limit_bytes:
                dropped.append(self._pop())
            self._changed.notify()
            return dropped

    def take(self, *, until_s: float | None) -> list[_Entry] | None:
        """Waits for entries up to a monotonic time and gives the oldest; None where none will come any more."""
        with self._changed:
            timeout_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            self._changed.wait_for(lambda: self._entries or self._closed, timeout_s)
            if self._closed and not self._entries:
                return None
            taken: list[_Entry] = []
            left_bytes = _BATCH_BYTES
            while self._entries and left_bytes > 0:
                left_bytes -= self._entries[0].size_bytes
                taken.append(self._pop())
            return taken

    def close(self) -> None:
        """Takes no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _pop(self) -> _Entry:
        entry = self._entries.popleft()
        self.size_bytes -= entry.size_bytes
        return entry


def _release(entries: list[_Entry]) -> None:
    for entry in entries:
        if entry.written is not None and not entry.written.done():
            entry.written.set_result(None)
