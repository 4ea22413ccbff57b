import dataclasses
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streetvision.data import manifest
from streetvision.data.build import build
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import DataError, StorageError


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, list_source: Callable[..., Any]) -> Path:
    root = tmp_path_factory.mktemp("built") / "manifest"
    build(list_source(10), root, seed=1)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A manifest that the test may break."""
    return Path(shutil.copytree(built, tmp_path / "manifest"))


def rewrite(root: Path, change: Callable[[list[dict[str, Any]]], Any], schema: pa.Schema = manifest.SCHEMA) -> None:
    rows = pq.read_table(root / manifest.FILE_NAME).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / manifest.FILE_NAME)


def test_parquet_has_exactly_the_columns_of_the_contract(root: Path) -> None:
    names = (
        "sha256 path label source generator group split format description prompt seed phash weight label_origin "
        "labelled_by labelled_at"
    )
    assert pq.read_schema(root / manifest.FILE_NAME).names == names.split()
    assert [field.name for field in dataclasses.fields(Picture)] == names.split()


def test_every_picture_lies_under_its_own_hash(root: Path) -> None:
    read = Manifest.read(root)
    assert read.pictures
    for picture in read.pictures:
        assert picture.path == f"images/{picture.sha256[:2]}/{picture.sha256}.jpg"
        assert read.read_bytes(picture).startswith(b"\xff\xd8")


def test_version_ignores_folder_and_parquet_encoding(root: Path, tmp_path: Path) -> None:
    before = Manifest.read(root).version
    root.rename(tmp_path / "elsewhere")
    table = pq.read_table(tmp_path / "elsewhere" / manifest.FILE_NAME)
    pq.write_table(table, tmp_path / "elsewhere" / manifest.FILE_NAME, compression="none", use_dictionary=False)
    assert Manifest.read(tmp_path / "elsewhere").version == before


@pytest.mark.parametrize(("column", "value"), [("prompt", "x"), ("weight", 2.0), ("seed", 5), ("group", "other")])
def test_version_changes_with_any_value(root: Path, column: str, value: object) -> None:
    before = Manifest.read(root).version
    rewrite(root, lambda rows: rows[0].update({column: value}))
    assert Manifest.read(root).version != before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label": 2}, "label 2, expected 0 or 1"),
        ({"split": "test"}, "split `test`, expected `train`"),
        ({"source": "fake"}, "source `fake`, expected `real`"),
        ({"format": "BMP"}, "format `BMP`, expected `JPEG`"),
        ({"path": "../secret.jpg"}, "path `../secret.jpg`, expected one inside"),
        ({"path": "/etc/passwd"}, "path `/etc/passwd`, expected one inside"),
        ({"sha256": "abc"}, "sha256 `abc`, expected 64 hex digits"),
        ({"weight": float("nan")}, "weight nan"),
        ({"group": ""}, "no group"),
    ],
)
def test_bad_row_is_refused_by_its_number(root: Path, change: dict[str, Any], sentence: str) -> None:
    rewrite(root, lambda rows: rows[2].update(change))
    with pytest.raises(DataError) as error:
        Manifest.read(root)
    assert f"row 3 of `{root / manifest.FILE_NAME}` has {sentence}" in error.value.message


@pytest.mark.parametrize(("label", "description"), [(1, ""), (0, "Roadwork")])
def test_description_stands_for_roadwork_and_nothing_else(root: Path, label: int, description: str) -> None:
    rewrite(root, lambda rows: rows[0].update(label=label, description=description))
    with pytest.raises(DataError, match="if and only if label is 1"):
        Manifest.read(root)


def test_group_in_two_splits_is_refused(root: Path) -> None:
    rewrite(root, lambda rows: (rows[0].update(group="g", split="train"), rows[1].update(group="g", split="challenge")))
    with pytest.raises(DataError, match="group `g` in split `challenge` and in `train`"):
        Manifest.read(root)


def test_same_picture_twice_is_refused(root: Path) -> None:
    rewrite(root, lambda rows: rows.append(rows[0]))
    with pytest.raises(DataError, match="for the second time"):
        Manifest.read(root)


def test_missing_and_unknown_columns_are_named(root: Path) -> None:
    table = pq.read_table(root / manifest.FILE_NAME)
    pq.write_table(
        table.rename_columns(["colour" if name == "phash" else name for name in table.column_names]),
        root / manifest.FILE_NAME,
    )
    with pytest.raises(DataError, match="missing `phash`; unknown `colour`"):
        Manifest.read(root)


def test_column_of_another_type_is_refused(root: Path) -> None:
    schema = manifest.SCHEMA.set(2, pa.field("label", pa.string()))
    rewrite(root, lambda rows: [row.update(label="roadwork") for row in rows], schema)
    with pytest.raises(DataError, match="another type"):
        Manifest.read(root)


def test_folder_without_manifest_and_broken_parquet_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a manifest folder"):
        Manifest.read(tmp_path)
    (root / manifest.FILE_NAME).write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="as Parquet"):
        Manifest.read(root)


def test_missing_picture_is_refused_on_reading_the_manifest(root: Path) -> None:
    path = Manifest.read(root).pictures[0].path
    (root / path).unlink()
    with pytest.raises(DataError, match=f"picture `{path}` .* is missing"):
        Manifest.read(root)


def test_altered_picture_is_refused_on_reading_its_bytes(root: Path) -> None:
    read = Manifest.read(root)
    (root / read.pictures[0].path).write_bytes(b"another picture")
    with pytest.raises(DataError, match="was altered"):
        read.read_bytes(read.pictures[0])


def test_select_takes_what_has_every_given_value(root: Path) -> None:
    read = Manifest.read(root)
    chosen = read.select(split="train", source="real", label=0)
    assert chosen
    assert all((picture.split, picture.source, picture.label) == ("train", "real", 0) for picture in chosen)
    assert len(chosen) + len(read.select(split="train", label=1)) == len(read.select(split="train"))
    assert read.select() == read.pictures
    assert read.select(source="i2i") == ()


def test_failed_writing_keeps_what_was_there(root: Path) -> None:
    before = Manifest.read(root).version
    with pytest.raises(RuntimeError), manifest.write(root) as writer:
        writer.store(b"bytes", encoding="JPEG")
        raise RuntimeError
    assert Manifest.read(root).version == before
    assert [entry.name for entry in root.parent.iterdir()] == [root.name]


def test_failing_disk_leaves_nothing_half_written(root: Path, tmp_path: Path, list_source: Callable[..., Any]) -> None:
    before = Manifest.read(root).version
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))  # no file may grow beyond: the kernel refuses
    try:
        with pytest.raises(StorageError, match="cannot write .*: File too large"):
            build(list_source(), root, seed=2)
        with pytest.raises(StorageError):
            build(list_source(), tmp_path / "new", seed=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Manifest.read(root).version == before
    assert [entry.name for entry in tmp_path.iterdir()] == [root.name]
