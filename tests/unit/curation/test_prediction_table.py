from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from streetvision.curation.prediction_log import Row
from streetvision.curation.prediction_table import SCHEMA, to_parquet
from streetvision.errors import StorageError
from tests.unit.curation.conftest import START, accept, outcome, segment, shadow


@pytest.fixture
def segments(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    files[0].write_bytes(segment(accept(1), outcome(1), accept(2), accept(3)))
    files[1].write_bytes(segment(outcome(2, prediction=-1.0, reason="late"), shadow(1), outcome(9)))
    return files


def test_the_table_has_a_column_for_every_field_of_a_row():
    assert SCHEMA.names == list(Row.model_fields)


def test_the_table_holds_the_rows_as_they_are(segments: list[Path], tmp_path: Path):
    log = to_parquet(segments * 2, tmp_path / "log.parquet")
    table = pq.read_table(tmp_path / "log.parquet")
    assert table.schema == SCHEMA
    rows = [row | {"parts_ms": dict(row["parts_ms"])} for row in table.to_pylist()]
    assert rows == [row.model_dump() for row in log.rows]
    assert [row["outcome"] for row in rows] == ["answered", "abstained", "unknown"]
    assert rows[0]["received_at"] == START + timedelta(seconds=1)
    assert log.orphans == 1


def test_no_segments_make_an_empty_table(tmp_path: Path):
    to_parquet([], tmp_path / "log.parquet")
    assert pq.read_table(tmp_path / "log.parquet").schema == SCHEMA


def test_a_table_that_cannot_be_written_leaves_the_old_one(segments: list[Path], tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        to_parquet(segments, tmp_path / "file" / "log.parquet")
