from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from streetvision.challenge_set import ChallengeSet
from streetvision.errors import EvidenceError
from streetvision.evidence import Predictions
from streetvision.inference.classifier import Classifier
from streetvision.inference.model_directory import ModelConfig, ModelDirectory
from streetvision.predictions import answer, read_predictions, write_predictions

COLUMNS = {
    "challenge_id": ["c/0", "c/1", "c/2"],
    "label": [0, 1, 1],
    "probability": [0.1, 0.9, 0.3],
    "source": ["real", "t2i", "i2i"],
    "level": [0, 1, 3],
}


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table({k: v for k, v in (COLUMNS | columns).items() if v is not None}), path)
    return path


def test_predictions_come_back_as_they_were_written(tmp_path: Path):
    predictions = Predictions(
        challenge_id=np.array(["c/0", "c/1"]),
        label=np.array([0, 1], dtype=np.uint8),
        probability=np.array([0.25, 0.75]),
        source=np.array(["real", "t2i"]),
        level=np.array([0, 3], dtype=np.int8),
        calibrated=np.array([0.2, 0.7]),
        latency_ms=np.array([3.5, np.nan]),
    )
    write_predictions(tmp_path / "p.parquet", predictions)
    back = read_predictions(tmp_path / "p.parquet")
    assert back.group is None
    for name in ("challenge_id", "label", "probability", "source", "level", "calibrated", "latency_ms"):
        want, got = getattr(predictions, name), getattr(back, name)
        np.testing.assert_array_equal(got, want)
        assert got.dtype.kind == want.dtype.kind
    assert pq.read_table(tmp_path / "p.parquet").column("latency_ms").null_count == 1  # not measured is null, not NaN


@pytest.mark.parametrize(
    "columns",
    [
        {"label": pa.array([0, 1, 1], pa.int64()), "level": pa.array([0, 1, 3], pa.int32())},
        {"label": pa.array([False, True, True]), "level": pa.array([0.0, 1.0, 3.0])},
        {name: pa.array(COLUMNS[name]).dictionary_encode() for name in COLUMNS},
        {name: pa.array(COLUMNS[name], pa.large_string()) for name in ("challenge_id", "source")},
        {name: pa.array(COLUMNS[name], pa.string_view()) for name in ("challenge_id", "source")},
        {"calibrated": pa.nulls(3), "group": pa.nulls(3, pa.string()), "latency_ms": pa.nulls(3, pa.float64())},
        {"extra": [{"x": 1}, None, {"x": 2}], "group": None},
    ],
    ids=["wide integers", "bool and float", "categories", "large_string", "string_view", "all null", "another column"],
)
def test_a_table_of_somebody_else_is_read_by_what_it_says(tmp_path: Path, columns: dict[str, object]):
    predictions = read_predictions(table(tmp_path / "p.parquet", **columns))
    for name, values in COLUMNS.items():
        assert getattr(predictions, name).tolist() == values
    assert (predictions.label.dtype, predictions.level.dtype) == (np.uint8, np.int8)
    assert (predictions.calibrated, predictions.group, predictions.latency_ms) == (None, None, None)


def test_probabilities_of_any_width_are_read(tmp_path: Path):
    for kind in (pa.float16(), pa.float32(), pa.int64()):
        path = table(tmp_path / "p.parquet", probability=pa.array(np.array([0, 1, 1]).astype(kind.to_pandas_dtype())))
        assert read_predictions(path).probability.tolist() == [0.0, 1.0, 1.0]


