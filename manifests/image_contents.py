"""What is inside a container image: its files, its Python distributions, Debian's packages."""

import email
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import IO

from streetvision.errors import DataError

_DPKG_STATUS = "var/lib/dpkg/status"
_OS_RELEASE = "usr/lib/os-release"
_INTERPRETER = "/pyvenv.cfg"
_METADATA = re.compile(r"(?:site|dist)-packages/[^/]+\.dist-info/METADATA$")  # not what a package has vendored
# Written by the engine into each container, an exported one included.
ENGINE_FILES = {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"}


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package, of PyPI or of Debian.

    Attributes:
        name: as its registry spells it; of a Python distribution with dashes and in lower case.
        version: as its registry spells it.
        architecture: of a Debian package; empty else.
        licence: as the package states it, an SPDX expression or a name; empty where it states none.
    """

    name: str
    version: str
    architecture: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """A file system, read once.

    Attributes:
        sizes: bytes of every regular file, and 0 of every link and folder, by path without the leading slash.
        times: when each was changed last, seconds since 1970.
        distributions: of Python, by name.
        debian: packages that dpkg knows to be installed, by name.
        distribution: `ID-VERSION_ID` of the operating system, such as `debian-12`; empty where it does not say.
        python: version of the interpreter in the virtual environment; empty where there is none.
    """

    sizes: Mapping[str, int]
    times: Mapping[str, int]
    distributions: tuple[Package, ...]
    debian: tuple[Package, ...]
    distribution: str
    python: str

    def added_bytes(self, base: "Contents") -> int:
        """Bytes of the files that the base has not, or not so."""
        return sum(
            size
            for path, size in self.sizes.items()
            if base.sizes.get(path) != size or base.times[path] != self.times[path]
        )


def read_contents(archive: IO[bytes]) -> Contents:
    """The contents of an image's file system, from the tar archive that `docker export` writes.

    Raises:
        DataError: the archive is cut off or none.
    """
    sizes: dict[str, int] = {}
    times: dict[str, int] = {}
    texts: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=archive, mode="r|") as files:
            for file in files:
                if file.name in ENGINE_FILES:
                    continue
                sizes[file.name] = file.size if file.isreg() else 0
                times[file.name] = int(file.mtime)
                if file.isreg() and _is_read(file.name) and (content := files.extractfile(file)) is not None:
                    texts[file.name] = content.read().decode(errors="replace")
    except (tarfile.TarError, OSError) as err:
        raise DataError(f"file system of an image is no readable archive: {err}") from err
    metadata = [email.message_from_string(text) for path, text in texts.items() if _METADATA.search(path)]
    system = _assignments(texts.get(_OS_RELEASE, ""))
    interpreter = next((text for path, text in texts.items() if path.endswith(_INTERPRETER)), "")
    return Contents(
        sizes=sizes,
        times=times,
        distributions=tuple(sorted(map(_distribution, metadata), key=lambda package: package.name)),
        debian=tuple(sorted(_debian(texts.get(_DPKG_STATUS, "")), key=lambda package: package.name)),
        distribution="-".join(system[key] for key in ("ID", "VERSION_ID") if key in system),
        python=_assignments(interpreter).get("version_info", ""),
    )


def canonical(name: str) -> str:
    """The name as PyPI compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def _is_read(path: str) -> bool:
    return path in (_DPKG_STATUS, _OS_RELEASE) or path.endswith(_INTERPRETER) or _METADATA.search(path) is not None


def _distribution(metadata: Message) -> Package:
    licence = metadata["License-Expression"] or metadata["License"] or ""
    if not licence or "\n" in licence or len(licence) > 64:  # some put the whole text there
        classifiers = (value for key, value in metadata.items() if key == "Classifier")
        licence = next((value.split(" :: ")[-1] for value in classifiers if value.startswith("License ::")), "")
    return Package(name=canonical(metadata["Name"]), version=metadata["Version"], licence=licence.strip())


def _debian(status: str) -> Iterator[Package]:
    for paragraph in status.split("\n\n"):
        fields = email.message_from_string(paragraph)
        if fields["Status"] == "install ok installed":
            yield Package(name=fields["Package"], version=fields["Version"], architecture=fields["Architecture"])


def _assignments(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}
