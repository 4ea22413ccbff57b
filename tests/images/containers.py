"""Containers of our images, run as the charts run them, and asked from inside."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from manifests.docker import ContainerError, Docker
from manifests.images import IMAGES

BY_NAME = {image.name: image for image in IMAGES}
# What the charts ask for, and no network at all: what answers needs nobody.
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Shows a figure that was measured, also where the test passes."""
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


def images(*names: str) -> pytest.MarkDecorator:
    """Runs a test once with each of these images, or with all of them."""
    return pytest.mark.parametrize("image", names or tuple(BY_NAME), indirect=True)


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    docker: Docker
    id: str

    def python(self, code: str, *arguments: str) -> str:
        """What the code prints, run in the container by the image's own Python."""
        return self.docker.run("exec", self.id, "python", "-W", "ignore", "-c", code, *arguments)

    def await_python(self, code: str, *, timeout_s: float = 90.0) -> tuple[str, float]:
        """As `python`, again and again until it does not fail; and after how many seconds that was."""
        begun = time.monotonic()
        while True:
            try:
                return self.python(code), time.monotonic() - begun
            except ContainerError as err:
                if time.monotonic() > begun + timeout_s or not self.state("Running"):
                    raise AssertionError(f"{err}\n{self.logs()}") from err
                time.sleep(0.2)

    def stop(self) -> tuple[float, int]:
        """Seconds until the container had ended after SIGTERM, and its exit code."""
        begun = time.monotonic()
        self.docker.run("stop", "--time", "30", self.id)
        return time.monotonic() - begun, int(self.docker.run("inspect", "--format", "{{.State.ExitCode}}", self.id))

    def state(self, name: str) -> bool:
        return self.docker.run("inspect", "--format", f"{{{{.State.{name}}}}}", self.id) == "true"

    def logs(self) -> str:
        done = subprocess.run(
            [self.docker.command, "logs", self.id],
            env=self.docker.variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr


@contextmanager
def running(
    docker: Docker,
    image: str,
    *command: str,
    environment: Mapping[str, str] = {},
    mounts: Mapping[str, Path] = {},
    beside: Container | None = None,
    entrypoint: str | None = None,
) -> Iterator[Container]:
    """A container of the image; `beside` shares the loopback interface of another."""
    options: list[str] = [*HARDENED, "--network", f"container:{beside.id}" if beside else "none"]
    options += [option for name, value in environment.items() for option in ("--env", f"{name}={value}")]
    options += [option for inside, path in mounts.items() for option in ("--volume", f"{path}:{inside}:ro")]
    options += ["--entrypoint", entrypoint] if entrypoint else []
    container = Container(docker, docker.run("run", "--detach", *options, image, *command))
    try:
        yield container
    finally:
        docker.run("rm", "--force", "--volumes", container.id)


def output(docker: Docker, image: str, command: Sequence[str]) -> str:
    """What the command prints in a container that ends with it."""
    hardened = [*HARDENED, "--network", "none", "--entrypoint", command[0]]
    return docker.run("run", "--rm", *hardened, image, *command[1:])
