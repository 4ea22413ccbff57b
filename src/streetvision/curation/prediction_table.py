"""The prediction log as a Parquet table."""

import io
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from streetvision import atomic
from streetvision.curation.prediction_log import Log, read_log

_TIME = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("received_at", _TIME, nullable=False),
        pa.field("validator", pa.string(), nullable=False),
        pa.field("uid", pa.int32(), nullable=False),
        pa.field("route", pa.string(), nullable=False),
        pa.field("wire", pa.string(), nullable=False),
        pa.field("unauthenticated_body", pa.bool_(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("image_bytes", pa.int64(), nullable=False),
        pa.field("replica", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("finished_at", _TIME),
        pa.field("prediction", pa.float64()),
        pa.field("answered_by", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("latency_ms", pa.float64()),
        pa.field("parts_ms", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("shadow_probability", pa.float64()),
        pa.field("shadow_model_version", pa.string(), nullable=False),
        pa.field("shadow_latency_ms", pa.float64()),
    ]
)


def to_parquet(files: Iterable[Path], out: Path) -> Log:
    """Leaves one row for every challenge that the segments tell of at `out`, and gives what was read.

    Both segments of a challenge whose acceptance and outcome fell into two must be among them.

    Raises:
        DataError: a segment cannot be read.
        StorageError: the disk is full, read-only or failing; nothing is half-written.
    """
    log = read_log(files)
    table = pa.Table.from_pylist([row.model_dump() for row in log.rows], schema=SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    atomic.write_bytes(out, buffer.getvalue())
    return log
