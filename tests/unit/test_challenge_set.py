import dataclasses
import io
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from streetvision import imaging
from streetvision.challenge_set import ChallengeSet, freeze
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import DataError, SettingsError
from streetvision.subnet import challenges

CONTRACT = [
    *("challenge_id", "file", "image", "label", "source", "level", "group", "image_sha256"),
    *("angle_deg", "crop_top", "crop_left", "crop_height", "crop_width", "cs", "cc", "jpeg", "gnc", "gb"),
]


def test_the_table_has_the_contract_s_columns_and_says_where_it_comes_from(challenge_set: ChallengeSet):
    table = pq.read_table(challenge_set.root / "challenges.parquet")
    assert table.column_names == CONTRACT
    about = table.schema.metadata[b"streetvision"].decode()
    for value in (challenge_set.version, challenge_set.data_version, '"R1"', '"seed": 7'):
        assert value in about


def test_what_was_frozen_is_what_is_read(challenge_set: ChallengeSet):
    assert ChallengeSet.read(challenge_set.root) == challenge_set


def test_ids_carry_the_version_and_the_row(challenge_set: ChallengeSet):
    ids = [row.challenge_id for row in challenge_set.rows]
    assert ids == [f"{challenge_set.version[:12]}/{row}" for row in range(160)]
    assert challenge_set.by_id(ids[3]) == challenge_set.rows[3]


def test_rows_point_to_pictures_of_the_manifest(challenge_set: ChallengeSet, challenge_manifest: Manifest):
    by_path = {picture.path: picture for picture in challenge_manifest.pictures}
    for row in challenge_set.rows:
        picture = by_path[row.image]
        assert (row.label, row.source, row.group) == (picture.label, picture.source, picture.group)
        assert row.image_sha256 == picture.sha256


def test_every_challenge_is_a_wire_jpeg(challenge_set: ChallengeSet):
    for row in challenge_set.rows[:20]:
        with Image.open(io.BytesIO(challenge_set.read_bytes(row))) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (224, 224), "RGB")


def test_a_challenge_is_its_row_s_transform_of_the_cached_picture(
    challenge_set: ChallengeSet, challenge_manifest: Manifest
):
    by_path = {picture.path: picture for picture in challenge_manifest.pictures}
    checked = Counter[tuple[str, int]]()
    for index, row in enumerate(challenge_set.rows):
        picture = by_path[row.image]
        cached = challenges.cached_picture(challenge_manifest.read_bytes(picture), picture.format)
        steps = {name: getattr(row, name) for name in CONTRACT[8:]}
        if row.gnc:  # the seed of the noise is no column: it follows from the set's seed and the row
            rng = np.random.default_rng((challenge_set.seed, index))
            steps["noise_seed"] = challenges.draw_transform(rng, height=120, width=160, level=row.level).noise_seed
        view = challenges.apply(cached, challenges.Transform(level=row.level, **steps))
        assert challenge_set.read_bytes(row) == challenges.wire_jpeg(view)
        checked[row.source, row.level] += 1
    assert len(checked) == 12


def test_a_level_without_a_step_has_none(challenge_set: ChallengeSet):
    for row in challenge_set.rows:
        assert (row.angle_deg is None) == (row.level == 0)
        assert (row.crop_height is None) == (row.level == 0)
        assert (row.cs is None) == (row.level < 2)
        assert (row.gnc is None) == (row.level < 3)


def test_the_number_of_workers_changes_nothing(challenge_manifest: Manifest, tmp_path: Path):
    one = freeze(challenge_manifest, tmp_path / "one", count=40, seed=2, workers=1)
    four = freeze(challenge_manifest, tmp_path / "four", count=40, seed=2, workers=4)
    assert one.version == four.version
    assert one.rows == four.rows
    assert freeze(challenge_manifest, tmp_path / "other", count=40, seed=3).version != one.version


def test_version_depends_on_the_pixels(challenge_set: ChallengeSet, tmp_path: Path):
    root = tmp_path / "set"
    shutil.copytree(challenge_set.root, root)
    (root / challenge_set.rows[5].file).write_bytes(challenge_set.read_bytes(challenge_set.rows[6]))
    with pytest.raises(DataError, match="was altered"):
        ChallengeSet.read(root)


def test_a_missing_picture_is_named(challenge_set: ChallengeSet, tmp_path: Path):
    root = tmp_path / "set"
    shutil.copytree(challenge_set.root, root)
    (root / "00005.jpg").unlink()
    with pytest.raises(DataError, match=r"cannot read `00005\.jpg`"):
        ChallengeSet.read(root)


