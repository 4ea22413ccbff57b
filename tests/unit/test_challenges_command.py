"""`streetvision subnet challenges` on a person's own photos, and on manifests."""

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from streetvision.challenge_set import ChallengeSet
from streetvision.cli import main
from streetvision.data.manifest import Manifest
from streetvision.subnet.challenges import Transform
from tests.bench.views import plain_view

Captured = pytest.CaptureFixture[str]
SIZES = ((160, 120), (121, 160), (200, 113), (90, 90))


def save_photo(path: Path, *, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize(SIZES[seed % len(SIZES)], Image.Resampling.BICUBIC)
    photo.save(path, **({"quality": 90} if path.suffix == ".jpg" else {}))


def files_below(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos of each class, two of them of one drive, and three files that hold none."""
    root = tmp_path_factory.mktemp("photos")
    for seed in range(10):
        save_photo(root / "roadwork" / f"{seed}.jpg", seed=seed)
        save_photo(root / "none" / f"{seed}.png", seed=100 + seed)
    save_photo(root / "none" / "drive" / "a.jpg", seed=200)
    save_photo(root / "none" / "drive" / "b.jpg", seed=201)
    (root / "none" / "again.png").write_bytes((root / "none" / "0.png").read_bytes())
    (root / "roadwork" / "broken.jpg").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(root / "roadwork" / "tiny.png")
    (root / "notes.txt").write_text("not a picture")
    return root


def run(images: Path, out: Path, *more: str) -> int:
    return main(["subnet", "challenges", "--images", str(images), "--out", str(out), "--seed", "5", *more])


@pytest.fixture(scope="module")
def frozen(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ChallengeSet:
    out = tmp_path_factory.mktemp("command") / "set"
    assert run(photos, out, "--count", "120") == 0
    return ChallengeSet.read(out)


def test_every_usable_photo_plays_real_and_is_named_relative_to_its_folder(photos: Path, frozen: ChallengeSet):
    assert len(frozen) == 120
    assert len(list(frozen.root.glob("*.jpg"))) == 120
    assert {row.source for row in frozen.rows} == {"real"}
    for row in frozen.rows:
        assert (photos / row.image).is_file()
        assert row.label == row.image.startswith("roadwork/")
    images = Counter(row.image for row in frozen.rows)
    assert len(images) == 22
    assert not {"roadwork/broken.jpg", "roadwork/tiny.png", "none/again.png"} & set(images)


def test_photos_of_one_drive_share_a_group(frozen: ChallengeSet):
    groups = {row.image: row.group for row in frozen.rows}
    assert groups["none/drive/a.jpg"] == groups["none/drive/b.jpg"]
    assert len(set(groups.values())) == 21


def test_the_recorded_columns_give_the_pixels_by_the_plain_way(photos: Path, frozen: ChallengeSet):
    table = pq.read_table(frozen.root / "challenges.parquet").to_pylist()
    checked = Counter[int]()
    for row in table:
        if row["gnc"] or checked[row["level"]] == 8:
            continue  # the noise itself is no column
        with Image.open(photos / row["image"]) as photo:
            cached = io.BytesIO()
            photo.save(cached, format=photo.format)  # quality 75 where it is a JPEG
        transform = Transform(**{name: row[name] for name in Transform.__slots__ if name != "noise_seed"})
        wire = io.BytesIO()
        with Image.open(cached) as picture:
            Image.fromarray(plain_view(np.array(picture.convert("RGB")), transform)).save(wire, format="JPEG")
        with Image.open(wire) as expected, Image.open(frozen.root / row["file"]) as challenge:
            assert (challenge.size, challenge.quantization) == ((224, 224), expected.quantization)
            error = np.abs(np.array(expected).astype(int) - np.array(challenge))
        assert error.mean() <= (0.3 if row["level"] < 2 else 1.0), row  # the JPEG spreads what rounding left over
        checked[row["level"]] += 1
    assert min(checked[level] for level in range(4)) >= 4


def test_json_says_what_was_drawn_and_what_was_left_out(photos: Path, tmp_path: Path, capsys: Captured):
    before = files_below(photos)
    assert run(photos, tmp_path / "set", "--count", "8", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["challenges"] == 8
    assert said["version"] == ChallengeSet.read(tmp_path / "set").version
    assert (said["available"], said["split"]) == (22, None)
    assert sorted(item["origin"] for item in said["left_out"]) == ["roadwork/broken.jpg", "roadwork/tiny.png"]
    assert files_below(photos) == before


def test_people_are_told_how_many_pictures_were_left_out(photos: Path, tmp_path: Path, capsys: Captured):
    assert run(photos, tmp_path / "set", "--count", "8") == 0
    out = capsys.readouterr().out
    assert "8 challenges in" in out
    assert "left out 2 pictures that cannot be used" in out


def test_the_same_seed_gives_the_same_bytes(photos: Path, tmp_path: Path):
    for name in ("one", "other"):
        assert run(photos, tmp_path / name, "--count", "12") == 0
    files = [
        sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in ("one", "other")
    ]
    assert files[0] == files[1]


def test_a_csv_names_photos_relative_to_its_folder(photos: Path, tmp_path: Path):
    table = tmp_path / "photos.csv"
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes((photos / "none" / "drive" / name).read_bytes())
    table.write_text("path,label,group\npictures/a.jpg,1,first\npictures/b.jpg,0,second\n")
    assert run(table, tmp_path / "set", "--count", "6") == 0
    rows = ChallengeSet.read(tmp_path / "set").rows
    assert {(row.image, row.label, row.group) for row in rows} == {
        ("pictures/a.jpg", 1, "first"),
        ("pictures/b.jpg", 0, "second"),
    }


def test_a_manifest_may_be_named_by_its_folder_or_its_file(challenge_manifest: Manifest, tmp_path: Path):
    for name, images in (("a", challenge_manifest.root), ("b", challenge_manifest.root / "manifest.parquet")):
        assert run(images, tmp_path / name, "--count", "20") == 0
    by_folder, by_file = (ChallengeSet.read(tmp_path / name) for name in ("a", "b"))
    assert by_folder.rows == by_file.rows
    assert {row.source for row in by_file.rows} == {"real", "t2i", "i2i"}
    assert (challenge_manifest.root / by_file.rows[0].image).is_file()


def test_a_manifest_s_challenge_split_is_drawn_from_else_all_of_it(
    drawn_manifest: Callable[..., Manifest], tmp_path: Path, capsys: Captured
):
    mixed = drawn_manifest(tmp_path / "mixed", split=lambda seed: "train" if seed < 16 else "challenge")
    alien = drawn_manifest(tmp_path / "alien", split=lambda seed: "train" if seed < 16 else "validation")
    said = {}
    for name, manifest, more in (("a", mixed, []), ("b", alien, []), ("c", alien, ["--split", "validation"])):
        assert run(manifest.root, tmp_path / name, "--count", "4", "--json", *more) == 0
        said[name] = json.loads(capsys.readouterr().out)
    assert [(one["split"], one["available"]) for one in said.values()] == [
        ("challenge", 16), (None, 32), ("validation", 16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--regime", "R4"], "error: regime `R4` is halted: its validators send no challenges"),
        (["--regime", "R7"], "error: regime is `R7`, expected one of R0, R1, R2, R3, R4"),
        (["--count", "0"], "error: count is 0, expected at least one challenge"),
        (["--seed", "-3"], "error: --seed is -3, expected a number from 0 on"),
        (["--split", "train"], "has no pictures, expected both labels"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence_and_writes_nothing(
    photos: Path, tmp_path: Path, capsys: Captured, more: list[str], sentence: str
):
    assert run(photos, tmp_path / "set", *more) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_halted_regime_is_refused_before_any_photo_is_looked_at(tmp_path: Path, capsys: Captured):
    assert run(tmp_path / "missing", tmp_path / "set", "--regime", "R4") == 2
    assert "`R4` is halted" in capsys.readouterr().err


def test_photos_of_one_class_are_refused(photos: Path, tmp_path: Path, capsys: Captured):
    assert run(photos / "none", tmp_path / "set") == 2
    assert "expected `roadwork/` and `none/`" in capsys.readouterr().err


def test_the_native_regime_keeps_sizes(photos: Path, tmp_path: Path):
    assert run(photos, tmp_path / "set", "--regime", "R3", "--count", "20") == 0
    for row in ChallengeSet.read(tmp_path / "set").rows:
        with Image.open(photos / row.image) as photo, Image.open(tmp_path / "set" / row.file) as challenge:
            assert challenge.size == photo.size
        assert (row.level, row.angle_deg) == (0, None)
