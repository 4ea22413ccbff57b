"""Models in a bucket: `s3://BUCKET/PREFIX/<sha256>/`, whole or not there."""

import logging
import re
import threading
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from streetvision import atomic
from streetvision.errors import ModelDirectoryError, RegistryError, SettingsError, StorageError, StreetvisionError
from streetvision.inference.model_directory import CONFIG, ModelDirectory, read_config
from streetvision.progress import Progress
from streetvision.registry.lock import LocalLock

_PART_BYTES = 16 * 1024 * 1024
_IN_PARTS = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
_CONNECT_S, _READ_S, _TRIES = 5.0, 30.0, 4
_LONGEST_DOWNLOAD_S = 1800.0
_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_SHA256 = r"[0-9a-f]{64}"
_ALTERED = "somebody altered the bucket; delete the model there and register it again"
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another way that boto3 knows"

_log = logging.getLogger(__name__)

# Below this level they log headers, and there are tokens among them.
for _name in ("boto3", "botocore", "s3transfer", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and what the keys of its objects begin with; empty or with a slash at its end."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The location called `s3://BUCKET/PREFIX`.

        Raises:
            SettingsError: no bucket can be called so.
        """
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not re.fullmatch(_BUCKET, bucket):
            raise SettingsError(
                f"`{uri}` names no bucket, expected `s3://BUCKET/PREFIX` with 3 to 63 lower-case letters, digits, dots "
                "and hyphens"
            )
        prefix = prefix.strip("/")
        return cls(bucket, f"{prefix}/" if prefix else "")

    def __truediv__(self, name: str) -> "S3Location":
        return S3Location(self.bucket, f"{self.prefix}{name}/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class S3Store:
    """Model directories at `<uri>/<sha256>/`, their `config.json` written last: without it nothing is there.

    Keys, endpoint and region are those that boto3 finds: environment (`AWS_ENDPOINT_URL` for a server that is not
    Amazon's), files, roles.

    Args:
        uri: `s3://BUCKET/PREFIX`.
        cache: folder of what was fetched.

    Raises:
        SettingsError: no bucket can be called so.
    """

    def __init__(self, uri: str, *, cache: Path) -> None:
        self._root = S3Location.parse(uri)
        self._cache = cache.absolute()

    def put(self, model: ModelDirectory) -> str:
        """The `s3://` address of the stored copy, read back; storing the same model again changes nothing.

        Raises:
            StorageError: the bucket is missing, out of reach or refuses.
            ModelDirectoryError: what is stored under this sha256 was altered.
        """
        place = self._root / model.sha256
        with _connected(place) as client:
            if not _is_whole(client, place):
                _upload(client, place, model)
            self._download(client, place)
        return str(place)

    def fetch(self, uri: str) -> Path:
        """A folder of the cache with the model; what lies there already is checked, not fetched again.

        Raises:
            RegistryError: the address is in no bucket, or no whole model is there.
            StorageError: the bucket is missing, out of reach or refuses, or the cache cannot be written.
            ModelDirectoryError: what is stored there was altered.
        """
        if not re.fullmatch(rf"s3://{_BUCKET}/(.*/)?{_SHA256}/?", uri):
            raise RegistryError(f"registered model `{uri}` is not at `s3://BUCKET/PREFIX/<sha256>/`")
        place = S3Location.parse(uri)
        cached = self._cached(place)
        try:
            if ModelDirectory.open(cached).sha256 == cached.name:
                return cached
        except ModelDirectoryError as err:
            if cached.exists():
                _log.warning("a model of the cache is fetched again: %s", err.message)
        with _connected(place) as client:
            if not _is_whole(client, place):
                raise RegistryError(
                    f"no whole model is at `{place}`: `{CONFIG}`, which is written last, is missing",
                    hint="register the model again",
                )
            return self._download(client, place)

    def _cached(self, place: S3Location) -> Path:
        return self._cache / place.prefix.rstrip("/").rpartition("/")[2]

    def _download(self, client: Any, place: S3Location) -> Path:
        """The model as it lies in the bucket now, in the cache."""
        target = self._cached(place)
        lock = LocalLock(self._cache / f".{target.name}.lock", what="model cache", timeout_s=_LONGEST_DOWNLOAD_S)
        with lock.hold("fetch"), atomic.directory(target) as folder:
            try:
                _download(client, place, [CONFIG], folder)
                _download(client, place, sorted(read_config(folder).files), folder)
                found = ModelDirectory.open(folder).sha256
            except ModelDirectoryError as err:
                raise ModelDirectoryError(err.message.replace(str(folder), str(place)), hint=_ALTERED) from err
            if found != target.name:
                raise ModelDirectoryError(f"the model at `{place}` has sha256 {found}", hint=_ALTERED)
        return target


def _is_whole(client: Any, place: S3Location) -> bool:
    marker = place.prefix + CONFIG
    # not by HEAD, whose refusal has no words for what is wrong
    listed = client.list_objects_v2(Bucket=place.bucket, Prefix=marker, MaxKeys=1)
    return any(entry["Key"] == marker for entry in listed.get("Contents", []))


def _upload(client: Any, place: S3Location, model: ModelDirectory) -> None:
    files = [model.path / name for name in (*sorted(model.config.files), CONFIG)]  # CONFIG last
    with Progress("uploaded", total=sum(file.stat().st_size for file in files), unit="byte") as progress:
        for file in files:
            with file.open("rb") as content:
                client.upload_fileobj(
                    content,
                    place.bucket,
                    place.prefix + file.name,
                    ExtraArgs={"ChecksumAlgorithm": "SHA256"},  # the server refuses a part that arrived altered
                    Callback=_Advance(progress),
                    Config=_IN_PARTS,
                )


def _download(client: Any, place: S3Location, names: Sequence[str], folder: Path) -> None:
    sizes = {name: _size(client, place, name) for name in names}
    with Progress("fetched", total=sum(sizes.values()), unit="byte", enabled=len(names) > 1) as progress:
        for name in names:
            client.download_file(
                place.bucket,
                place.prefix + name,
                str(folder / name),
                Callback=_Advance(progress),
                Config=_IN_PARTS,
            )


def _size(client: Any, place: S3Location, name: str) -> int:
    try:
        return int(client.head_object(Bucket=place.bucket, Key=place.prefix + name)["ContentLength"])
    except ClientError as err:
        if _status(err) == 404:
            raise ModelDirectoryError(f"`{name}` is missing: `{place}`", hint=_ALTERED) from err
        raise


class _Advance:
    """Takes counts from the threads of a transfer."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._progress.advance(count)


@contextmanager
def _connected(place: S3Location) -> Generator[Any]:
    """A client whose failures are one sentence."""
    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
    )
    try:
        with closing(Session().client("s3", config=config)) as client:
            yield client
    except NoCredentialsError as err:
        raise StorageError(f"no keys were found for bucket `{place.bucket}`", hint=_KEYS) from err
    except ClientError as err:
        raise _refusal(place, err) from err
    except (BotoCoreError, Boto3Error, ValueError) as err:
        if isinstance(err, StreetvisionError):
            raise
        raise StorageError(
            f"bucket `{place.bucket}` cannot be reached: {str(err).splitlines()[0]}",
            hint="check $AWS_ENDPOINT_URL and the way there",
        ) from err


def _refusal(place: S3Location, err: ClientError) -> StorageError:
    code = err.response["Error"]["Code"]
    if code == "NoSuchBucket":
        return StorageError(
            f"there is no bucket `{place.bucket}`", hint="make it, or correct the address of the models"
        )
    if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}:
        return StorageError(f"bucket `{place.bucket}` does not accept the keys: {code}", hint=_KEYS)
    if _status(err) in {401, 403, 405}:
        return StorageError(
            f"bucket `{place.bucket}` does not allow {err.operation_name} below `{place}`: {code}",
            hint="these keys need ListBucket, GetObject and PutObject there",
        )
    return StorageError(f"bucket `{place.bucket}` answered {err.operation_name} with {_status(err)} {code}")


def _status(err: ClientError) -> int:
    return int(err.response["ResponseMetadata"]["HTTPStatusCode"])
