"""Where registered models lie, immutable and named by their sha256: a folder or a bucket."""

import os
import shutil
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from streetvision import atomic
from streetvision.errors import RegistryError, SettingsError
from streetvision.inference.model_directory import CONFIG, ModelDirectory


class ModelStore(Protocol):
    """A place for model directories whose address never changes its content."""

    def put(self, model: ModelDirectory) -> str:
        """The address of the stored model; storing it again changes nothing."""
        ...

    def fetch(self, uri: str) -> Path:
        """A local folder with the model at `uri`."""
        ...


class FolderStore:
    """Model directories at `<root>/<sha256>/`."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def put(self, model: ModelDirectory) -> str:
        """The `file://` address of the stored copy, checked; storing the same model again changes nothing.

        Raises:
            StorageError: the disk is full, read-only or failing.
            ModelDirectoryError: what is stored under this sha256 was altered.
        """
        target = self._root / model.sha256
        if not target.exists():
            with atomic.directory(target) as folder:  # copies: a link would follow an edit of the source
                for name in (CONFIG, *model.config.files):
                    shutil.copyfile(model.path / name, folder / name)
        ModelDirectory.open(target)
        return target.as_uri()

    def fetch(self, uri: str) -> Path:
        """The stored folder itself.

        Raises:
            RegistryError: the address is no local folder, or the folder is gone.
        """
        parts = urlsplit(uri)
        path = Path(unquote(parts.path))
        if parts.scheme != "file" or not path.is_dir():
            raise RegistryError(f"registered model `{uri}` is not a folder of this machine")
        return path


def models_folder(uri: str) -> Path | None:
    """The folder that a models address names, or nothing where it names a bucket.

    Raises:
        SettingsError: it names neither.
    """
    if uri.startswith("s3://"):
        return None
    if "://" in uri or not uri:
        raise SettingsError(f"models are stored at `{uri}`, expected a folder or `s3://BUCKET/PREFIX`")
    return Path(uri)


def cache_folder() -> Path:
    """Where what can be fetched again lies: `$STREETVISION_CACHE`, or a folder of the user's cache."""
    return Path(os.environ.get("STREETVISION_CACHE") or Path.home() / ".cache" / "streetvision")
