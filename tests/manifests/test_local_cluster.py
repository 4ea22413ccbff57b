import base64
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manifests import credentials, local_cluster
from streetvision.subnet.wallet import load_keypair


@dataclass
class Fake:
    """A cluster that keeps what it is given."""

    objects: dict[tuple[str, str], dict] = field(default_factory=dict)

    def get(self, kind, name):
        return self.objects.get((kind, name))

    def create(self, value):
        self.objects[value["kind"].lower(), value["metadata"]["name"]] = value

    @contextmanager
    def forwarded(self, what, port):
        assert (what, port) == ("service/streetvision-s3", 7070)
        yield 1234


def test_secrets_are_made_once_and_kept():
    cluster = Fake()
    assert credentials.ensure_object_store(cluster, endpoint="http://s3:7070")
    before = dict(cluster.objects)
    assert not credentials.ensure_object_store(cluster, endpoint="http://other:1")
    assert cluster.objects == before
    other = Fake()
    credentials.ensure_object_store(other, endpoint="http://s3:7070")
    assert credentials.object_store_keys(other) != credentials.object_store_keys(cluster)


def test_the_object_store_secret_serves_boto3_and_kserve():
    cluster = Fake()
    credentials.ensure_object_store(cluster, endpoint="http://s3:7070")
    secret = cluster.objects["secret", "streetvision-object-store"]
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert data["AWS_ENDPOINT_URL"] == "http://s3:7070"
    assert data["AWS_REGION"] == data["AWS_DEFAULT_REGION"] == "us-east-1"
    assert len(data["AWS_ACCESS_KEY_ID"]) == 20
    assert len(data["AWS_SECRET_ACCESS_KEY"]) == 40
    assert secret["metadata"]["annotations"] == {
        "serving.kserve.io/s3-endpoint": "s3:7070",
        "serving.kserve.io/s3-usehttps": "0",
        "serving.kserve.io/s3-region": "us-east-1",
        "serving.kserve.io/s3-usevirtualbucket": "false",
    }


def test_a_hotkey_is_a_file_that_bittensor_reads_and_none_of_it_stays_here(tmp_path):
    cluster = Fake()
    before = set(Path("/dev/shm").iterdir())
    assert credentials.ensure_hotkey(cluster, "miner")
    assert set(Path("/dev/shm").iterdir()) <= before
    content = credentials.secret(cluster, "miner")
    assert list(content) == ["hotkey"], "no coldkey"
    file = tmp_path / "wallet" / "hotkeys" / "hotkey"
    file.parent.mkdir(parents=True)
    file.write_bytes(content["hotkey"])
    assert load_keypair(tmp_path, "wallet", "hotkey").ss58_address == json.loads(content["hotkey"])["ss58Address"]


def test_the_mock_network_lets_one_validator_ask_and_knows_the_miner():
    cluster = Fake()
    for name in (local_cluster.MINER, local_cluster.VALIDATOR):
        credentials.ensure_hotkey(cluster, name)
    neurons = json.loads(local_cluster.metagraph(cluster)["data"]["metagraph.json"])
    addresses = [
        json.loads(credentials.secret(cluster, name)["hotkey"])["ss58Address"]
        for name in (local_cluster.VALIDATOR, local_cluster.MINER)
    ]
    assert [neuron["hotkey"] for neuron in neurons] == addresses
    assert [neuron["permit"] for neuron in neurons] == [True, False]


def test_boto3_finds_the_cluster_in_the_block_and_what_was_there_after_it(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "my own")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    cluster = Fake()
    credentials.ensure_object_store(cluster, endpoint="http://s3:7070")
    with pytest.raises(RuntimeError, match="inside"), local_cluster.object_store(cluster):
        assert "AWS_PROFILE" not in os.environ
        assert os.environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1234"
        assert os.environ["AWS_ACCESS_KEY_ID"] == credentials.object_store_keys(cluster)[0]
        raise RuntimeError("inside")
    assert os.environ["AWS_PROFILE"] == "mine"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "my own"
    assert "AWS_ENDPOINT_URL" not in os.environ
