"""Pictures where they lie: a manifest that is read, or one made of a person's photos without copying them."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from streetvision.data import manifest
from streetvision.data.build import Rejected, collect, groups_of
from streetvision.data.folder import FolderSource
from streetvision.data.manifest import Manifest

_log = logging.getLogger(__name__)


class _Nowhere(manifest.Writer):
    """Keeps no picture: each stays where it is."""

    def store(self, data: bytes, *, encoding: str) -> str:
        """Returns the picture's sha256."""
        return hashlib.sha256(data).hexdigest()

    def remove(self, sha256: str, *, encoding: str) -> None:
        """Nothing was stored."""


def open_pictures(path: Path) -> tuple[Manifest, tuple[Rejected, ...]]:
    """The manifest at `path`, or one of the photos there, all of them `real` and in no split; nothing is written.

    Args:
        path: a manifest's folder or its `manifest.parquet`; else photos as `FolderSource` takes them. The rows' paths
            are relative to it, or to the folder of the CSV.

    Returns:
        The manifest, and the photos that cannot be used, each with its sentence.

    Raises:
        DataError: nothing there, or a manifest or photos that cannot be used.
    """
    if path.name == manifest.FILE_NAME:
        return Manifest.read(path.parent), ()
    if (path / manifest.FILE_NAME).is_file():
        return Manifest.read(path), ()
    root = path if path.is_dir() else path.parent
    source = FolderSource(path)
    pictures, rejected, shared = collect(source, _Nowhere(root))
    for kind, count in source.ignored.most_common():
        _log.warning("left out files that are no pictures we read: %d of kind `%s`", count, kind)
    if shared:
        _log.warning("left out exact duplicates: %d", len(shared))
    groups = groups_of(pictures, shared)
    rows = (replace(picture, group=group) for picture, group in zip(pictures, groups, strict=True))
    return Manifest(root, tuple(sorted(rows, key=lambda picture: picture.sha256))), tuple(rejected)
