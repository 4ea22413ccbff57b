import pytest

from streetvision.errors import ModelDirectoryError, RegistryError, SettingsError, StorageError
from streetvision.inference.model_directory import ModelDirectory
from streetvision.registry.s3_store import S3Location, S3Store
from tests.serving.miner.s3 import BUCKET, Misbehaving, Moto, Refuse, VersityGateway, use_keys

MODELS = f"s3://{BUCKET}/models/roadwork"


@pytest.fixture(scope="module")
def running():
    server = Moto()
    server.start()
    server.create_bucket()
    yield server
    server.close()


@pytest.fixture
def server(running, monkeypatch):
    use_keys(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
    running.clear()
    return running


@pytest.fixture
def store(server, tmp_path):
    return S3Store(MODELS, cache=tmp_path / "cache")


def written(server):
    return [key for method, key in server.requests if method == "PUT" and key]


def test_a_stored_model_is_at_its_sha256_and_comes_back_whole(make_model, server, store, tmp_path):
    model = make_model()
    uri = store.put(model)
    assert uri == f"{MODELS}/{model.sha256}/"
    elsewhere = S3Store(MODELS, cache=tmp_path / "another machine")
    path = elsewhere.fetch(uri)
    assert path == tmp_path / "another machine" / model.sha256
    assert ModelDirectory.open(path).sha256 == model.sha256


def test_its_config_is_written_last_so_that_half_a_model_is_none(make_model, server, store):
    model = make_model()

    def full(method, key):
        if method == "PUT" and key.endswith("config.json"):
            raise Refuse("507 Insufficient Storage")

    server.before = full
    with pytest.raises(StorageError, match=f"bucket `{BUCKET}` answered PutObject with 507"):
        store.put(model)
    server.before = lambda *_: None
    with pytest.raises(
        RegistryError, match="no whole model is at .*: `config.json`, which is written last, is missing"
    ):
        store.fetch(f"{MODELS}/{model.sha256}/")
    store.put(model)
    assert written(server)[-1].endswith("config.json")


def test_storing_twice_writes_nothing(make_model, server, store):
    store.put(make_model())
    server.requests.clear()
    store.put(make_model())
    assert written(server) == []


def test_a_model_of_the_cache_is_not_fetched_again_unless_it_was_altered(make_model, server, store):
    uri = store.put(make_model())
    path = store.fetch(uri)
    server.requests.clear()
    assert store.fetch(uri) == path
    assert server.requests == []
    (path / "model.onnx").write_bytes(b"altered")
    ModelDirectory.open(store.fetch(uri))
    assert server.requests


def test_what_was_altered_in_the_bucket_is_named(make_model, server, store, tmp_path):
    model = make_model()
    uri = store.put(model)
    key = f"models/roadwork/{model.sha256}/model.onnx"
    server.client.put_object(Bucket=BUCKET, Key=key, Body=b"altered")
    with pytest.raises(ModelDirectoryError, match=f"`model.onnx` has sha256 .*{MODELS}") as caught:
        S3Store(MODELS, cache=tmp_path / "b").fetch(uri)
    assert "delete the model there" in caught.value.hint
    with pytest.raises(ModelDirectoryError, match="`model.onnx` has sha256"):
        store.put(model)
    server.client.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(ModelDirectoryError, match="`model.onnx` is missing"):
        S3Store(MODELS, cache=tmp_path / "c").fetch(uri)
    assert not (tmp_path / "b" / model.sha256).exists()


def test_another_model_under_its_name_is_found_out(make_model, server, store, tmp_path):
    model, other = make_model(), make_model("another")
    uri, elsewhere = store.put(model), store.put(other)
    for name in ("config.json", "model.onnx", "training.json"):
        source = {"Bucket": BUCKET, "Key": f"{elsewhere.removeprefix(f's3://{BUCKET}/')}{name}"}
        server.client.copy_object(Bucket=BUCKET, Key=f"{uri.removeprefix(f's3://{BUCKET}/')}{name}", CopySource=source)
    with pytest.raises(ModelDirectoryError, match=f"the model at `{uri}` has sha256 {other.sha256}"):
        S3Store(MODELS, cache=tmp_path / "b").fetch(uri)


@pytest.mark.parametrize("uri", [f"{MODELS}/latest/", f"s3://{BUCKET}/{'a' * 63}/", "file:///a", ""])
def test_an_address_that_is_not_immutable_is_refused(store, uri):
    with pytest.raises(RegistryError, match="is not at `s3://BUCKET/PREFIX/<sha256>/`"):
        store.fetch(uri)


@pytest.mark.parametrize("uri", ["s3://", "s3:///models", "s3://A_B/models", "gs://bucket/a"])
def test_a_bucket_that_cannot_be_is_refused(uri, tmp_path):
    with pytest.raises(SettingsError, match=f"`{uri}` names no bucket"):
        S3Store(uri, cache=tmp_path)


def test_a_location_is_a_bucket_and_a_prefix():
    assert str(S3Location.parse("s3://bucket") / "a") == "s3://bucket/a/"
    assert str(S3Location.parse("s3://bucket/a/b//") / "c") == "s3://bucket/a/b/c/"


def test_a_bucket_that_is_missing_is_named(make_model, server, tmp_path):
    with pytest.raises(StorageError, match="there is no bucket `another`"):
        S3Store("s3://another/models", cache=tmp_path).put(make_model())


def test_a_refusal_says_what_is_not_allowed(make_model, server, store):
    def refuse(method, key):
        raise Refuse("403 Forbidden")

    server.before = refuse
    with pytest.raises(StorageError, match=f"bucket `{BUCKET}` does not allow ListObjectsV2 below") as caught:
        store.put(make_model())
    assert "these keys need ListBucket, GetObject and PutObject" in caught.value.hint


def test_a_server_out_of_reach_is_one_sentence(make_model, store, monkeypatch):
    monkeypatch.setattr("streetvision.registry.s3_store._TRIES", 1)
    with Misbehaving(pieces=1, hangs_up=True) as broken:
        monkeypatch.setenv("AWS_ENDPOINT_URL", broken.url)
        with pytest.raises(StorageError, match=f"bucket `{BUCKET}` cannot be reached: ") as caught:
            store.put(make_model())
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_without_keys_it_says_which(make_model, store, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=f"no keys were found for bucket `{BUCKET}`") as caught:
        store.put(make_model())
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


@pytest.mark.skipif(not VersityGateway.binary(), reason="no versitygw: `make tools` brings it")
def test_a_server_that_checks_signatures_takes_the_model_and_refuses_wrong_keys(make_model, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    server = VersityGateway(VersityGateway.binary(), tmp_path / "data")
    server.start()
    try:
        use_keys(monkeypatch)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        server.create_bucket()
        store = S3Store(MODELS, cache=tmp_path / "cache")
        model = make_model()
        uri = store.put(model)
        assert ModelDirectory.open(S3Store(MODELS, cache=tmp_path / "b").fetch(uri)).sha256 == model.sha256
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a wrong one")
        with pytest.raises(StorageError, match="does not accept the keys: SignatureDoesNotMatch"):
            store.put(model)
    finally:
        server.close()
