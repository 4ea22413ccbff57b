"""Takes closed segments of the spool to S3, and deletes here what is proven to be there."""

import base64
import hashlib
import logging
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from serving.logs import Occasional, event
from serving.miner.spool import PICTURE_SUFFIX, Segment, Spool
from streetvision.errors import SettingsError, StorageError

logger = logging.getLogger(__name__)

_IDLE_S = 0.5

# Below this level they log headers, and there are tokens among them.
for _name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Bucket:
    """A bucket of an S3 server, with the keys that boto3 finds where it looks for them: environment, files, roles.

    Args:
        name: of the bucket.
        prefix: of every object; may be empty.
        endpoint_url: of a server that is not Amazon's.
        timeout_s: for connecting, for sending and for each wait for an answer.

    Raises:
        SettingsError: no bucket can have that name, or there can be no such server.
    """

    def __init__(
        self, name: str, *, prefix: str = "", endpoint_url: str | None = None, timeout_s: float = 10.0
    ) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
            raise SettingsError(
                f"no bucket can be called `{name}`, expected 3 to 63 lower-case letters, digits, dots and hyphens"
            )
        self.name = name
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint_url = endpoint_url
        self._config = Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": 1},  # whoever calls tries again, later
            s3={"addressing_style": "path" if endpoint_url else "auto"},
        )
        self._client: Any = None
        try:
            self._connected()
        except (BotoCoreError, ValueError) as err:
            raise SettingsError(f"bucket `{name}` cannot be used: {err}") from err

    def store(self, key: str, data: bytes) -> None:
        """Leaves `data` at a key: sent where it is not there yet, and then looked for.

        Raises:
            StorageError: the server is out of reach or refuses, or something else is there afterwards; the message
                holds no secret.
        """
        place = {"Bucket": self.name, "Key": self._prefix + key}
        checksum = _checksum(data)
        try:
            client = self._connected()
            if _holds(client, place, checksum):
                return
            client.put_object(**place, Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum)
            kept = _holds(client, place, checksum)
        except ClientError as err:
            if _status(err) < 500:
                self.close()
            said = f"{_status(err)} {err.response['Error']['Code']}"
            raise StorageError(f"bucket `{self.name}` answered {err.operation_name} with {said}") from err
        except (BotoCoreError, ValueError) as err:
            if not isinstance(err, HTTPClientError):
                self.close()
            raise StorageError(f"bucket `{self.name}` cannot be asked: {type(err).__name__}") from err
        if not kept:
            raise StorageError(f"bucket `{self.name}` did not keep `{place['Key']}` as it was sent")

    def close(self) -> None:
        """Hangs up; the next call looks for the keys anew, which may have been exchanged."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> Any:
        if self._client is None:
            self._client = Session().client("s3", endpoint_url=self._endpoint_url, config=self._config)
        return self._client


class Uploader:
    """A thread that takes closed segments of a spool to a bucket, however often it has to try.

    Pictures go to `images/<first two digits>/<sha256>.jpg`, whatever their format is, and after them the records to
    `segments/<day>/<name>.jsonl`: a picture that a record in the bucket speaks of is there already. A failure costs a
    count, a log line a minute and a pause that grows; the next try is for the next segment.

    Args:
        spool: where segments wait.
        bucket: where they go.
        pause_s: after the first failure.
        longest_pause_s: after many.

    Attributes:
        sent: how many segments were.
        failures: how many tries were in vain.
        spoilt: pictures that were not what their name says, cut off by a crash.
    """

    def __init__(self, spool: Spool, bucket: Bucket, *, pause_s: float = 1.0, longest_pause_s: float = 60.0) -> None:
        self.sent = self.failures = self.spoilt = 0
        self._spool = spool
        self._bucket = bucket
        self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._in_vain = 0
        self._stop = threading.Event()
        self._until_s = 0.0
        self._log_failure = Occasional(logger, "upload_failed", level=logging.ERROR)
        # A daemon, so that no server keeps the process from ending.
        self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)

    def start(self) -> None:
        """Begins with what lies in the spool."""
        self._thread.start()

    def close(self, *, wait_s: float) -> None:
        """Ends when all is sent, when a try fails or when the time is up, whichever comes first."""
        self._until_s = time.monotonic() + wait_s
        self._stop.set()
        self._thread.join(wait_s + 1.0)

    def _run(self) -> None:
        while not self._time_is_up():
            segment = self._next()
            if segment is not None:
                try:
                    self._send(segment)
                except OSError as err:
                    if segment.records.exists():
                        self._fail(segment, str(err))
                    else:  # it was shed meanwhile
                        self._spool.remove(segment)
                except Exception as err:
                    logger.exception("unforeseen error while a segment was sent")
                    self._fail(segment, type(err).__name__)
            if self._stop.is_set() and (segment is None or self._in_vain):
                break
            self._stop.wait(self._wait_s(idle=segment is None))
        self._bucket.close()

    def _next(self) -> Segment | None:
        """The oldest segment, or after failures one behind it: what cannot be sent holds nothing else up."""
        segments = self._spool.closed()
        return segments[self._in_vain % len(segments)] if segments else None

    def _send(self, segment: Segment) -> None:
        for picture in segment.pictures():
            if self._time_is_up():
                return
            self._send_picture(segment, picture)
        name = segment.name
        self._bucket.store(f"segments/{name[:8]}/{name}.jsonl", segment.records.read_bytes())
        self.sent += 1
        self._spool.remove(segment)
        if self._in_vain:
            event(logger, "upload_recovered", tries=self._in_vain + 1)
            self._in_vain = 0

    def _send_picture(self, segment: Segment, picture: Path) -> None:
        data, name = picture.read_bytes(), picture.stem
        if hashlib.sha256(data).hexdigest() == name:
            self._bucket.store(f"images/{name[:2]}/{name}{PICTURE_SUFFIX}", data)
        else:
            self.spoilt += 1
            event(logger, "picture_spoilt", level=logging.WARNING, segment=segment.name, sha256=name)
        self._spool.remove_picture(segment, picture)

    def _fail(self, segment: Segment, reason: str) -> None:
        self.failures += 1
        self._in_vain += 1
        self._log_failure(segment=segment.name, reason=reason, failures=self.failures)

    def _wait_s(self, *, idle: bool) -> float:
        if self._in_vain:
            longest_s = min(self._pause_s * 2 ** min(self._in_vain - 1, 20), self._longest_pause_s)
            return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - so that replicas do not come back all at once
        return _IDLE_S if idle else 0.0

    def _time_is_up(self) -> bool:
        return self._stop.is_set() and time.monotonic() >= self._until_s


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _status(err: ClientError) -> int:
    return err.response["ResponseMetadata"]["HTTPStatusCode"]


def _holds(client: Any, place: dict[str, str], checksum: str) -> bool:
    """Whether an object is there and is what it should be."""
    try:
        found = client.head_object(**place, ChecksumMode="ENABLED")
    except ClientError as err:
        # Who may not list a bucket is not told that something is missing, but refused.
        if _status(err) in (403, 404):
            return False
        raise
    # There are servers that keep no checksum.
    return (found.get("ChecksumSHA256") or _checksum(client.get_object(**place)["Body"].read())) == checksum