def test_a_missing_pool_is_redistributed_and_said(
    drawn_manifest: Callable[..., Manifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    manifest = drawn_manifest(tmp_path / "data", sources=("real", "i2i"))
    with caplog.at_level(logging.WARNING):
        rows = freeze(manifest, tmp_path / "set", count=120, seed=0).rows
    assert {row.source for row in rows} == {"real", "i2i"}
    assert sum(row.source == "real" for row in rows) == pytest.approx(80, abs=21)  # .5 to .25
    assert "no `t2i` pictures in split `challenge`" in caplog.text
    assert "no `i2i`" not in caplog.text


def test_a_pool_that_lacks_one_label_is_said_and_labels_stay_even(
    challenge_manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    kept = tuple(one for one in challenge_manifest.pictures if (one.source, one.label) != ("t2i", 0))
    with caplog.at_level(logging.WARNING):
        rows = freeze(dataclasses.replace(challenge_manifest, pictures=kept), tmp_path / "set", count=200, seed=0).rows
    assert "no `t2i` pictures of label 0 in split `challenge`" in caplog.text
    assert {row.label for row in rows if row.source == "t2i"} == {1}
    assert sum(row.label for row in rows) == pytest.approx(100, abs=28)


@pytest.mark.parametrize(("label", "description"), [(1, ""), (0, "a clear street")])
def test_a_picture_whose_description_contradicts_its_label_is_never_drawn(
    challenge_manifest: Manifest, tmp_path: Path, label: int, description: str
):
    def contradict(picture: Picture) -> Picture:
        return dataclasses.replace(picture, description=description) if picture is odd else picture

    odd = challenge_manifest.select(label=label, source="real")[0]
    pictures = tuple(contradict(picture) for picture in challenge_manifest.pictures)
    rows = freeze(dataclasses.replace(challenge_manifest, pictures=pictures), tmp_path / "set", count=200, seed=0).rows
    assert odd.path not in {row.image for row in rows}
    assert len({row.image for row in rows if row.source == "real"}) == 15


def test_the_foreign_pool_of_r3_brings_its_labels_and_needs_no_descriptions(
    challenge_manifest: Manifest, tmp_path: Path
):
    def foreign(picture: Picture) -> Picture:
        return dataclasses.replace(picture, source="api", description="") if picture.source == "i2i" else picture

    pictures = tuple(foreign(picture) for picture in challenge_manifest.pictures)
    manifest = dataclasses.replace(challenge_manifest, pictures=pictures)
    rows = freeze(manifest, tmp_path / "set", count=200, seed=0, regime="R3").rows
    of_api = [row for row in rows if row.source == "api"]
    assert len(of_api) == pytest.approx(200 * 0.4, abs=28)  # 1/3 of 5/6: the share of i2i went to all others
    assert {row.label for row in of_api} == {0, 1}


def test_one_class_is_refused(challenge_manifest: Manifest, tmp_path: Path):
    only = dataclasses.replace(challenge_manifest, pictures=challenge_manifest.select(label=1))
    with pytest.raises(DataError, match="split `challenge` of .* has .* of label 1, expected both labels"):
        freeze(only, tmp_path / "set", count=10, seed=0)
    with pytest.raises(DataError, match="split `validation` of .* has no pictures"):
        freeze(challenge_manifest, tmp_path / "set", count=10, seed=0, split="validation")


def test_a_halted_regime_and_no_challenges_are_refused(challenge_manifest: Manifest, tmp_path: Path):
    with pytest.raises(SettingsError, match="`R4` is halted"):
        freeze(challenge_manifest, tmp_path / "set", count=10, seed=0, regime="R4")
    with pytest.raises(SettingsError, match="count is 0"):
        freeze(challenge_manifest, tmp_path / "set", count=0, seed=0)
    with pytest.raises(SettingsError, match="seed is -1"):
        freeze(challenge_manifest, tmp_path / "set", count=1, seed=-1)


def test_regime_r3_sends_pictures_as_they_are(challenge_manifest: Manifest, tmp_path: Path):
    frozen = freeze(challenge_manifest, tmp_path / "set", count=8, seed=0, regime="R3")
    assert imaging.decode(frozen.read_bytes(frozen.rows[0])).shape == (120, 160, 3)
    assert frozen.rows[0].angle_deg is None


def test_a_picture_that_was_altered_leaves_nothing_half_written(
    drawn_manifest: Callable[..., Manifest], tmp_path: Path
):
    manifest = drawn_manifest(tmp_path / "data", count=8)
    (manifest.root / manifest.pictures[0].path).write_bytes(b"no picture")
    with pytest.raises(DataError, match="was altered"):
        freeze(manifest, tmp_path / "out" / "set", count=60, seed=0)
    assert list((tmp_path / "out").iterdir()) == []


def test_no_set_and_no_table_are_told_apart(tmp_path: Path):
    with pytest.raises(DataError, match=r"no `challenges\.parquet` in"):
        ChallengeSet.read(tmp_path)
    (tmp_path / "challenges.parquet").write_bytes(b"text")
    with pytest.raises(DataError, match="is no table of challenges"):
        ChallengeSet.read(tmp_path)
