"""What was built before, by what it was built from."""

import hashlib
from pathlib import Path

from manifests.tools import cache_folder


def folder() -> Path:
    """Where the cluster keeps what is large and outlives a checkout."""
    return cache_folder() / "cluster"


def key(*parts: str | Path) -> str:
    """Sixteen digits that stand for these strings, files and folders of files."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"\0{part if isinstance(part, str) else part.name}\0".encode())
        for file in _files(part) if isinstance(part, Path) else ():
            digest.update(f"\0{file.relative_to(part)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def forget_others(kept: Path) -> list[Path]:
    """Names the siblings of the entry, built from something else: older than what is used now."""
    return sorted(path for path in kept.parent.iterdir() if path != kept) if kept.parent.exists() else []


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
