import asyncio
import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving import logs
from serving.miner.metrics import Metrics
from serving.miner.prediction_log import PredictionLog, kept_in
from serving.miner.spool import MIB, Spool
from streetvision.curation.prediction_log import Log, read_log, segment_files
from tests.serving.miner.disks import disk_of_one_mib
from tests.serving.miner.entries import accepted, finished, picture, sha256, shadow_answer, spooled
from tests.serving.miner.s3 import BUCKET, Moto, use_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    spool = Spool(folder, replica="miner-0")
    yield spool
    spool.close()


class Disk:
    """The flush of a disk, which a test makes slow, stops or breaks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushes = 0
        self.fails_with = 0
        self.flows = threading.Event()
        self.flows.set()
        self.takes_s = 0.0
        self._flush = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self.flush)

    def flush(self, descriptor: int) -> None:
        self.flows.wait(60)
        time.sleep(self.takes_s)
        if self.fails_with:
            raise OSError(self.fails_with, os.strerror(self.fails_with))
        self._flush(descriptor)
        self.flushes += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.flows.set()


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moto]:
    use_keys(monkeypatch)
    moto = Moto()
    moto.start()
    moto.clear()
    yield moto
    moto.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def states(log: Log) -> list[tuple[str, str]]:
    return [(row.request_id, row.outcome) for row in log.rows]


def gauges(metrics: Metrics) -> dict[str, float]:
    lines = [line.split() for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    return {name.removeprefix("streetvision_miner_"): float(value) for name, value in lines if "{" not in name}


async def test_a_challenge_and_its_outcome_are_one_row_with_its_picture(spool: Spool):
    async with PredictionLog(spool) as log:
        challenge = accepted(1)
        await log.accept(challenge)
        log.finish(finished(1))
        log.shadow(shadow_answer(1))
    (row,) = spooled(spool).rows
    assert (row.request_id, row.validator, row.uid, row.route) == ("request-1", "5Validator", 7, "/ImageSynapse")
    assert (row.wire, row.unauthenticated_body, row.replica) == ("legacy", True, "miner-0")
    assert (row.image_sha256, row.image_bytes) == (sha256(picture(1)), 1000)
    assert abs(row.received_at.timestamp() * 1e9 - challenge.time_ns) < 1000
    assert (row.outcome, row.prediction, row.answered_by, row.latency_ms) == ("answered", 0.75, "primary", 12.5)
    assert row.finished_at is not None
    assert row.finished_at > row.received_at
    assert (row.shadow_probability, row.shadow_latency_ms) == (0.25, 30.0)
    assert [file.read_bytes() for file in spool.folder.glob(f"*/{row.image_sha256}.jpg")] == [picture(1)]


async def test_a_challenge_is_on_the_disk_before_its_answer_goes_on(spool: Spool, disk: Disk):
    async with PredictionLog(spool, commit_wait_s=10) as log:
        disk.takes_s = 0.05
        await log.accept(accepted(1))
        assert (disk.flushes, log.late) == (1, 0)
        assert states(spooled(spool)) == [("request-1", "unknown")]


async def test_a_slow_disk_holds_an_answer_up_for_20_ms_and_is_counted(spool: Spool, disk: Disk):
    async with PredictionLog(spool) as log:
        disk.takes_s = 1.0
        begun = time.monotonic()
        await log.accept(accepted(1))
        assert 0.019 < time.monotonic() - begun < 0.8
        assert log.late == 1
        log.finish(finished(1))
    assert states(spooled(spool)) == [("request-1", "answered")]


async def test_challenges_that_come_together_share_a_flush(spool: Spool, disk: Disk):
    async with PredictionLog(spool, commit_wait_s=10) as log:
        disk.takes_s = 0.01
        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(log.accept(accepted(number)))
        assert disk.flushes < 10
        assert len(spooled(spool).rows) == 300


async def test_while_the_disk_hangs_the_event_loop_does_not(spool: Spool, disk: Disk):
    async with PredictionLog(spool) as log:
        disk.flows.clear()
        begun = time.monotonic()
        for number in range(20):
            await log.accept(accepted(number))
            log.finish(finished(number))
        assert time.monotonic() - begun < 5
        assert log.late == 20
        assert log.backlog_bytes > 19 * 1000
        disk.flows.set()
        await until(lambda: not log.backlog_bytes)
    assert states(spooled(spool)) == [(f"request-{number}", "answered") for number in range(20)]
    assert log.lost == 0


async def test_what_waits_in_memory_is_bounded_and_the_newest_of_it_is_kept(
    spool: Spool, disk: Disk, caplog: pytest.LogCaptureFixture
):
    async with PredictionLog(spool, backlog_bytes=100_000, commit_wait_s=0.0) as log:
        disk.flows.clear()
        await log.accept(accepted(0))
        await until(lambda: not log.backlog_bytes)  # the writer hangs over it
        for number in range(1, 100):
            await log.accept(accepted(number, picture(number, 9_000)))
            assert log.backlog_bytes <= 100_000
        assert log.lost == 90
        disk.flows.set()
    assert states(spooled(spool)) == [(f"request-{number}", "unknown") for number in [0, *range(91, 100)]]
    assert [record.getMessage() for record in caplog.records] == ["prediction_log_lost"], "one line a minute"


async def test_a_disk_that_fails_costs_what_came_meanwhile_and_no_answer(
    spool: Spool, disk: Disk, caplog: pytest.LogCaptureFixture
):
    async with PredictionLog(spool) as log:
        await log.accept(accepted(1))
        disk.fails_with = errno.EIO
        for number in range(2, 12):
            await log.accept(accepted(number))
            log.finish(finished(number))
        await until(lambda: log.lost == 20)
        disk.fails_with = 0
        await log.accept(accepted(12))
    assert [row.request_id for row in spooled(spool).rows] == ["request-1", "request-12"]
    (line,) = [json.loads(logs.JsonFormatter().format(record)) for record in caplog.records]
    assert (line["event"], line["reason"]) == ("prediction_log_lost", "Input/output error")


async def test_a_record_that_cannot_be_written_costs_no_other(spool: Spool, caplog: pytest.LogCaptureFixture):
    async with PredictionLog(spool) as log:
        await log.accept(accepted(1))
        log.finish(finished(1, prediction=math.nan))
        log.finish(finished(1, prediction=0.25))
    (row,) = spooled(spool).rows
    assert (row.prediction, log.lost) == (0.25, 1)
    assert "ValidationError in Finished" in logs.JsonFormatter().format(caplog.records[0])


async def test_an_idle_segment_is_closed_when_it_is_old_enough(folder: Path):
    spool = Spool(folder, replica="a", segment_age_s=0.1)
    async with PredictionLog(spool) as log:
        await log.accept(accepted(1))
        assert spool.closed() == []
        await until(spool.closed)
    spool.close()


async def test_what_was_taken_is_written_at_the_end(spool: Spool, disk: Disk):
    async with PredictionLog(spool, commit_wait_s=0.0) as log:
        disk.takes_s = 0.02
        for number in range(50):
            await log.accept(accepted(number))
            log.finish(finished(number))
    assert len(states(spooled(spool))) == 50
    assert len(spool.closed()) == 1


async def test_after_the_end_nothing_is_taken_and_nobody_waits(spool: Spool):
    async with PredictionLog(spool, commit_wait_s=60) as log:
        pass
    await log.accept(accepted(1))
    log.finish(finished(1))
    assert (log.lost, spooled(spool).rows) == (2, ())


async def test_an_edge_that_goes_away_in_the_middle_leaves_its_challenge_written(spool: Spool, disk: Disk):
    async with PredictionLog(spool, commit_wait_s=10) as log:
        disk.takes_s = 0.1
        task = asyncio.create_task(log.accept(accepted(1)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await log.accept(accepted(2))
    assert len(spooled(spool).rows) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of_one_mib(tmp_path / "small") as folder:
        yield folder


async def test_a_full_disk_costs_the_oldest_rows_and_no_answer(small_disk: Path, caplog: pytest.LogCaptureFixture):
    metrics = Metrics()
    async with kept_in(small_disk / "spool", segment_bytes=100_000, gauge=metrics.gauge) as log:
        slowest_s = 0.0
        for number in range(150):
            begun = time.monotonic()
            await log.accept(accepted(number, picture(number, 20_000)))
            log.finish(finished(number))
            slowest_s = max(slowest_s, time.monotonic() - begun)
        assert slowest_s < 1
        await until(lambda: not log.backlog_bytes)
    merged = read_log(segment_files(small_disk))
    kept = [int(row.request_id.removeprefix("request-")) for row in merged.rows]
    assert kept == list(range(150 - len(kept), 150))
    assert len(kept) >= 20
    assert merged.orphans <= 1, "the outcome of the last challenge that was dropped may lie in the next segment"
    assert (log.lost, merged.torn_lines) == (0, 0)
    assert gauges(metrics)["spool_shed"] > 5
    assert [record.getMessage() for record in caplog.records] == ["spool_shed"]
    assert len(logs.JsonFormatter().format(caplog.records[0])) < 400, "no picture is in it"


async def test_a_disk_full_of_other_things_costs_the_log_and_no_answer(small_disk: Path):
    async with kept_in(small_disk / "spool") as log:
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "other").write_bytes(bytes(2 * MIB))
        for number in range(20):
            await log.accept(accepted(number))
            log.finish(finished(number))
        await until(lambda: log.lost == 40)
        (small_disk / "other").unlink()
        await log.accept(accepted(20))
    assert states(read_log(segment_files(small_disk))) == [("request-20", "unknown")]


# --- a miner that dies

MINER = """
import asyncio, sys
from pathlib import Path
from serving.miner.prediction_log import PredictionLog
from serving.miner.spool import Spool
from tests.serving.miner.entries import accepted, finished, picture

