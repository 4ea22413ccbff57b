"""Built engines on the node's disk: each built once, checked when it is read, replaced where it is damaged."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from streetvision import atomic

_log = logging.getLogger(__name__)

_ENGINE = "engine.plan"
_RECORD = "engine.json"
_KEPT = 8  # engines; one of a large model takes a gigabyte


class EngineKey(BaseModel):
    """Everything a built engine depends on.

    Attributes:
        model_sha256: identity of the model directory.
        gpu: the GPUs it runs on.
        builder: name and version of what built it.
        precision: of its matrix products and convolutions.
        batch_sizes: those it was built for.
        recipe: digest of our own code that prepares the build.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_sha256: str
    gpu: str
    builder: str
    precision: str
    batch_sizes: tuple[int, ...]
    recipe: str

    @property
    def name(self) -> str:
        """Name of its folder: readable in front, exact behind."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        readable = f"{self.model_sha256[:12]}-{self.gpu}-{self.precision}".lower()
        return f"{re.sub(r'[^a-z0-9.]+', '-', readable)}-{digest[:12]}"


class _Record(BaseModel):
    """`engine.json`, beside the engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: EngineKey
    sha256: str


class EngineCache:
    """A folder of engines; several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def default_folder(cls) -> Path:
        """Where engines lie unless told otherwise: in the user's cache (`XDG_CACHE_HOME`)."""
        cache = os.environ.get("XDG_CACHE_HOME")
        return (Path(cache) if cache else Path.home() / ".cache") / "streetvision" / "engines"

    def get(self, key: EngineKey, build: Callable[[Path], bytes]) -> bytes:
        """The engine of this key, built where there is no intact one.

        Of several processes that ask at once one builds, and the others wait for it. A builder that is killed leaves
        nothing that could be taken for an engine.

        Args:
            key: what the engine depends on.
            build: makes it; is given an empty folder for files in between.

        Raises:
            StorageError: the disk is full, read-only or failing.
        """
        entry = self._folder / key.name
        engine = _read(entry, key)  # without the lock: a folder filled beforehand may be read-only
        if engine is None:
            with self._locked(entry):
                engine = _read(entry, key, quiet=True) or self._build(entry, key, build)
        with contextlib.suppress(OSError):
            os.utime(entry)  # the one last used is dropped last
        return engine

    def discard(self, key: EngineKey) -> None:
        """Removes the engine of this key, so that the next `get` builds it anew."""
        shutil.rmtree(self._folder / key.name, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, entry: Path):
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / f".{entry.name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.info("engine %s: another process builds it, waiting", entry.name)
                lock.acquire()
        except OSError as err:
            raise atomic.storage_error(self._folder, err) from err
        try:
            yield
        finally:
            lock.release()

    def _build(self, entry: Path, key: EngineKey, build: Callable[[Path], bytes]) -> bytes:
        for left in self._folder.glob(f".{entry.name}.*.tmp"):  # of a builder that was killed
            shutil.rmtree(left, ignore_errors=True)
        _log.info("engine %s: building with %s, once; a large model takes minutes", entry.name, key.builder)
        begin = time.monotonic()
        with atomic.directory(entry) as new:
            scratch = new / "scratch"
            scratch.mkdir()
            engine = build(scratch)
            shutil.rmtree(scratch)
            record = _Record(key=key, sha256=hashlib.sha256(engine).hexdigest())
            (new / _ENGINE).write_bytes(engine)
            (new / _RECORD).write_text(record.model_dump_json(indent=2) + "\n")
        _log.info("engine %s: built in %.1f s, %.1f MB", entry.name, time.monotonic() - begin, len(engine) / 1e6)
        self._drop_oldest()
        return engine

    def _drop_oldest(self) -> None:
        with contextlib.suppress(OSError):
            entries = [path for path in self._folder.iterdir() if (path / _RECORD).exists()]
            for entry in sorted(entries, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
                shutil.rmtree(entry, ignore_errors=True)


def _read(entry: Path, key: EngineKey, *, quiet: bool = False) -> bytes | None:
    """The engine where it is intact and of this key."""
    if not entry.exists():
        return None
    try:
        record = _Record.model_validate(json.loads((entry / _RECORD).read_bytes()))
        engine = (entry / _ENGINE).read_bytes()
        if record.key != key:
            problem = "it is of another model, GPU or builder"
        elif record.sha256 != hashlib.sha256(engine).hexdigest():
            problem = "its sha256 is not the one noted when it was built"
        else:
            return engine
    except (OSError, ValueError) as err:
        problem = str(err).partition("\n")[0]
    if not quiet:
        _log.warning("engine %s: unusable, it will be built again: %s", entry.name, problem)
    return None
