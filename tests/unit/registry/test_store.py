import pytest

from streetvision.errors import ModelDirectoryError, RegistryError, StorageError
from streetvision.inference.model_directory import ModelDirectory
from streetvision.registry.store import FolderStore


def test_stored_model_is_a_complete_copy_named_by_its_sha256(make_model, tmp_path):
    model, store = make_model(), FolderStore(tmp_path / "models")
    uri = store.put(model)
    assert uri == (tmp_path / "models" / model.sha256).as_uri()
    model.model_path.write_bytes(b"altered later")
    assert ModelDirectory.open(store.fetch(uri)).sha256 == model.sha256


def test_storing_twice_changes_nothing(make_model, tmp_path):
    store = FolderStore(tmp_path / "models")
    first = store.put(make_model())
    config = store.fetch(first) / "config.json"
    before = config.stat().st_mtime_ns, config.read_bytes()
    assert store.put(make_model(threshold=0.6)) == first
    assert (config.stat().st_mtime_ns, config.read_bytes()) == before


def test_altered_stored_model_is_named(make_model, tmp_path):
    model, store = make_model(), FolderStore(tmp_path / "models")
    (store.fetch(store.put(model)) / "model.onnx").write_bytes(b"altered")
    with pytest.raises(ModelDirectoryError, match="`model.onnx` has sha256"):
        store.put(model)


def test_full_disk_leaves_nothing_half_written(make_model, tmp_path, monkeypatch):
    model, store = make_model(), FolderStore(tmp_path / "models")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        store.put(model)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("uri", ["s3://bucket/models/a/", "file:///nowhere/at/all", ""])
def test_model_that_is_not_here_is_one_clear_sentence(tmp_path, uri):
    with pytest.raises(RegistryError, match=f"registered model `{uri}` is not a folder of this machine"):
        FolderStore(tmp_path).fetch(uri)