async def main(folder, first):
    spool = Spool(Path(folder), replica="miner-0", segment_bytes=200_000)
    async with PredictionLog(spool, commit_wait_s=60) as log:
        for number in range(first, first + 1_000_000):
            await log.accept(accepted(number, picture(number, 5_000)))
            print("accepted", number, "!", flush=True)
            if number % 3:
                log.finish(finished(number))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def kill_a_miner(folder: Path, first: int, *, after: int) -> int:
    """The last challenge that it said was accepted."""
    command = [sys.executable, "-c", MINER, str(folder), str(first)]
    last = first
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as miner:
        assert miner.stdout is not None
        for line in miner.stdout:
            if line.endswith("!\n"):
                last = int(line.split()[1])
            if last == first + after:
                miner.send_signal(signal.SIGKILL)
    return last


async def test_a_killed_miner_loses_no_challenge_that_it_accepted(folder: Path, moto: Moto):
    told: set[str] = set()
    for first, after in ((0, 40), (10_000, 111), (20_000, 7)):
        last = kill_a_miner(folder, first, after=after)
        told |= {f"request-{number}" for number in range(first, last + 1)}
    local = read_log(segment_files(folder))
    found = {row.request_id for row in local.rows}
    assert told <= found
    assert len(local.rows) == len(found) <= len(told) + 3, "the last of each may not have been told"
    assert (local.orphans, local.torn_lines <= 3) == (0, True)
    outcomes = {int(row.request_id.removeprefix("request-")): row.outcome for row in local.rows}
    assert {outcome for number, outcome in outcomes.items() if number % 3 == 0} == {"unknown"}
    assert sum(outcome == "unknown" for number, outcome in outcomes.items() if number % 3) <= 3

    metrics = Metrics()
    async with kept_in(folder, bucket=BUCKET, endpoint_url=moto.url, gauge=metrics.gauge):
        await until(lambda: gauges(metrics)["spool_segments"] == 0)
    objects = moto.objects()
    segments = [data for key, data in objects.items() if key.startswith("segments/")]
    assert Log.of(segments * 2) == Log(rows=local.rows, orphans=0, torn_lines=2 * local.torn_lines)
    for row in local.rows:
        assert sha256(objects[f"images/{row.image_sha256[:2]}/{row.image_sha256}.jpg"]) == row.image_sha256


