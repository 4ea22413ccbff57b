"""Challenges as the edge hands them to the prediction log."""

import hashlib
import time

from serving.miner.app import Accepted, Finished
from serving.miner.shadow import ShadowAnswer
from serving.miner.spool import Spool
from streetvision.curation.prediction_log import Log, read_log, segment_files


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
