"""Challenges as the edge hands them to the prediction log, and the log as its reader finds it."""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serving.miner.app import Accepted, Finished
from serving.miner.shadow import ShadowAnswer
from serving.miner.spool import Spool
from streetvision.curation.prediction_log import Log, Row, read_log, segment_files
from streetvision.subnet.regimes import NO_ANSWER, TIMEOUT_S


def picture(number: int, size_bytes: int = 1000) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(size_bytes)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def accepted(number: int, image: bytes | None = None) -> Accepted:
    return Accepted(
        request_id=f"request-{number}",
        time_ns=time.time_ns(),
        validator="5Validator",
        uid=7,
        route="/ImageSynapse",
        wire="legacy",
        unauthenticated_body=True,
        image=picture(number) if image is None else image,
    )


def finished(number: int, prediction: float = 0.75, reason: str = "") -> Finished:
    return Finished(
        request_id=f"request-{number}",
        prediction=prediction,
        answered_by="" if reason else "primary",
        reason=reason,
        model_version="0123456789ab",
        latency_ms=12.5,
        parts_ms={"verify": 0.5},
    )


def shadow_answer(number: int) -> ShadowAnswer:
    return ShadowAnswer(request_id=f"request-{number}", probability=0.25, model_version="ba9876543210", latency_ms=30.0)


def spooled(spool: Spool) -> Log:
    return read_log(segment_files(spool.folder))


# --- challenges that a miner process was sent


@dataclass(frozen=True)
class Told:
    """What a validator was told about one picture, and after how long."""

    image_sha256: str
    prediction: float
    took_s: float


def ask_miner(miner: Any, image: bytes) -> Told:
    """What a miner process says to one challenge; every picture is asked about once, and so tells challenges apart."""
    name = sha256(image)
    headers, body = miner.validator.request(image=image, uuid=name)
    begun_s = time.monotonic()
    reply = miner.validator.send(headers, body)
    took_s = time.monotonic() - begun_s
    assert reply.status_code == 200, reply.text
    return Told(name, reply.json()["prediction"], took_s)


def logged_once(rows: Sequence[Row], told: Sequence[Told]) -> list[Row]:
    """The rows of these challenges in their order; each was told in time, has one row that says the same, and no
    other challenge has one."""
    assert Counter(row.image_sha256 for row in rows) == Counter(one.image_sha256 for one in told)
    of_picture = {row.image_sha256: row for row in rows}
    found = [of_picture[one.image_sha256] for one in told]
    for one, row in zip(told, found, strict=True):
        assert one.took_s < TIMEOUT_S, (one, row)
        assert row.prediction == one.prediction, (one, row)
        assert row.outcome == ("abstained" if one.prediction == NO_ANSWER else "answered"), (one, row)
        assert bool(row.reason) == (row.outcome == "abstained"), (one, row)
        assert row.latency_ms is not None
        assert 0 <= row.latency_ms < TIMEOUT_S * 1e3, (one, row)  # the loop counts whole milliseconds
    return found