def test_whole_numbers_may_name_challenges_and_groups(tmp_path: Path):
    predictions = read_predictions(table(tmp_path / "p.parquet", challenge_id=[7, 8, 9], group=[1, 1, 2]))
    assert predictions.challenge_id.tolist() == ["7", "8", "9"]
    assert predictions.group is not None
    assert predictions.group.tolist() == ["1", "1", "2"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"probability": None}, "lacks `probability`"),
        ({"probability": ["a", "b", "c"]}, "column `probability` of `.*` is `string`, expected `double`"),
        ({"probability": [0.1, None, 0.3]}, "column `probability` of `.*` has 1 gaps, expected none"),
        ({"probability": [0.1, 1.2, 0.3]}, "`probability` of challenge `c/1` is 1.2"),
        ({"label": [0, 1, 300]}, "column `label` of `.*` is `int64`, expected `uint8`: Integer value 300 not in range"),
        ({"label": [0.0, 0.5, 1.0]}, "column `label` of `.*` is `double`, expected `uint8`"),
        ({"probability": [0.1, float("nan"), 0.3]}, "`probability` of challenge `c/1` is nan"),
        ({"probability": [0.1, -1.0, 0.3]}, "`probability` of challenge `c/1` is -1.0, expected a number"),
        ({"calibrated": [0.1, 0.2, float("inf")]}, "`calibrated` of challenge `c/2` is inf"),
        ({"group": ["a", None, "b"]}, "column `group` of `.*` has 1 gaps, expected none"),
        ({"latency_ms": [1.0, None, float("inf")]}, "`latency_ms` of challenge `c/2` is inf, expected milliseconds"),
        ({"latency_ms": [1.0, -2.0, 3.0]}, "`latency_ms` of challenge `c/1` is -2.0"),
        ({"source": [["real"], ["t2i"], ["i2i"]]}, "column `source` of `.*` is `list<.*>`, expected `string`"),
        ({"label": [0, 1, 2]}, "`label` of challenge `c/2` is 2, expected 0 or 1"),
        ({"challenge_id": ["c/0", "c/1", "c/1"]}, "challenge `c/1` has 2 rows"),
    ],
)
def test_an_unusable_table_is_named_with_its_fault(tmp_path: Path, columns: dict[str, object], sentence: str):
    path = table(tmp_path / "p.parquet", **columns)
    with pytest.raises(EvidenceError, match=sentence) as info:
        read_predictions(path)
    assert str(path) in info.value.message
    assert info.value.hint


def test_no_table_and_no_parquet_are_told_apart(tmp_path: Path):
    with pytest.raises(EvidenceError, match="No such file"):
        read_predictions(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("a,b\n")
    with pytest.raises(EvidenceError, match="is no Parquet table"):
        read_predictions(tmp_path / "text.parquet")
    with pytest.raises(EvidenceError, match="Is a directory"):
        read_predictions(tmp_path)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path):
    twice = pa.Table.from_arrays([*map(pa.array, COLUMNS.values()), pa.array([1, 0, 0])], names=[*COLUMNS, "label"])
    pq.write_table(twice, tmp_path / "p.parquet")
    with pytest.raises(EvidenceError, match="has 2 columns `label`, expected one"):
        read_predictions(tmp_path / "p.parquet")


class Brightness:
    """An engine whose probability is the mean brightness."""

    size_px = 64
    batch_sizes = (1, 8)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def warm_up(self) -> None:
        pass

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        return (batch.mean(axis=(1, 2, 3)) / 255).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def engine() -> Brightness:
    return Brightness()


@pytest.fixture
def classifier(engine: Brightness, tmp_path: Path) -> Classifier:
    config = ModelConfig(
        preset="brightness",
        input_size_px=64,
        threshold=0.45,
        temperature=1.0,
        data_version="d" * 64,
        code_version="c" * 64,
        git_sha="",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        files={"model.onnx": "0" * 64},
    )
    return Classifier(ModelDirectory(tmp_path, config, "0" * 64), engine)


def test_every_challenge_is_answered_in_its_row(challenge_set: ChallengeSet, classifier: Classifier):
    predictions = answer(challenge_set, classifier, timed=10)
    assert predictions.challenge_id.tolist() == [row.challenge_id for row in challenge_set.rows]
    assert predictions.group is not None
    assert predictions.group.tolist() == [row.group for row in challenge_set.rows]
    one_by_one = [classifier.predict([challenge_set.read_bytes(row)]) for row in challenge_set.rows]
    assert predictions.probability.tolist() == [float(one.probability[0]) for one in one_by_one]
    assert predictions.calibrated is not None
    assert predictions.calibrated.tolist() == [float(one.calibrated[0]) for one in one_by_one]
    assert np.mean(predictions.predicted == predictions.label) > 0.7  # bright is roadwork


def test_latency_is_of_challenges_answered_alone(
    challenge_set: ChallengeSet, classifier: Classifier, engine: Brightness
):
    predictions = answer(challenge_set, classifier, timed=10)
    assert predictions.latency_ms is not None
    measured = np.flatnonzero(np.isfinite(predictions.latency_ms))
    assert len(measured) == 10
    assert (measured[0], measured[-1]) == (0, 159)  # spread over the set
    assert (predictions.latency_ms[measured] > 0).all()
    assert engine.batches[:11] == [1] * 11  # one to warm up
    assert sum(engine.batches) == 161


def test_every_challenge_may_be_timed(challenge_set: ChallengeSet, classifier: Classifier):
    predictions = answer(challenge_set, classifier, timed=10**6)
    assert predictions.latency_ms is not None
    assert np.isfinite(predictions.latency_ms).all()
