import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.miner.spool import MIB, Spool
from streetvision.errors import BusyError, SettingsError, StorageError
from tests.serving.miner.disks import disk_of_one_mib
from tests.serving.miner.entries import picture, sha256

BLOCK = 4096

MakeSpool = Callable[..., Spool]


@pytest.fixture
def make_spool(tmp_path: Path) -> Iterator[MakeSpool]:
    """Spools that take at least four blocks; a second one of the same folder takes over from the first."""
    made: list[Spool] = []

    def make(folder: Path = tmp_path / "spool", **settings: Any) -> Spool:
        for spool in made:
            spool.close()
        made.append(
            Spool(folder, **({"replica": "miner-0", "limit_bytes": MIB, "segment_bytes": 64 * 1024} | settings))
        )
        return made[-1]

    yield make
    for spool in made:
        spool.close()


def write(spool: Spool, number: int, size_bytes: int = 1000) -> str:
    data = picture(number, size_bytes)
    spool.write(line(number), {sha256(data): data})
    return sha256(data)


def line(number: int) -> bytes:
    return f'{{"number":{number}}}\n'.encode()


def files(spool: Spool) -> dict[str, list[str]]:
    return {
        folder.name: sorted(file.name for file in folder.iterdir())
        for folder in sorted(spool.folder.iterdir())
        if folder.is_dir()
    }


