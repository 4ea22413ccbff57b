"""Files and folders appear complete or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest

from streetvision import atomic
from streetvision.errors import DataError, SettingsError, StorageError


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".tmp"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_file_holds_what_was_written(tmp_path: Path):
    atomic.write_json(tmp_path / "new" / "a.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": [1, 2]}
    assert leftovers(tmp_path / "new") == []


def test_nan_never_reaches_a_json_file(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "a.json", float("nan"))
    assert not (tmp_path / "a.json").exists()


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(StorageError, match="cannot write .*a.txt.*No space left on device") as caught:
        atomic.write_text(path, "new")
    assert caught.value.hint is not None
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_really_full_device_is_one_sentence():
    with pytest.raises(StorageError, match="cannot write"):
        atomic.write_bytes(Path("/dev/full/a"), b"x")


def test_a_folder_appears_when_the_block_ends(tmp_path: Path):
    with atomic.directory(tmp_path / "set") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "set").exists()
    assert (tmp_path / "set" / "a").read_text() == "a"
    assert leftovers(tmp_path) == []


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path):
    for name in ("old", "new"):
        with atomic.directory(tmp_path / "set") as folder:
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["new"]
    assert leftovers(tmp_path) == []


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").touch()
    refused = pytest.raises(SettingsError, match="is not empty and holds no `manifest.parquet`")
    with refused, atomic.directory(photos, replaces="manifest.parquet"):
        pass
    assert [path.name for path in photos.iterdir()] == ["holiday.jpg"]
    (photos / "holiday.jpg").rename(photos / "manifest.parquet")
    with atomic.directory(photos, replaces="manifest.parquet") as folder:
        (folder / "manifest.parquet").write_text("new")
    assert (photos / "manifest.parquet").read_text() == "new"


def test_a_block_that_fails_keeps_the_old_folder_and_its_own_error(tmp_path: Path):
    with atomic.directory(tmp_path / "set") as folder:
        (folder / "old").touch()
    with pytest.raises(DataError, match="mine"), atomic.directory(tmp_path / "set") as folder:
        (folder / "half").touch()
        raise DataError("mine")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["old"]
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_inside_the_block_is_one_sentence(tmp_path: Path):
    with pytest.raises(StorageError, match="No space left"), atomic.directory(tmp_path / "set"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_linked_file_shares_its_content(tmp_path: Path):
    (tmp_path / "a").write_text("a")
    atomic.link_or_copy(tmp_path / "a", tmp_path / "deep" / "b")
    atomic.link_or_copy(tmp_path / "a", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").read_text() == "a"
