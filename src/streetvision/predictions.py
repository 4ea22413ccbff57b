"""The prediction table: one model's answers to a challenge set, taken, written and read."""

import io
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streetvision import atomic
from streetvision.challenge_set import ChallengeSet
from streetvision.errors import EvidenceError
from streetvision.evidence import Predictions
from streetvision.inference.classifier import Classifier
from streetvision.progress import Progress

SCHEMA = pa.schema(
    [
        pa.field("challenge_id", pa.string(), nullable=False),
        pa.field("label", pa.uint8(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("level", pa.int8(), nullable=False),
        pa.field("calibrated", pa.float64(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("latency_ms", pa.float64()),
    ]
)
OPTIONAL = frozenset({"calibrated", "group", "latency_ms"})

_HINT = "write the table again with `streetvision evaluate`"
_BATCH = 32
_AHEAD = 2  # batches that are decoded while one is answered


def answer(challenge_set: ChallengeSet, classifier: Classifier, *, timed: int = 200) -> Predictions:
    """The model's answers to every challenge, through the code that serves it.

    Args:
        challenge_set: the questions.
        classifier: the model.
        timed: challenges, spread over the set, that are answered alone as a miner answers them; `latency_ms` is their
            time from JPEG to probability. The others are answered in batches and have none.

    Raises:
        DataError: a picture of the set is missing.
        ImageError: a picture is unusable.
        EngineError: the engine failed or answered nonsense.
    """
    rows, n = challenge_set.rows, len(challenge_set)
    probability, calibrated = np.empty(n), np.empty(n)
    latency_ms = np.full(n, np.nan)
    alone = np.unique(np.linspace(0, n - 1, min(timed, n)).astype(np.intp))
    batched = np.setdiff1d(np.arange(n), alone)
    batches = deque(batched[start : start + _BATCH] for start in range(0, len(batched), _BATCH))

    def load(batch: NDArray[np.intp]) -> NDArray[np.uint8]:
        return classifier.model_inputs([challenge_set.read_bytes(rows[row]) for row in batch])

    classifier.warm_up()
    with Progress("answers", total=n, unit="challenge") as progress, ThreadPoolExecutor(1) as decoder:
        for row in alone:
            data = challenge_set.read_bytes(rows[row])
            start = time.perf_counter()
            answers = classifier.predict([data])
            latency_ms[row] = 1000 * (time.perf_counter() - start)
            probability[row], calibrated[row] = answers.probability[0], answers.calibrated[0]
            progress.advance(1)
        loading: deque[tuple[NDArray[np.intp], Future[NDArray[np.uint8]]]] = deque()
        while batches or loading:
            while batches and len(loading) < _AHEAD:
                batch = batches.popleft()
                loading.append((batch, decoder.submit(load, batch)))
            batch, inputs = loading.popleft()
            answers = classifier.predict(inputs.result())
            probability[batch], calibrated[batch] = answers.probability, answers.calibrated
            progress.advance(len(batch))
    return Predictions(
        challenge_id=np.array([row.challenge_id for row in rows]),
        label=np.array([row.label for row in rows], dtype=np.uint8),
        probability=probability,
        source=np.array([row.source for row in rows]),
        level=np.array([row.level for row in rows], dtype=np.int8),
        calibrated=calibrated,
        group=np.array([row.group for row in rows]),
        latency_ms=latency_ms,
    )


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Leaves the table at `path`; a latency that was not measured is null.

    Raises:
        StorageError: the disk is full, read-only or failing; nothing is half-written.
    """
    columns = {name: getattr(predictions, name) for name in SCHEMA.names}
    present = [field for field in SCHEMA if columns[field.name] is not None]
    # `from_pandas` is pyarrow's name for "NaN is null"
    arrays = [pa.array(columns[field.name], type=field.type, from_pandas=True) for field in present]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(present)), buffer, compression="zstd")
    atomic.write_bytes(path, buffer.getvalue())


def read_predictions(path: Path) -> Predictions:
    """The table at `path`, every value checked; columns beyond the contract's are left unread.

    Any type will do that holds the values exactly (int64, float32, dictionary, large_string ...), and the rows may
    stand in any order. An optional column that is null throughout counts as absent.

    Raises:
        EvidenceError: no table there, a column that is missing, of another type or has gaps, or a value out of range.
    """
    table = _read(path)
    columns = {
        field.name: _column(table.column(field.name), field, path)
        for field in SCHEMA
        if field.name not in OPTIONAL or table.column(field.name).null_count < len(table)
    }
    try:
        predictions = Predictions(**columns)
        _check_latency(predictions)
    except EvidenceError as err:
        raise EvidenceError(f"prediction table `{path}`: {err.message}", hint=err.hint or _HINT) from err
    return predictions


def _check_latency(predictions: Predictions) -> None:
    """An answer that never came is no latency: as infinity it would be left out of the percentiles."""
    if predictions.latency_ms is None:
        return
    odd = (predictions.latency_ms < 0) | np.isinf(predictions.latency_ms)
    if odd.any():
        row = int(odd.argmax())
        raise EvidenceError(
            f"`latency_ms` of challenge `{predictions.challenge_id[row]}` is {predictions.latency_ms[row]}, expected "
            "milliseconds, or null where it was not measured"
        )


def _read(path: Path) -> Any:
    """The table's columns of the contract; an optional one that is absent is null."""
    try:
        # from memory, so that pyarrow reads no partition out of a folder called `a=b`
        file = pq.ParquetFile(io.BytesIO(path.read_bytes()))
        names = file.schema_arrow.names
        table = file.read(columns=[name for name in SCHEMA.names if name in names])
    except pa.ArrowException as err:
        raise EvidenceError(f"`{path}` is no Parquet table: {err}", hint=_HINT) from err
    except OSError as err:
        raise EvidenceError(f"cannot read prediction table `{path}`: {err.strerror or err}", hint=_HINT) from err
    missing = [name for name in SCHEMA.names if name not in names and name not in OPTIONAL]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        raise EvidenceError(f"prediction table `{path}` lacks {listed}", hint=_HINT)
    for name in SCHEMA.names:
        if names.count(name) > 1:
            raise EvidenceError(f"prediction table `{path}` has {names.count(name)} columns `{name}`, expected one")
        if name not in names:
            table = table.append_column(name, pa.nulls(len(table)))
    return table


def _column(column: Any, field: Any, path: Path) -> Any:
    if column.null_count and not field.nullable:
        raise EvidenceError(
            f"column `{field.name}` of `{path}` has {column.null_count} gaps, expected none", hint=_HINT
        )
    try:
        values = column.cast(field.type)
    except pa.ArrowException as err:
        raise EvidenceError(
            f"column `{field.name}` of `{path}` is `{column.type}`, expected `{field.type}`: {err}", hint=_HINT
        ) from err
    if pa.types.is_string(field.type):
        return np.array(values.to_pylist(), dtype=np.str_)
    return values.to_numpy()
