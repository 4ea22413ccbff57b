import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from streetvision.data.folder import FolderSource
from streetvision.errors import DataError

Encode = Callable[..., bytes]


def write_csv(folder: Path, *lines: str) -> Path:
    file = folder / "labels.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_folder_gives_every_photo_with_its_label_and_untouched_bytes(photos: Path) -> None:
    source = FolderSource(photos)
    pictures = list(source)
    assert len(source) == len(pictures) == 20
    assert Counter(picture.label for picture in pictures) == {0: 10, 1: 10}
    for picture in pictures:
        assert picture.data == (photos / picture.origin).read_bytes()
        assert picture.label == picture.origin.startswith("roadwork/")
        assert (picture.group, picture.generator, picture.source) == (picture.origin, "camera", "real")


def test_sub_folder_is_the_group_across_both_classes(photos: Path, encoded: Encode) -> None:
    for name in ("roadwork/drive 1", "none/drive 1", "none/city/drive 2"):
        (photos / name).mkdir(parents=True)
        (photos / name / "a.PNG").write_bytes(encoded(99, "PNG"))
    groups = {picture.origin: picture.group for picture in FolderSource(photos)}
    assert groups["roadwork/drive 1/a.PNG"] == groups["none/drive 1/a.PNG"] == "drive 1"
    assert groups["none/city/drive 2/a.PNG"] == "city/drive 2"
    assert groups["none/0.jpg"] == "none/0.jpg"


def test_hidden_files_and_other_kinds_are_counted_and_left_out(photos: Path) -> None:
    for name in ("notes.txt", "clip.mp4", "b.HEIC", "c.heic", ".DS_Store"):
        (photos / "none" / name).write_bytes(b"x")
    (photos / "none" / ".thumbnails").mkdir()
    (photos / "none" / ".thumbnails" / "a.jpg").write_bytes(b"x")
    source = FolderSource(photos)
    assert len(source) == 20
    assert source.ignored == {".txt": 1, ".mp4": 1, ".heic": 2, "hidden": 1}


def test_csv_gives_paths_beside_it_labels_by_number_or_name_and_groups(photos: Path) -> None:
    file = write_csv(
        photos,
        "\ufeffpath, label ,group",
        "none/0.jpg,0,a",
        '"none/2.jpg", None ,a',
        "",
        "roadwork/1.jpg,roadwork,",
        f"{photos}/roadwork/3.jpg,1,b",
    )
    pictures = list(FolderSource(file))
    assert [(picture.label, picture.group) for picture in pictures] == [
        (0, "a"),
        (0, "a"),
        (1, "roadwork/1.jpg"),
        (1, "b"),
    ]
    assert pictures[2].data == (photos / "roadwork" / "1.jpg").read_bytes()


def test_folder_with_one_csv_is_read_by_it(photos: Path) -> None:
    (photos / "none").rename(photos / "x")
    (photos / "roadwork").rename(photos / "y")
    write_csv(photos, "path,label", "x/0.jpg,0", "y/1.jpg,1")
    assert [picture.origin for picture in FolderSource(photos)] == ["x/0.jpg", "y/1.jpg"]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            ["path,label", "none/0.jpg,0", "none/nowhere.jpg,1"],
            "line 3 of `{file}` names `none/nowhere.jpg`, which is no",
        ),
        (["path,label", "none/0.jpg,2"], "line 2 of `{file}` has label `2`, expected 0, 1"),
        (["path,label", "none/0.jpg,"], "line 2 of `{file}` has label ``, expected 0, 1"),
        (["path,label", "none/0.jpg"], "line 2 of `{file}` has 1 fields, expected 2"),
        (["path,label", "none/0.jpg,0,x"], "line 2 of `{file}` has 3 fields, expected 2"),
        (["path,group", "none/0.jpg,x"], "line 1 of `{file}` is `path,group`, expected `path,label`"),
        (["path,label,drive", "none/0.jpg,0,x"], "line 1 of `{file}` is `path,label,drive`, expected"),
        (["none/0.jpg,0"], "line 1 of `{file}` is `none/0.jpg,0`, expected"),
        ([""], "line 1 of `{file}` is ``, expected"),
        (["path,label", ",0"], "line 2 of `{file}` names ``, which is no file"),
        (["path,label", '"none/0.jpg,0'], "cannot read `{file}` as a CSV"),
        (["path,label", "none/0.jpg,0"], "`{file}` has no picture of class `roadwork` (found 1 of the other)"),
        (["path,label"], "`{file}` has no picture of class `roadwork`"),
    ],
)
def test_csv_that_cannot_be_used_is_refused_by_its_line(photos: Path, lines: list[str], sentence: str) -> None:
    file = write_csv(photos, *lines)
    with pytest.raises(DataError) as error:
        FolderSource(file)
    assert sentence.format(file=file) in error.value.message


def test_csv_that_is_no_text_is_refused(photos: Path) -> None:
    with pytest.raises(DataError, match="as a CSV in UTF-8"):
        FolderSource(photos / "none" / "0.jpg")


def test_missing_empty_and_strange_folders_are_refused_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is empty, expected `roadwork/` and `none/`"):
        FolderSource(tmp_path)
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="holds `cats`, `dogs`, expected `roadwork/` and `none/`"):
        FolderSource(tmp_path)


def test_one_class_only_is_refused_with_the_kinds_that_were_left_out(photos: Path) -> None:
    for file in (photos / "none").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(DataError) as error:
        FolderSource(photos)
    assert "has no picture of class `none` (found 10 of the other, and 10 `.heic` files)" in error.value.message


def test_fingerprint_changes_with_any_photo_label_or_group_and_not_with_the_place(
    photos: Path, encoded: Encode
) -> None:
    seen = [FolderSource(photos).fingerprint()]
    assert FolderSource(photos).fingerprint() == seen[0]

    moved = photos.with_name("moved")
    photos.rename(moved)
    assert FolderSource(moved).fingerprint() == seen[0]

    os.utime(moved / "none" / "0.jpg", (1, 1))
    seen.append(FolderSource(moved).fingerprint())
    (moved / "none" / "new.jpg").write_bytes(encoded(50))
    seen.append(FolderSource(moved).fingerprint())
    (moved / "none" / "new.jpg").rename(moved / "roadwork" / "new.jpg")
    seen.append(FolderSource(moved).fingerprint())
    (moved / "roadwork" / "drive").mkdir()
    (moved / "roadwork" / "new.jpg").rename(moved / "roadwork" / "drive" / "new.jpg")
    seen.append(FolderSource(moved).fingerprint())
    assert len(set(seen)) == 5


def test_photo_that_vanishes_or_leads_nowhere_is_one_more_unusable_picture(photos: Path) -> None:
    (photos / "roadwork" / "link.jpg").symlink_to("/nowhere.jpg")
    source = FolderSource(photos)
    (photos / "roadwork" / "19.jpg").unlink()
    assert source.fingerprint()
    assert [Path(picture.origin).name for picture in source if not picture.data] == ["19.jpg", "link.jpg"]