# --- all of it


async def test_two_replicas_write_one_log(tmp_path: Path, moto: Moto):
    async with (
        kept_in(tmp_path / "a", replica="miner-0", bucket=BUCKET, endpoint_url=moto.url) as first,
        kept_in(tmp_path / "b", replica="miner-1", bucket=BUCKET, endpoint_url=moto.url) as second,
    ):
        for number in range(10):
            log = (first, second)[number % 2]
            await log.accept(accepted(number, picture(number // 2)))
            log.finish(finished(number))
    objects = moto.objects()
    merged = Log.of(data for key, data in objects.items() if key.startswith("segments/"))
    assert [(row.request_id, row.replica) for row in merged.rows] == [
        (f"request-{number}", f"miner-{number % 2}") for number in range(10)
    ]
    assert sorted(key for key in objects if key.startswith("images/")) == sorted(
        f"images/{name[:2]}/{name}.jpg" for name in (sha256(picture(number)) for number in range(5))
    )


async def test_a_server_that_is_down_holds_no_answer_up(folder: Path, moto: Moto):
    moto.stop()
    metrics = Metrics()
    async with kept_in(folder, segment_age_s=0.05, bucket=BUCKET, endpoint_url=moto.url, gauge=metrics.gauge) as log:
        for number in range(30):
            await log.accept(accepted(number))
            log.finish(finished(number))
            await asyncio.sleep(0.01)
        await until(lambda: gauges(metrics)["upload_failures"] >= 1)
        shown = gauges(metrics)
        assert shown["spool_segments"] >= 2
        assert shown["spool_oldest_age_seconds"] > 0.1
        moto.start()
        await until(lambda: gauges(metrics)["spool_segments"] == 0)
        shown = gauges(metrics)
    merged = Log.of(data for key, data in moto.objects().items() if key.startswith("segments/"))
    assert states(merged) == [(f"request-{number}", "answered") for number in range(30)]
    assert (shown["spool_bytes"], shown["spool_shed"], shown["prediction_log_lost"]) == (0, 0, 0)
    assert shown["upload_segments"] >= 2


async def test_without_a_bucket_the_log_stays_where_it_can_be_read(folder: Path):
    for number in range(3):
        async with kept_in(folder) as log:
            await log.accept(accepted(number))
            log.finish(finished(number))
    assert states(read_log(segment_files(folder))) == [(f"request-{number}", "answered") for number in range(3)]
    async with kept_in(folder, replica="") as log:
        await log.accept(accepted(3))
    assert read_log(segment_files(folder)).rows[3].replica


def test_the_log_loads_boto3_only_for_a_bucket_and_never_pyarrow():
    code = "import sys, serving.miner.prediction_log; print(sorted({'boto3', 'pyarrow', 'pandas'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
