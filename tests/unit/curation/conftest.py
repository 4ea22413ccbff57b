"""Records as a miner writes them."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from streetvision.curation.prediction_log import AcceptRecord, OutcomeRecord, Record, ShadowRecord

START = datetime(2026, 11, 23, 18, tzinfo=UTC)


def accept(number: int, **changes: object) -> AcceptRecord:
    values = {
        "request_id": f"request-{number}",
        "received_at": START + timedelta(seconds=number),
        "validator": "5Validator",
        "uid": 7,
        "route": "/ImageSynapse",
        "wire": "legacy",
        "unauthenticated_body": True,
        "image_sha256": f"{number:064x}",
        "image_bytes": 1000 + number,
        "replica": "miner-0",
    }
    return AcceptRecord.model_validate(values | changes)


def outcome(number: int, **changes: object) -> OutcomeRecord:
    values = {
        "request_id": f"request-{number}",
        "finished_at": START + timedelta(seconds=number, milliseconds=40),
        "prediction": 0.75,
        "answered_by": "primary",
        "reason": "",
        "model_version": "0123456789ab",
        "latency_ms": 40.5,
        "parts_ms": {"verify": 0.5, "primary": 39.0},
    }
    return OutcomeRecord.model_validate(values | changes)


def shadow(number: int, **changes: object) -> ShadowRecord:
    values = {
        "request_id": f"request-{number}",
        "finished_at": START + timedelta(seconds=number, milliseconds=90),
        "probability": 0.25,
        "model_version": "ba9876543210",
        "latency_ms": 50.0,
    }
    return ShadowRecord.model_validate(values | changes)


def segment(*records: Record) -> bytes:
    return b"".join(record.model_dump_json().encode() + b"\n" for record in records)


@pytest.fixture
def shuffled() -> random.Random:
    return random.Random(3)
