import hashlib
import threading

import pytest
from huggingface_hub import snapshot_download

from streetvision.errors import BusyError, HubError, StorageError
from streetvision.registry.hub import FolderHub
from streetvision.registry.lock import LocalLock

FILES = {"model.onnx": b"weights", "config.json": b"{}"}


@pytest.fixture
def hub(tmp_path):
    return FolderHub(tmp_path / "hub", "acme/roadwork")


def test_empty_hub_has_no_head(hub):
    assert hub.head() is None


def test_push_reads_back_by_revision_and_head(hub, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    commit = hub.push({"model.onnx": tmp_path / "model.onnx", "sub/a.txt": b"a"}, message="one", parent=None)
    assert hub.head() == commit.revision
    assert hub.read("model.onnx", commit.revision) == b"weights"
    assert hub.read("sub/a.txt", commit.revision) == b"a"
    assert commit.sha256["model.onnx"] == hashlib.sha256(b"weights").hexdigest()


def test_later_edit_of_the_source_leaves_the_pushed_file(hub, tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(b"weights")
    commit = hub.push({"model.onnx": source}, message="one", parent=None)
    with source.open("r+b") as file:
        file.write(b"altered")
    assert hub.read("model.onnx", commit.revision) == b"weights"


def test_hugging_face_client_reads_the_folder_offline(hub, tmp_path):
    commit = hub.push(FILES, message="one", parent=None)
    folder = snapshot_download("acme/roadwork", cache_dir=tmp_path / "hub", local_files_only=True)
    assert folder.endswith(commit.revision)


def test_push_holds_exactly_its_files_and_the_old_revision_stays(hub):
    first = hub.push(FILES, message="one", parent=None)
    second = hub.push({"config.json": b"[]"}, message="two", parent=first.revision)
    assert hub.read("model.onnx", first.revision) == b"weights"
    with pytest.raises(HubError, match="`model.onnx` is not in revision"):
        hub.read("model.onnx", second.revision)


def test_same_files_again_are_the_same_commit(hub):
    first = hub.push(FILES, message="one", parent=None)
    assert hub.push(FILES, message="again", parent=first.revision) == first


def test_push_onto_a_hub_that_moved_on_is_refused(hub):
    first = hub.push(FILES, message="one", parent=None)
    with pytest.raises(HubError, match=f"stands at revision `{first.revision}`, expected `none`"):
        hub.push({"config.json": b"[]"}, message="two", parent=None)
    assert hub.head() == first.revision


def test_one_of_several_pushes_onto_the_same_parent_wins(hub):
    parent = hub.push(FILES, message="one", parent=None).revision
    won, lost = [], []

    def push(actor):
        try:
            won.append(hub.push({"config.json": str(actor).encode()}, message="mine", parent=parent).revision)
        except HubError:
            lost.append(actor)

    threads = [threading.Thread(target=push, args=(actor,)) for actor in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [hub.head()]
    assert len(lost) == 4


def test_failing_disk_leaves_the_head_and_nothing_half_written(hub, tmp_path, monkeypatch):
    first = hub.push(FILES, message="one", parent=None)

    def full(*args):
        raise OSError(28, "No space left on device")

    (tmp_path / "model.onnx").write_bytes(b"new")
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        hub.push({"config.json": b"[]", "model.onnx": tmp_path / "model.onnx"}, message="two", parent=first.revision)
    assert hub.head() == first.revision
    assert [path.name for path in (tmp_path / "hub/models--acme--roadwork/snapshots").iterdir()] == [first.revision]


def test_altered_snapshot_is_not_taken_for_the_same_files(hub, tmp_path):
    first = hub.push(FILES, message="one", parent=None)
    (tmp_path / "hub/models--acme--roadwork/snapshots" / first.revision / "model.onnx").write_bytes(b"altered")
    second = hub.push(FILES, message="one", parent=first.revision)
    assert second.revision != first.revision
    assert hub.read("model.onnx", second.revision) == b"weights"


@pytest.mark.parametrize("path", ["../model.onnx", "/etc/model.onnx", "a/../../b", ""])
def test_path_that_leaves_the_repository_is_refused(hub, path):
    with pytest.raises(HubError, match="leaves the repository"):
        hub.push({path: b"x"}, message="one", parent=None)


def test_missing_file_is_refused_before_anything_is_written(hub, tmp_path):
    with pytest.raises(HubError, match="cannot be read: No such file"):
        hub.push({"model.onnx": tmp_path / "nothing"}, message="one", parent=None)
    assert hub.head() is None


def test_push_during_another_is_busy(tmp_path):
    hub = FolderHub(tmp_path, "acme/roadwork", lock_timeout_s=0.05)
    with (
        LocalLock(tmp_path / "models--acme--roadwork" / ".push.lock", what="hub").hold("other"),
        pytest.raises(BusyError, match="hub lock is held by `other`"),
    ):
        hub.push(FILES, message="one", parent=None)
