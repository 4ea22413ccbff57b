"""`debian:bookworm-slim` and `python:3.11-slim-bookworm`, made of Debian's packages where no registry answers.

A stand-in has the name, the Python and about the size of the published image, and what this machine needs to reach its
package registries: its certificate authorities and pip's settings. Neither is in any Dockerfile of ours.
"""

import shutil
import tempfile
from pathlib import Path

from manifests.docker import Docker
from streetvision import atomic
from tests.cluster import cache
from tests.cluster.engine import install
from tests.cluster.process import ProgramError, Programs

DEBIAN = "debian:bookworm-slim"
PYTHON = "python:3.11-slim-bookworm"
_MIRROR = "http://deb.debian.org/debian"
_SECURITY = "http://deb.debian.org/debian-security"
_PULL_S = 20.0
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_PIP_SETTINGS = Path("/etc/pip.conf")
# As in the published slim images: no documentation, no services started by an installation, no lists kept.
_SLIM = {
    "etc/dpkg/dpkg.cfg.d/slim": (
        "path-exclude /usr/share/doc/*\npath-include /usr/share/doc/*/copyright\n"
        "path-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\npath-exclude /usr/share/info/*\n"
    ),
    "etc/apt/apt.conf.d/slim": 'Acquire::Languages "none";\nAPT::Install-Suggests "false";\nDPkg::Post-Invoke {'
    ' "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };\n',
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
    "etc/apt/sources.list": (
        f"deb {_MIRROR} bookworm main\ndeb {_MIRROR} bookworm-updates main\ndeb {_SECURITY} bookworm-security main\n"
    ),
}
_DROPPED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
)
_DOCKERFILE = f"""
FROM {DEBIAN}
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends python3 python3-venv python3-pip \\
 && rm -rf /var/lib/apt/lists/* \\
 && ln -s /usr/bin/python3.11 /usr/local/bin/python && ln -s /usr/bin/python3.11 /usr/local/bin/python3
CMD ["python3"]
"""


def registry_answers(docker: Docker, programs: Programs) -> bool:
    """Whether images can be pulled here, found out by pulling one with a short deadline."""
    try:
        programs.run(docker.command, "pull", "--quiet", PYTHON, environment=docker.variables, timeout_s=_PULL_S)
    except ProgramError:
        return False
    return True


def ensure(docker: Docker, programs: Programs) -> None:
    """Leaves both images on the engine.

    Raises:
        ProgramError: they can neither be pulled nor made.
    """
    if not docker.has(DEBIAN):
        _import(docker, programs)
    if not docker.has(PYTHON):
        options = ("--network=host", "--tag", PYTHON, "-")
        programs.run(
            *(docker.command, "build", *options),
            stdin=_DOCKERFILE,
            environment={**docker.variables, "DOCKER_BUILDKIT": "1"},
            log="base-python",
            timeout_s=600,
        )


def archive(programs: Programs) -> Path:
    """A tar of the file system of the stand-in for `debian:bookworm-slim`.

    Raises:
        SettingsError: debootstrap cannot be had.
        ProgramError: it failed.
    """
    settings = [path for path in (Path(_AUTHORITIES), _PIP_SETTINGS) if path.exists()]
    path = cache.folder() / "base" / f"{cache.key(Path(__file__), *settings)}.tar"
    if path.exists():
        return path
    install(programs, "debootstrap", "debootstrap")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".root.") as scratch:
        root = Path(scratch, "root")
        # its mounts and its children live in namespaces of their own, and end with it
        alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        programs.run(
            *(*alone, "debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root, _MIRROR),
            log="debootstrap",
            timeout_s=900,
        )
        _make_slim(root)
        packed = Path(scratch, "root.tar")
        programs.run("tar", "--create", "--numeric-owner", "--file", packed, "--directory", root, ".", timeout_s=300)
        packed.replace(path)
    return path


def _import(docker: Docker, programs: Programs) -> None:
    changes = [f"ENV {name}={_AUTHORITIES}" for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")]
    changes += ["ENV LANG=C.UTF-8", 'CMD ["bash"]']
    options = [part for change in changes for part in ("--change", change)]
    programs.run(
        docker.command, "import", *options, archive(programs), DEBIAN, environment=docker.variables, timeout_s=300
    )


def _make_slim(root: Path) -> None:
    for name in _DROPPED:
        for path in Path(root, name).glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in _SLIM.items():
        atomic.write_text(root / name, text)
    Path(root, "usr/sbin/policy-rc.d").chmod(0o755)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True, exist_ok=True)
    if Path(_AUTHORITIES).exists():
        shutil.copy(_AUTHORITIES, root / _AUTHORITIES.lstrip("/"))
    if _PIP_SETTINGS.exists():
        shutil.copy(_PIP_SETTINGS, root / "etc/pip.conf")
