"""Where a promoted model is published: a local folder or a Hugging Face repository, one atomic commit a push."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from streetvision import atomic
from streetvision.errors import HubError
from streetvision.registry.lock import LocalLock

Files = Mapping[str, Path | bytes]  # path in the repository -> content


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a push left on the hub, read back from it.

    Attributes:
        revision: 40 hexadecimal digits.
        url: where a person can look at it.
        sha256: of each file, by its path in the repository.
    """

    revision: str
    url: str
    sha256: Mapping[str, str]


class Hub(Protocol):
    """A repository of one model with a linear history."""

    def head(self) -> str | None:
        """The newest revision, or nothing where the repository does not exist yet."""
        ...

    def push(self, files: Files, *, message: str, parent: str | None) -> Commit:
        """The commit after which the repository holds exactly `files`, read back and compared by sha256.

        Args:
            files: every file of the new revision.
            message: what changes, one line.
            parent: what `head` said when the files were made; a repository that moved on since refuses them.

        Raises:
            HubError: the hub refused, is out of reach, moved on, or what was read back differs.
        """
        ...

    def read(self, path: str, revision: str) -> bytes:
        """The content of one file at one revision.

        Raises:
            HubError: there is no such file or revision.
        """
        ...


class FolderHub:
    """A hub in a folder, laid out like the Hugging Face cache, so `snapshot_download(cache_dir=root)` reads it offline.

    Args:
        root: the folder of all repositories.
        repo_id: `owner/name`.
        lock_timeout_s: how long a push waits for another.
    """

    def __init__(self, root: Path, repo_id: str, *, lock_timeout_s: float = 30.0) -> None:
        self.repo_id = repo_id
        self._folder = root / f"models--{repo_id.replace('/', '--')}"
        self._main = self._folder / "refs" / "main"
        self._lock = LocalLock(self._folder / ".push.lock", what="hub", timeout_s=lock_timeout_s)

    def head(self) -> str | None:
        """The newest revision, or nothing where nothing was pushed yet."""
        try:
            return self._main.read_text().strip()
        except FileNotFoundError:
            return None

    def push(self, files: Files, *, message: str, parent: str | None) -> Commit:
        """The commit after which the folder's `main` holds exactly `files`; the same files again are the same commit.

        Raises:
            HubError: `main` is not `parent` any more, a path leaves the repository, or what was read back differs.
            BusyError: another push takes too long.
            StorageError: the disk is full, read-only or failing.
        """
        sha256 = {_inside(path): sha256_of(content) for path, content in sorted(files.items())}
        with self._lock.hold("push"):
            head = self.head()
            if head != parent:
                raise moved_on(str(self._folder), expected=parent, got=head)
            if head is not None and self._sha256(head) == sha256:
                return Commit(revision=head, url=self._snapshot(head).as_uri(), sha256=sha256)
            revision = hashlib.sha256(repr((parent, message, sorted(sha256.items()))).encode()).hexdigest()[:40]
            with atomic.directory(self._snapshot(revision)) as folder:
                for path, content in files.items():
                    target = folder / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if isinstance(content, bytes):
                        target.write_bytes(content)
                    else:  # a link would let a later edit of the source change what was published
                        shutil.copyfile(content, target)
            compare(str(self._snapshot(revision)), expected=sha256, got=self._sha256(revision))
            atomic.write_text(self._main, revision)
        return Commit(revision=revision, url=self._snapshot(revision).as_uri(), sha256=sha256)

    def read(self, path: str, revision: str) -> bytes:
        """The content of one file at one revision.

        Raises:
            HubError: there is no such file or revision.
        """
        try:
            return (self._snapshot(_inside(revision)) / _inside(path)).read_bytes()
        except OSError as err:
            raise HubError(f"`{path}` is not in revision `{revision}` of `{self._folder}`: {err.strerror}") from err

    def _snapshot(self, revision: str) -> Path:
        return self._folder.absolute() / "snapshots" / revision

    def _sha256(self, revision: str) -> dict[str, str]:
        folder = self._snapshot(revision)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): sha256_of(path) for path in found}


def sha256_of(content: Path | bytes) -> str:
    """The sha256 of a file's content in hexadecimal.

    Raises:
        HubError: the file cannot be read.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    try:
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise HubError(f"`{content}` cannot be read: {err.strerror}") from err


def compare(where: str, *, expected: Mapping[str, str], got: Mapping[str, str]) -> None:
    """Nothing, where every file read back is the one that was pushed.

    Raises:
        HubError: a file is missing, extra or altered, named in the message.
    """
    for path in sorted(expected.keys() | got.keys()):
        if expected.get(path) != got.get(path):
            raise HubError(
                f"`{path}` read back from `{where}` has sha256 {got.get(path, 'none')}, "
                f"expected {expected.get(path, 'no such file')}",
                hint="do not serve this revision; push again",
            )


def moved_on(where: str, *, expected: str | None, got: str | None) -> HubError:
    """The one sentence for a hub that somebody else pushed to."""
    return HubError(
        f"hub `{where}` stands at revision `{got or 'none'}`, expected `{expected or 'none'}`",
        hint="somebody else pushed meanwhile: look at what they pushed, then run it again",
    )


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) in {"", "."}:
        raise HubError(f"path `{path}` leaves the repository, expected one inside it")
    return path
