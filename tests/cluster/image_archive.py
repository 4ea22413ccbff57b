"""Container images of one static program each, written as an archive without a container engine."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.cluster.go_build import architecture

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ProgramImage:
    """An image with one file.

    Attributes:
        name: with its tag.
        program: the static binary on this machine.
        path: where it lies in the image.
        user: that it runs as.
    """

    name: str
    program: Path
    path: str
    user: str


def write(images: Iterable[ProgramImage], archive: Path) -> None:
    """Writes what `docker save` would write of these images; containerd and Docker read it."""
    entries = []
    with tarfile.open(archive, "w") as file:
        for image in images:
            layer = _Layer(image)
            configuration = json.dumps(_configuration(image, layer.digest)).encode()
            name = f"{hashlib.sha256(configuration).hexdigest()}.json"
            _add(file, name, len(configuration), io.BytesIO(configuration))
            path = f"{layer.digest}/layer.tar"
            with layer.open() as content:
                _add(file, path, layer.size, content)
            entries.append({"Config": name, "RepoTags": [image.name], "Layers": [path]})
        manifest = json.dumps(entries).encode()
        _add(file, "manifest.json", len(manifest), io.BytesIO(manifest))


class _Layer:
    """A tar with the program alone; the same program gives the same bytes."""

    def __init__(self, image: ProgramImage) -> None:
        entry = tarfile.TarInfo(image.path.lstrip("/"))
        entry.size = image.program.stat().st_size
        entry.mode = 0o755
        padding = -entry.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE
        self._before, self._program, self._after = entry.tobuf(), image.program, bytes(padding)
        self.size = len(self._before) + entry.size + padding
        with self.open() as content:
            self.digest = hashlib.file_digest(content, "sha256").hexdigest()

    def open(self) -> BinaryIO:
        return io.BufferedReader(_Chain(self._before, self._program, self._after), _CHUNK)


class _Chain(io.RawIOBase):
    """Bytes, a file and bytes, read one after another."""

    def __init__(self, before: bytes, path: Path, after: bytes) -> None:
        self._parts = [io.BytesIO(before), path.open("rb"), io.BytesIO(after)]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while self._parts:
            count = self._parts[0].readinto(buffer)
            if count:
                return count
            self._parts.pop(0).close()
        return 0

    def close(self) -> None:
        for part in self._parts:
            part.close()
        super().close()


def _configuration(image: ProgramImage, digest: str) -> dict:
    return {
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [image.path], "User": image.user, "Env": ["PATH=/usr/local/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }


def _add(file: tarfile.TarFile, name: str, size: int, content: BinaryIO) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    file.addfile(entry, content)
