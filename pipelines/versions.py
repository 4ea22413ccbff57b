"""What a pipeline run is made from: the inputs that make kfp's cache honest."""

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def code_version() -> str:
    """Hex digest over the library's source and the pinned versions; on a cluster the image digest, by environment.

    kfp's cache key sees a step's inputs but not the library that it imports: this makes an edited library an input.
    """
    if given := os.environ.get("STREETVISION_CODE_VERSION"):
        return given
    digest = hashlib.sha256()
    library = ROOT / "src" / "streetvision"
    for path in [
        *sorted(p for p in library.rglob("*") if p.is_file() and "__pycache__" not in p.parts),
        ROOT / "constraints.txt",
    ]:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def git_sha() -> str:
    """The repository's commit, `-dirty` behind it where files differ, `unknown` outside git."""
    try:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip()
