"""A person's own photos: two folders, or a CSV."""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streetvision.data.build import SourcePicture
from streetvision.errors import DataError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
LABELS = {"roadwork": 1, "none": 0}  # folder name, and what a CSV may say instead of 1 and 0
_LAYOUT = "put pictures into `roadwork/` and `none/`, or name a CSV with columns `path,label[,group]`"


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    origin: str
    label: int
    group: str


class FolderSource:
    """Photos in `PATH/roadwork/` and `PATH/none/`, or listed in a CSV with columns `path,label[,group]`.

    A photo's group is its sub-folder (of `roadwork/` or `none/`, so one drive may lie in both) or what the CSV says;
    without either it is a group of its own. Hidden files and files of other kinds are counted in `ignored`.
    """

    name = "folder"

    def __init__(self, path: Path) -> None:
        """Lists the photos; reads none of them yet.

        Args:
            path: a folder with `roadwork/` and `none/`, a CSV, or a folder with one CSV.

        Raises:
            DataError: nothing there, another layout, one class only, or a CSV line that cannot be used.
        """
        self.ignored: Counter[str] = Counter()  # by extension
        if path.is_dir():
            self._files = self._from_folder(path)
        elif path.is_file():
            self._files = _from_csv(path)
        else:
            raise DataError(f"`{path}` does not exist, expected a folder or a CSV of pictures", hint=_LAYOUT)
        counts = Counter(file.label for file in self._files)
        for name, label in LABELS.items():
            if not counts[label]:
                kinds = "".join(f", and {count} `{kind}` files" for kind, count in self.ignored.most_common(3))
                raise DataError(
                    f"`{path}` has no picture of class `{name}` (found {len(self._files)} of the other{kinds}), "
                    "expected both classes",
                    hint=_LAYOUT,
                )

    def fingerprint(self) -> str:
        """Hex digits that change when a photo is added, removed, edited, relabelled or regrouped."""
        digest = hashlib.sha256()
        for file in self._files:
            row = (file.origin, file.label, file.group, *_size_and_time(file))
            digest.update(repr(row).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[SourcePicture]:
        for file in self._files:
            try:
                data = file.path.read_bytes()
            except OSError:
                data = b""  # as any other file that holds no picture, it is left out and said
            yield SourcePicture(data=data, label=file.label, group=file.group, generator="camera", origin=file.origin)

    def _from_folder(self, root: Path) -> list[_File]:
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
        classes = [entry for entry in entries if entry.is_dir() and entry.name.casefold() in LABELS]
        if not classes:
            tables = [entry for entry in entries if entry.suffix.lower() == ".csv"]
            if len(tables) == 1:
                return _from_csv(tables[0])
            found = ", ".join(f"`{entry.name}`" for entry in entries[:5]) + (" ..." if len(entries) > 5 else "")
            raise DataError(
                f"`{root}` is empty, expected `roadwork/` and `none/`, or a CSV"
                if not entries
                else f"`{root}` holds {found}, expected `roadwork/` and `none/`, or one CSV",
                hint=_LAYOUT,
            )
        return [file for folder in classes for file in self._from_class(root, folder)]

    def _from_class(self, root: Path, folder: Path) -> Iterator[_File]:
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(parent, name)
                extension = path.suffix.lower()
                if name.startswith(".") or extension not in EXTENSIONS:
                    self.ignored["hidden" if name.startswith(".") else extension or "no extension"] += 1
                    continue
                origin = path.relative_to(root).as_posix()
                sub_folder = path.parent.relative_to(folder).as_posix()
                yield _File(path, origin, LABELS[folder.name.casefold()], origin if sub_folder == "." else sub_folder)


def _from_csv(file: Path) -> list[_File]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            if sorted(columns) not in (["label", "path"], ["group", "label", "path"]):
                raise DataError(
                    f"line 1 of `{file}` is `{','.join(columns)}`, expected `path,label` or `path,label,group`",
                    hint="write the names of the columns into the first line",
                )
            return [_csv_row(columns, row, file, reader.line_num) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise DataError(f"cannot read `{file}` as a CSV in UTF-8: {err}", hint=_LAYOUT) from err


def _csv_row(columns: list[str], fields: list[str], file: Path, line: int) -> _File:
    where = f"line {line} of `{file}`"
    if len(fields) != len(columns):
        raise DataError(f"{where} has {len(fields)} fields, expected {len(columns)}", hint="quote what holds a comma")
    row = {name: field.strip() for name, field in zip(columns, fields, strict=True)}
    path = file.parent / row["path"]
    if not path.is_file():
        raise DataError(f"{where} names `{row['path']}`, which is no file", hint="paths are relative to the CSV")
    word = row["label"].casefold()
    if word not in ("0", "1", *LABELS):
        raise DataError(f"{where} has label `{row['label']}`, expected 0, 1, `none` or `roadwork`")
    return _File(path, row["path"], LABELS[word] if word in LABELS else int(word), row.get("group") or row["path"])


def _size_and_time(file: _File) -> tuple[int, int]:
    try:
        status = file.path.stat()
    except OSError:  # a link that leads nowhere, say
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
