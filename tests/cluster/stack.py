"""The whole release on the cluster, as `manifests.deploy kind` makes it, with models whose answers tell them apart."""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from boto3.session import Session
from botocore.config import Config

from manifests import charts, credentials, deploy
from streetvision.inference.model_directory import ModelDirectory
from streetvision.registry.s3_store import S3Store
from tests.brightness import write_model_directory
from tests.cluster.client import Client

RELEASE = "sv"
BUCKET = "streetvision"
# Models by the channels whose mean they answer with; a pod's answers to plain colours tell which one it has.
FIRST, SECOND = (0, 1, 2), (0,)
VALIDATOR = "streetvision-validator-hotkey"
MINER = "streetvision-miner-hotkey"


@dataclass(frozen=True)
class Stack:
    """One release in one namespace.

    Attributes:
        client: of the namespace.
        folder: where the models are made, and what is fetched.
    """

    client: Client
    folder: Path

    @property
    def predictor(self) -> str:
        """Name of the predictor's Deployment and Service."""
        return f"{RELEASE}-roadwork-predictor"

    @property
    def fallback(self) -> str:
        """Name of the fallback's."""
        return f"{RELEASE}-roadwork-fallback-predictor"

    @property
    def miner_url(self) -> str:
        """As pods of the namespace reach the miner."""
        return f"http://{RELEASE}-miner:8091"

    @property
    def miner_address(self) -> str:
        """Ss58 address of the miner's hotkey."""
        return json.loads(credentials.secret(self.client.cluster, MINER)[credentials.HOTKEY])["ss58Address"]

    @cached_property
    def chart(self) -> Path:
        """The umbrella with its dependencies."""
        return charts.build(self.folder / "charts") / charts.UMBRELLA

    def model(self, channels: Sequence[int]) -> ModelDirectory:
        """The brightness model of these channels."""
        path = self.folder / "".join(map(str, channels))
        return ModelDirectory.open(path if path.exists() else write_model_directory(path, channels=channels))

    def uri(self, model: ModelDirectory) -> str:
        """Where the release looks for a model."""
        return f"s3://{BUCKET}/models/roadwork/{model.sha256}/"

    def upload(self, model: ModelDirectory) -> str:
        """The address of the model in the bucket, once it is there."""
        with self.object_store_environment():
            return S3Store(f"s3://{BUCKET}/models/roadwork", cache=self.folder / "fetched").put(model)

    def deploy(self, *settings: str) -> None:
        """Brings the release up, or to other values.

        Raises:
            AssertionError: it did not come up; the reason was printed.
        """
        values = [argument for setting in settings for argument in ("--set", setting)]
        where = ["--namespace", self.client.namespace, "--release", RELEASE, "--timeout-s", "600"]
        model = ["--model-dir", str(self.model(FIRST).path), "--state", str(self.folder / "state")]
        assert deploy.main(["kind", *where, *model, *values]) == 0, "the release did not come up"

    def upgrade(self, *settings: str, timeout_s: int = 600) -> None:
        """What a person does: `helm upgrade`, which goes back by itself where it fails.

        Raises:
            ClusterError: it failed.
        """
        values = [argument for setting in settings for argument in ("--set", setting)]
        self.client.helm(
            *("upgrade", RELEASE, str(self.chart), "--reuse-values", *values),
            *("--wait=legacy", "--rollback-on-failure", "--timeout", f"{timeout_s}s"),
            timeout_s=2 * timeout_s + 60,
        )

    @contextmanager
    def object_store_environment(self, keys: tuple[str, str] | None = None) -> Iterator[Mapping[str, str]]:
        """Sets what boto3 reads, with a way to the bucket from here and the keys of the release, or other ones."""
        key_id, key = keys or credentials.object_store_keys(self.client.cluster)
        with self.client.forwarded("service/streetvision-s3", 7070) as port:
            wanted = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": key_id,
                "AWS_SECRET_ACCESS_KEY": key,
                "AWS_DEFAULT_REGION": credentials.REGION,
            }
            before = {name: os.environ.get(name) for name in wanted}
            os.environ.update(wanted)
            try:
                yield wanted
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)

    @contextmanager
    def s3(self, keys: tuple[str, str] | None = None) -> Iterator[Any]:
        """Yields a boto3 client of the bucket's server, with the keys of the release, or other ones."""
        with self.object_store_environment(keys):
            # boto3's own session would keep the keys that it saw first
            yield Session().client("s3", config=Config(s3={"addressing_style": "path"}))


@contextmanager
def stack(cluster: Client) -> Iterator[Stack]:
    """Yields a release in a namespace of its own, which is gone afterwards."""
    client = cluster.within(f"test-stack-{secrets.token_hex(3)}")
    client.create_namespace()
    folder = Path(tempfile.mkdtemp(prefix="streetvision-stack-"))
    try:
        made = Stack(client, folder)
        made.deploy()
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        client.delete_namespace()
