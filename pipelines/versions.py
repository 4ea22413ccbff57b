"""What a pipeline run is made from: the inputs that make kfp's cache honest."""

import hashlib
import os
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import streetvision

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


def image_version(*, tag: str) -> str:
    """What a cluster's steps run: the images' digest if the environment names it, else their tag and this library.

    An image holds no repository: the installed library and the versions of what is installed beside it count.
    """
    if given := os.environ.get("STREETVISION_CODE_VERSION"):
        return given
    if (ROOT / "src" / "streetvision").is_dir():
        return f"{tag}+{code_version()[:16]}"
    digest = hashlib.sha256()
    library = Path(streetvision.__file__).parent
    for path in sorted(library.rglob("*.py")):
        digest.update(f"{path.relative_to(library)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    for name in sorted(f"{one.name}=={one.version}" for one in distributions()):
        digest.update(name.encode())
    return f"{tag}+{digest.hexdigest()[:16]}"


def git_sha() -> str:
    """The repository's commit, `-dirty` behind it where files differ, `unknown` outside git."""
    if given := os.environ.get("STREETVISION_GIT_SHA"):
        return given
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
