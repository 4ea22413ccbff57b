"""File systems of small images, as `docker export` writes them."""

import io
import tarfile

PACKAGES = "app/.venv/lib/python3.11/site-packages"
FILES = {
    "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n',
    "var/lib/dpkg/status": (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    ),
    "app/.venv/pyvenv.cfg": "home = /usr/bin\nversion_info = 3.11.2\n",
    f"{PACKAGES}/a_b-1.dist-info/METADATA": "Name: A_b\nVersion: 1.0\nLicense-Expression: MIT\n",
    f"{PACKAGES}/c-2.dist-info/METADATA": (
        "Name: c\nVersion: 2\nLicense: All is\n granted\nClassifier: License :: OSI Approved :: BSD License\n"
    ),
    f"{PACKAGES}/c/vendored/d-3.dist-info/METADATA": "Name: d\nVersion: 3\n",
}


def archive(files: dict[str, str], *, time: int = 0) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(text), time
            tar.addfile(entry, io.BytesIO(text.encode()))
    buffer.seek(0)
    return buffer