def on_disk(folder: Path) -> int:
    return sum(-(-file.stat().st_size // BLOCK) * BLOCK for file in folder.rglob("*.*") if file.parent != folder)


def lines(spool: Spool) -> list[bytes]:
    return [found for file in sorted(spool.folder.rglob("*.jsonl")) for found in file.read_bytes().splitlines(True)]


def test_records_and_their_pictures_lie_in_one_segment(make_spool: MakeSpool):
    spool = make_spool()
    names = [write(spool, number) for number in range(3)]
    ((segment, found),) = files(spool).items()
    assert segment.split("-", 1)[1].startswith("miner-0-")
    assert found == sorted([*(f"{name}.jpg" for name in names), "records.jsonl"])
    assert lines(spool) == [line(0), line(1), line(2)]
    assert (spool.folder / segment / f"{names[2]}.jpg").read_bytes() == picture(2)


def test_a_picture_that_comes_again_is_written_once(make_spool: MakeSpool):
    spool = make_spool()
    for _ in range(3):
        write(spool, 1)
    assert [len(found) for found in files(spool).values()] == [2]
    assert spool.size_bytes == on_disk(spool.folder)


def test_a_record_is_flushed_to_the_disk_before_write_returns(make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch):
    spool = make_spool()
    flushed: list[bytes] = []
    flush = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        flush(descriptor)
        flushed.append(Path(f"/proc/self/fd/{descriptor}").read_bytes())

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    write(spool, 1)
    write(spool, 2)
    assert flushed == [line(1), line(1) + line(2)]


def test_a_folder_that_was_deleted_is_made_again_with_the_next_segment(make_spool: MakeSpool):
    spool = make_spool()
    write(spool, 1)
    shutil.rmtree(spool.folder)
    spool.rotate()
    write(spool, 2)
    assert lines(spool) == [line(2)]


def test_a_segment_is_closed_when_it_is_large_enough(make_spool: MakeSpool):
    spool = make_spool(segment_bytes=4 * BLOCK)
    for number in range(9):
        write(spool, number)
        spool.rotate_if_due()
    assert [len(found) for found in files(spool).values()] == [4, 4, 4]
    assert [len(segment.pictures()) for segment in spool.closed()] == [3, 3, 3]


def test_a_segment_is_closed_when_it_is_old_enough(make_spool: MakeSpool):
    spool = make_spool(segment_age_s=0.0)
    write(spool, 1)
    assert spool.closed() == []
    spool.rotate_if_due()
    assert len(spool.closed()) == 1
    assert spool.due_s is None


def test_what_an_earlier_process_left_is_closed_and_counted(make_spool: MakeSpool):
    spool = make_spool()
    write(spool, 1)
    spool.rotate()
    write(spool, 2)
    before = files(spool)
    again = make_spool()
    assert [segment.name for segment in again.closed()] == list(before)
    assert (again.segments, again.size_bytes) == (2, on_disk(again.folder))
    assert lines(again) == [line(1), line(2)]


def test_what_a_crash_left_of_a_deletion_or_a_beginning_is_swept(make_spool: MakeSpool):
    spool = make_spool()
    names = [f"20261123T00000000000{number}Z-miner-0-0123abc{number}" for number in range(2)]
    for name in names:
        (spool.folder / name).mkdir()
        (spool.folder / name / f"{'0' * 64}.jpg").write_bytes(b"left")
    (spool.folder / names[1] / "records.jsonl").touch()
    again = make_spool()
    assert (files(again), again.segments, again.size_bytes) == ({}, 0, 0)


def test_folders_that_are_no_segments_are_left_alone(make_spool: MakeSpool, tmp_path: Path):
    for name in ("photos", "2026", "20261123T000000000000Z-miner-0-notmine"):
        (tmp_path / "spool" / name).mkdir(parents=True)
        (tmp_path / "spool" / name / "holiday.jpg").write_bytes(b"dear")
    spool = make_spool()
    write(spool, 1)
    spool.rotate()
    assert spool.segments == 1
    assert len(list(spool.folder.glob("*/holiday.jpg"))) == 3


def test_beyond_the_limit_the_oldest_segments_go_with_their_pictures(
    make_spool: MakeSpool, caplog: pytest.LogCaptureFixture
):
    spool = make_spool(limit_bytes=16 * BLOCK, segment_bytes=4 * BLOCK)
    with caplog.at_level(logging.WARNING):
        for number in range(60):
            write(spool, number)
            spool.rotate_if_due()
            assert spool.size_bytes == on_disk(spool.folder) <= 16 * BLOCK
    assert lines(spool) == [line(number) for number in range(51, 60)]
    assert spool.shed == 17
    assert [record.getMessage() for record in caplog.records] == ["spool_shed"], "one line a minute"


def test_a_limit_that_holds_no_four_segments_is_refused(make_spool: MakeSpool):
    with pytest.raises(SettingsError, match="a spool of 100 bytes holds fewer than four segments of 26 bytes"):
        make_spool(limit_bytes=100, segment_bytes=26)


def test_one_folder_is_one_process_s(make_spool: MakeSpool):
    spool = make_spool()
    code = "import pathlib, sys, serving.miner.spool as spool; spool.Spool(pathlib.Path(sys.argv[1]), replica='b')"
    other = subprocess.run([sys.executable, "-c", code, spool.folder], capture_output=True, text=True, check=False)
    assert "BusyError: another miner keeps its prediction log in" in other.stderr


def test_a_folder_that_cannot_be_used_gets_a_sentence(make_spool: MakeSpool, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write `.*file/spool`"):
        make_spool(tmp_path / "file" / "spool")
    with pytest.raises(BusyError):
        Spool(make_spool().folder, replica="b")


def test_a_name_that_no_file_can_have_is_made_one(make_spool: MakeSpool):
    spool = make_spool(replica="../a b/ü")
    write(spool, 1)
    ((name, _),) = files(spool).items()
    assert name.split("-", 1)[1].startswith(".._a_b__-")


def test_a_segment_that_was_taken_away_is_forgotten(make_spool: MakeSpool):
    spool = make_spool()
    write(spool, 1)
    write(spool, 2)
    spool.rotate()
    (segment,) = spool.closed()
    for file in segment.pictures():
        spool.remove_picture(segment, file)
        assert spool.size_bytes == on_disk(spool.folder)
    assert spool.remove(segment)
    assert not spool.remove(segment)
    assert (files(spool), spool.segments, spool.size_bytes, spool.oldest_age_s) == ({}, 0, 0, 0.0)


def test_the_age_of_the_oldest_segment_is_known(make_spool: MakeSpool):
    spool = make_spool()
    write(spool, 1)
    spool.rotate()
    write(spool, 2)
    spool.closed()[0].since_s -= 100
    assert 100 < spool.oldest_age_s < 110


# --- failing disks


class Disk:
    """`os.write` and `os.fdatasync` of the spool, failing as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room_bytes: int | None = None
        self.flush_fails: list[int] = []
        self._write, self._flush = os.write, os.fdatasync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fdatasync", self.flush)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room_bytes is None:
            return self._write(descriptor, data)
        if self.room_bytes == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, data[: self.room_bytes])
        self.room_bytes -= written
        return written

    def flush(self, descriptor: int) -> None:
        if self.flush_fails:
            number = self.flush_fails.pop()
            raise OSError(number, os.strerror(number))
        self._flush(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_what_a_full_disk_cut_off_is_taken_back(make_spool: MakeSpool, disk: Disk):
    spool = make_spool()
    write(spool, 1)
    disk.room_bytes = 5
    with pytest.raises(OSError, match="No space left"):
        write(spool, 2)
    assert spool.shed == 1, "the only segment there was made room in vain"
    assert (files(spool), spool.size_bytes) == ({}, 0)
    disk.room_bytes = None
    write(spool, 3)
    assert lines(spool) == [line(3)]


@pytest.mark.parametrize("fails", [errno.ENOSPC, errno.EDQUOT])
def test_a_flush_that_fails_for_want_of_room_is_repeated_after_the_oldest_is_gone(
    make_spool: MakeSpool, disk: Disk, fails: int
):
    spool = make_spool()
    for number in (1, 2):
        write(spool, number)
        spool.rotate()
    write(spool, 3)
    disk.flush_fails = [fails]
    write(spool, 4)
    assert lines(spool) == [line(2), line(3), line(4)]
    assert spool.shed == 1
    assert spool.size_bytes == on_disk(spool.folder)


def test_a_failing_disk_costs_what_was_to_be_written_and_nothing_that_was(make_spool: MakeSpool, disk: Disk):
    spool = make_spool()
    write(spool, 1)
    disk.flush_fails = [errno.EIO]
    with pytest.raises(OSError, match="Input/output error"):
        write(spool, 2)
    assert (lines(spool), spool.shed) == ([line(1)], 0)
    write(spool, 3)
    assert lines(spool) == [line(1), line(3)]
    assert spool.size_bytes == on_disk(spool.folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of_one_mib(tmp_path / "small") as folder:
        yield folder


def test_on_a_disk_that_is_really_full_the_newest_are_kept(make_spool: MakeSpool, small_disk: Path):
    spool = make_spool(small_disk / "spool", limit_bytes=100 * MIB)
    for number in range(200):
        write(spool, number, 20_000)
        spool.rotate_if_due()
    kept = lines(spool)
    assert kept == [line(number) for number in range(200 - len(kept), 200)]
    assert len(kept) >= 25
    assert spool.shed > 0
    assert spool.size_bytes == on_disk(spool.folder)
    for number in range(200 - len(kept), 200):
        data = picture(number, 20_000)
        assert [file.read_bytes() for file in spool.folder.glob(f"*/{sha256(data)}.jpg")] == [data]


def test_a_disk_that_others_filled_takes_records_again_when_there_is_room(make_spool: MakeSpool, small_disk: Path):
    spool = make_spool(small_disk / "spool", limit_bytes=100 * MIB)
    other = small_disk / "other"
    with pytest.raises(OSError, match="No space left"):
        other.write_bytes(bytes(2 * MIB))
    with pytest.raises(OSError, match="No space left"):
        write(spool, 1)
    assert (files(spool), spool.size_bytes) == ({}, 0)
    other.unlink()
    write(spool, 2)
    assert lines(spool) == [line(2)]


def test_a_spool_is_opened_on_a_full_disk(make_spool: MakeSpool, small_disk: Path):
    spool = make_spool(small_disk / "spool", limit_bytes=100 * MIB)
    write(spool, 1, 100_000)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "other").write_bytes(bytes(2 * MIB))
    again = make_spool(small_disk / "spool", limit_bytes=100 * MIB)
    write(again, 2)
    assert lines(again) == [line(2)], "the older segment made room"
