"""Faults around a miner process, and its prediction log afterwards as a consumer reads it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from bittensor_wallet import Keypair

from streetvision.curation.prediction_log import Row, read_log, segment_files
from streetvision.curation.prediction_table import to_parquet
from streetvision.subnet import btauth
from tests.serving.miner.disks import disk_of_one_mib
from tests.serving.miner.entries import Told, ask_miner, logged_once, picture, sha256
from tests.serving.miner.s3 import BUCKET, Moto, use_keys

# Fixtures come from the conftest.py beside this file.
pytestmark = pytest.mark.slow  # processes start, and are waited for

ALICE, BOB = Keypair.create_from_uri("//Alice"), Keypair.create_from_uri("//Bob")
MIB = 1024 * 1024
SKEW_S = 300.0


def eventually(holds: Callable[[], object], *, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def gauge(miner: Any, name: str) -> float:
    return miner.counts()[f"streetvision_miner_{name}"]


def ask_about(miner: Any, numbers: range, *, size_bytes: int = 1000) -> list[Told]:
    """What is said to challenges one after the other."""
    return [ask_miner(miner, picture(number, size_bytes)) for number in numbers]


def spooled_rows(folder: Path) -> tuple[Row, ...]:
    log = read_log(segment_files(folder))
    assert (log.orphans, log.torn_lines) == (0, 0)
    return log.rows


# --- S3


COUNT, LARGE = 13, 700_000  # make more than a segment


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moto]:
    use_keys(monkeypatch)
    s3 = Moto()
    s3.start()
    s3.clear()
    yield s3
    s3.close()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def start_uploading(start_process: Callable[..., Any], s3: Moto, spool: Path) -> Callable[[], Any]:
    """Starts miners that keep their log in `spool` and take it to the server, one after the other."""
    return lambda: start_process(SPOOL_FOLDER=str(spool), BUCKET=BUCKET, S3_ENDPOINT_URL=s3.url)


def rows_in_the_bucket(s3: Moto, folder: Path) -> list[Row]:
    """The rows of the Parquet table that is made of what lies in the bucket; every picture of theirs lies there."""
    objects = s3.objects()
    for key, data in objects.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    table = folder / "log.parquet"
    log = to_parquet(segment_files(folder), table)
    assert (log.orphans, log.torn_lines) == (0, 0)
    rows = [Row.model_validate(row | {"parts_ms": dict(row["parts_ms"])}) for row in pq.read_table(table).to_pylist()]
    for row in rows:
        assert sha256(objects[f"images/{row.image_sha256[:2]}/{row.image_sha256}.jpg"]) == row.image_sha256
    return rows


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_challenges_of_an_outage_of_s3_are_in_the_bucket_once_whatever_ends_the_miner_meanwhile(
    s3: Moto, start_uploading: Callable[[], Any], spool: Path, predictor: Any, tmp_path: Path, ending: signal.Signals
):
    s3.stop()
    miner = start_uploading()
    told = ask_about(miner, range(COUNT), size_bytes=LARGE)
    eventually(lambda: gauge(miner, "upload_failures"))
    eventually(lambda: [row.outcome for row in read_log(segment_files(spool)).rows] == ["answered"] * COUNT)
    predictor.delay_s = 1.0
    late_before = gauge(miner, "prediction_log_late")
    held: list[Told] = []

    def ask_last() -> None:
        try:
            held.append(ask_miner(miner, picture(COUNT)))
        except httpx.TransportError:
            assert ending is signal.SIGKILL

    asking = threading.Thread(target=ask_last)
    asking.start()
    eventually(lambda: len(predictor.requests) == COUNT + 1)
    time.sleep(0.1)  # an acceptance is on the disk within 20 ms, or counted as late
    late = gauge(miner, "prediction_log_late") - late_before
    miner.popen.send_signal(ending)
    assert miner.popen.wait(15) == (0 if ending is signal.SIGTERM else -signal.SIGKILL)
    asking.join()
    predictor.delay_s = 0.0

    told += held
    miner = start_uploading()  # and the server is still down
    told += ask_about(miner, range(COUNT + 1, COUNT + 4))
    eventually(lambda: gauge(miner, "upload_failures"))
    s3.start()
    eventually(lambda: gauge(miner, "spool_segments") == 1)  # the open one
    assert miner.stop() == 0
    assert not [path for path in spool.iterdir() if path.is_dir()]

    rows = rows_in_the_bucket(s3, tmp_path / "bucket")
    unfinished = [row for row in rows if row.outcome == "unknown"]
    finished = logged_once([row for row in rows if row.outcome != "unknown"], told)
    assert {row.outcome for row in finished} == {"answered"}
    if ending is signal.SIGKILL:  # which may cost what was not on the disk, and no acceptance that was not counted
        assert {row.image_sha256 for row in unfinished} <= {sha256(picture(COUNT))}
        assert len(unfinished) + late >= 1
    else:
        assert unfinished == []


def test_a_miner_that_is_killed_between_an_upload_and_its_deletion_leaves_every_challenge_once(
    s3: Moto, start_uploading: Callable[[], Any], spool: Path, tmp_path: Path
):
    miner = start_uploading()

    def kill(method: str, key: str) -> None:
        if s3.requests[-2:] == [("PUT", key), ("HEAD", key)] and key.startswith("segments/"):
            miner.popen.kill()

    s3.before = kill
    told = ask_about(miner, range(COUNT), size_bytes=LARGE)
    assert miner.popen.wait(15) == -signal.SIGKILL
    kept = {path.name for path in spool.iterdir() if path.is_dir()}
    taken = {Path(key).stem for key in s3.objects() if key.startswith("segments/")}
    assert len(taken) == 1
    assert taken <= kept
    assert start_uploading().stop() == 0
    assert not [path for path in spool.iterdir() if path.is_dir()]
    assert {row.outcome for row in logged_once(rows_in_the_bucket(s3, tmp_path / "bucket"), told)} == {"answered"}
    put = [key for method, key in s3.requests if method == "PUT"]
    assert len(put) == len(set(put)), "nothing is sent twice"


# --- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of_one_mib(tmp_path / "small") as folder:
        yield folder


def test_a_disk_full_of_the_log_costs_its_oldest_rows_and_no_answer(
    start_process: Callable[..., Any], small_disk: Path
):
    miner = start_process(SPOOL_FOLDER=str(small_disk / "spool"), NONCE_FILE=str(small_disk / "nonces"))
    told = ask_about(miner, range(100), size_bytes=30_000)
    assert {one.prediction for one in told} == {0.77}
    assert gauge(miner, "spool_shed") >= 2
    assert gauge(miner, "prediction_log_lost") == 0
    assert miner.stop() == 0
    log = read_log(segment_files(small_disk))
    assert log.torn_lines == 0
    assert log.orphans <= 1, "the outcome of the last challenge that was dropped may lie in the next segment"
    assert 0 < len(log.rows) < 40
    logged_once(log.rows, told[-len(log.rows) :])


def test_a_disk_full_of_other_things_costs_rows_that_are_counted_and_no_answer(
    start_process: Callable[..., Any], small_disk: Path
):
    miner = start_process(SPOOL_FOLDER=str(small_disk / "spool"), NONCE_FILE=str(small_disk / "nonces"))
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "other").write_bytes(bytes(2 * MIB))
    unlogged = ask_about(miner, range(10))
    assert {one.prediction for one in unlogged} == {0.77}
    eventually(lambda: gauge(miner, "prediction_log_lost") == 20)
    (small_disk / "other").unlink()
    told = ask_about(miner, range(10, 15))
    assert miner.stop() == 0
    logged_once(spooled_rows(small_disk), told)


# --- clocks


SKEWS = pytest.mark.parametrize(
    ("skew_s", "reason"), [(-SKEW_S, "stale_nonce"), (SKEW_S, "future_nonce")], ids=["behind", "ahead"]
)


def btauth_headers(body: bytes, nonce_ns: int) -> dict[str, str]:
    return btauth.build_headers(
        body,
        target="/ImageSynapse",
        sender=ALICE.ss58_address,
        receiver=BOB.ss58_address,
        nonce_ns=nonce_ns,
        sign=ALICE.sign,
    )


@SKEWS
def test_challenges_of_a_validator_whose_clock_is_five_minutes_off_are_refused_and_not_logged(
    start_process: Callable[..., Any], spool: Path, tmp_path: Path, skew_s: float, reason: str
):
    nonces = tmp_path / "nonces"
    nonces.touch()  # of an earlier start; without one every nonce from before this one would be refused
    miner = start_process(SPOOL_FOLDER=str(spool), NONCE_FILE=str(nonces))
    told = ask_about(miner, range(3))
    nonce_ns = time.time_ns() + int(skew_s * 1e9)
    headers, body = miner.validator.request(image=picture(3), nonce_ns=nonce_ns)
    for signed in (headers, btauth_headers(body, nonce_ns)):
        assert miner.validator.send(signed, body).status_code == 401
    told += ask_about(miner, range(4, 7))
    assert miner.refused() == {reason: 2}
    assert miner.stop() == 0
    logged_once(spooled_rows(spool), told)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], None]:
    """Sets how far ahead the time of day is in the processes that start, and while they run."""
    (tmp_path / "site").mkdir()
    ahead = tmp_path / "site" / "ahead_ns"
    (tmp_path / "site" / "sitecustomize.py").write_text(
        f"""
