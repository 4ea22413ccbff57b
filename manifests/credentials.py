"""Secrets of the local cluster: made once, kept after that, and never written to a disk or a command line of ours."""

import secrets
import string
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path

from manifests.cluster import Cluster, Object
from streetvision.subnet.wallet import create_hotkey, hotkey_file

OBJECT_STORE = "streetvision-object-store"
REGION = "us-east-1"
HOTKEY = "hotkey"
_KEY_ID, _KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
_PART_OF = {"app.kubernetes.io/part-of": "streetvision"}


def ensure_object_store(cluster: Cluster, *, endpoint: str) -> bool:
    """Makes the Secret that our charts, boto3 and KServe's storage initializer read; returns whether it was new.

    Args:
        cluster: where.
        endpoint: `http://host:port` of the S3 server, as pods of the namespace reach it.
    """
    letters = string.ascii_uppercase + string.digits
    data = {
        _KEY_ID: "".join(secrets.choice(letters) for _ in range(20)),
        _KEY: secrets.token_urlsafe(30),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }
    annotations = {
        "serving.kserve.io/s3-endpoint": endpoint.partition("://")[2],
        "serving.kserve.io/s3-usehttps": str(int(endpoint.startswith("https"))),
        "serving.kserve.io/s3-region": REGION,
        "serving.kserve.io/s3-usevirtualbucket": "false",
    }
    return ensure(cluster, OBJECT_STORE, {key: value.encode() for key, value in data.items()}, annotations=annotations)


def object_store_keys(cluster: Cluster) -> tuple[str, str]:
    """Access key and secret key of the object store."""
    data = secret(cluster, OBJECT_STORE)
    return data[_KEY_ID].decode(), data[_KEY].decode()


def ensure_hotkey(cluster: Cluster, name: str) -> bool:
    """Makes a Secret with a new hotkey, a file as bittensor writes it; returns whether it was new."""
    if cluster.get("secret", name):
        return False
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        create_hotkey(Path(folder), "wallet", "hotkey")
        content = hotkey_file(Path(folder), "wallet", "hotkey").read_bytes()
    return ensure(cluster, name, {HOTKEY: content})


def ensure(cluster: Cluster, name: str, data: dict[str, bytes], *, annotations: dict[str, str] | None = None) -> bool:
    """Makes the Secret unless there is one, which is then left as it is; returns whether it was new."""
    if cluster.get("secret", name):
        return False
    value: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": _PART_OF, "annotations": annotations or {}},
        "type": "Opaque",
        "data": {key: b64encode(content).decode() for key, content in data.items()},
    }
    cluster.create(value)
    return True


def secret(cluster: Cluster, name: str) -> dict[str, bytes]:
    """The content of a Secret; empty where there is none."""
    found = cluster.get("secret", name) or {}
    return {key: b64decode(value) for key, value in found.get("data", {}).items()}


def _memory() -> str | None:
    """A folder that is no disk, where the machine has one."""
    folder = "/dev/shm"  # noqa: S108 - only a folder of a random name of its own is made there
    return folder if Path(folder).is_dir() else None
