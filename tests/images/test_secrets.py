"""No secret, no address of a registry and nothing of the machine that built it is in an image."""

import json
import os
import re
import subprocess
import tarfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from urllib.parse import urlsplit

import pytest

from manifests.docker import Docker
from manifests.image_contents import ENGINE_FILES, Contents
from manifests.images import Image
from tests.images.containers import images

SECRETS = {
    "private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{100,}"),
    "access key": re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b(?<!EXAMPLE)"),
    "token": re.compile(rb"\b(?:ghp_[A-Za-z0-9]{36}|github_pat_\w{40,}|hf_[A-Za-z]{34}|xox[bp]-[0-9]{10,}-\w+)\b"),
    "coldkey": re.compile(rb'"secretPhrase"\s*:\s*"\w+ \w+'),
}
SETTINGS = re.compile(
    r"(?:^|/)(?:pip\.conf|uv\.toml|\.netrc|\.pypirc|\.npmrc|\.git-credentials|\.git|\.docker|\.aws)(?:/|$)"
)
# What comes from no package: our programs, a virtual environment's own files, one user more.
OURS = re.compile(
    r"app/(?:serving|components|pipelines|charts)/.*|app/\.venv/(?:pyvenv\.cfg|CACHEDIR\.TAG|\.gitignore|\.lock)"
    r"|app/\.venv/bin/.*|app/\.venv/lib/python3\.11/site-packages/_virtualenv\.(?:py|pth)|etc/passwd|etc/group"
    r"|usr/local/bin/helm|app/\.lock"
)


@pytest.fixture(scope="module")
def added(docker: Docker) -> Callable[[Image, Contents], Iterator[tuple[str, bytes]]]:
    """Path and content of every file of an image that its base has not, or not so."""

    def read(image: Image, base: Contents) -> Iterator[tuple[str, bytes]]:
        container = docker.run("create", "--network", "none", image.reference, "true")
        try:
            with (
                subprocess.Popen(
                    [docker.command, "export", container], env=docker.variables, stdout=subprocess.PIPE
                ) as process,
                tarfile.open(fileobj=process.stdout, mode="r|") as files,
            ):
                for file in files:
                    below = base.sizes.get(file.name), base.times.get(file.name)
                    if file.isreg() and file.name not in ENGINE_FILES and below != (file.size, int(file.mtime)):
                        yield file.name, files.extractfile(file).read()
        finally:
            docker.run("rm", "--force", container)

    return read


def test_the_search_finds_what_it_looks_for():
    body = b"MIIEpAIBAAKCAQEA" * 8
    assert SECRETS["private key"].search(b"x -----BEGIN RSA PRIVATE KEY-----\n" + body)
    assert not SECRETS["private key"].search(b'"-----BEGIN PRIVATE KEY-----" is the header')
    assert SECRETS["access key"].search(b"id AKIAQ3EGXYZABCDEFGHI;")
    assert not SECRETS["access key"].search(b"id AKIAIOSFODNN7EXAMPLE;")
    assert SETTINGS.search("etc/pip.conf")
    assert SETTINGS.search("tmp/.git/config")
    assert not SETTINGS.search("app/.venv/.gitignore")


@images()
def test_no_file_holds_a_secret_or_comes_from_nowhere(image: Image, added, contents):
    """Every file is as the RECORD of a package says, is its bytecode, or is one of ours."""
    recorded: dict[str, str] = {}
    files: dict[str, str] = {}
    secrets: list[str] = []
    hosts = re.compile(b"|".join(re.escape(host.encode()) for host in hosts_of_this_machine()) or rb"(?!)")
    for path, content in added(image, contents(image.default(image.base))):
        secrets += [f"{kind} in {path}" for kind, pattern in SECRETS.items() if pattern.search(content)]
        if hosts.search(content):
            secrets.append(f"host of the building machine in {path}")
        if SETTINGS.search(path):
            secrets.append(f"settings file {path}")
        files[path] = urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
        if path.endswith(".dist-info/RECORD"):
            recorded |= record(path, content.decode())
    assert secrets == []
    strangers = [
        path
        for path, digest in files.items()
        if recorded.get(path) not in (digest, "") and not path.endswith(".pyc") and not OURS.fullmatch(path)
    ]
    assert strangers == []
    assert len(files) > 1000


@images()
def test_neither_the_configuration_nor_the_history_names_a_registry(image: Image, docker: Docker):
    configuration = docker.run("image", "inspect", "--format", "{{json .Config}}", image.reference)
    history = docker.run("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.reference)
    base = json.loads(docker.run("image", "inspect", image.default(image.base)))[0]["Config"]
    ours = [entry for entry in json.loads(configuration)["Env"] if entry not in base["Env"]]
    for text in (*ours, history):
        assert not re.search(r"(?i)index|proxy|(?<!model_)registry|token|secret|password|_key|cert|https?://", text)
    assert not [host for host in hosts_of_this_machine() if host in configuration + history]


def record(path: str, text: str) -> dict[str, str]:
    """sha256 by path of the files that a distribution brought; empty where its RECORD states none."""
    folder = path.rpartition("/")[0].rpartition("/")[0]
    lines = (line.rsplit(",", 2) for line in text.splitlines())
    return {
        os.path.normpath(f"{folder}/{name.strip(chr(34))}"): digest.removeprefix("sha256=") for name, digest, _ in lines
    }


def hosts_of_this_machine() -> set[str]:
    """Names that the settings of this machine hold: of its indexes, its proxies, and its own."""
    urls = [value for name, value in os.environ.items() if re.search(r"(?i)proxy|index|_url$|registry", name)]
    pip = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    urls += re.findall(r"https?://[^\s'\"]+", pip)
    hosts = {urlsplit(url).hostname or "" for url in urls} | {os.uname().nodename}
    return {host for host in hosts if len(host) > 3 and host not in ("localhost", "127.0.0.1", "pypi.org")}