import time
from pathlib import Path

time_ns = time.time_ns
time.time_ns = lambda: time_ns() + int(Path({str(ahead)!r}).read_text())
time.time = lambda: time.time_ns() / 1e9
"""
    )

    def set_clock(ahead_s: float) -> None:
        ahead.with_suffix(".new").write_text(str(int(ahead_s * 1e9)))
        ahead.with_suffix(".new").replace(ahead)

    set_clock(0.0)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    return set_clock


@SKEWS
def test_while_our_clock_is_five_minutes_off_nothing_is_logged_and_what_was_accepted_before_is_once(
    start_process: Callable[..., Any],
    predictor: Any,
    spool: Path,
    set_clock: Callable[[float], None],
    skew_s: float,
    reason: str,
):
    miner = start_process(SPOOL_FOLDER=str(spool))
    seen = miner.validator.request(image=picture(0), uuid="seen")
    begun_s = time.monotonic()
    reply = miner.validator.send(*seen)
    told = [Told(sha256(picture(0)), reply.json()["prediction"], time.monotonic() - begun_s)]
    predictor.delay_s = 1.0
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(ask_miner, miner, picture(1))
        eventually(lambda: len(predictor.requests) == 2)
        set_clock(-skew_s)
        told.append(held.result())
    predictor.delay_s = 0.0
    for number in range(2, 5):
        assert miner.validator.ask(image=picture(number), uuid="refused").status_code == 401
    set_clock(0.0)
    assert miner.validator.send(*seen).status_code == 401
    told += ask_about(miner, range(5, 8))
    assert miner.refused() == {reason: 3, "replay": 1}
    assert miner.stop() == 0
    rows = logged_once(spooled_rows(spool), told)
    assert 900 < rows[1].latency_ms < 2000, "the time of day does not measure it"


def test_a_miner_whose_clock_was_ahead_at_its_start_answers_once_it_is_right(
    start_process: Callable[..., Any], set_clock: Callable[[float], None]
):
    set_clock(300.0)
    miner = start_process()
    set_clock(0.0)
    assert miner.validator.ask().status_code == 200
