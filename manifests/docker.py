"""The container engine, through its command line: any that answers to `docker`, or the local cluster's own."""

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from manifests.image_contents import Contents, read_contents
from streetvision.errors import SettingsError, StreetvisionError

# Where the local cluster starts an engine of its own, if the machine has none.
PRIVATE_HOST = "unix:///run/streetvision/docker.sock"
# Debian's builds by itself where another one, first in PATH, needs a plugin.
_CLIENTS = ("docker", "/usr/bin/docker")
_NEEDS_PLUGIN = 23  # first version of the client whose builds need buildx
_REASON_LINES = 12


class ContainerError(StreetvisionError, RuntimeError):
    """The container engine refused or failed, with the end of what it said."""


@dataclass(frozen=True, slots=True)
class Docker:
    """A container engine that answers.

    Attributes:
        environment: variables that reach it.
        command: its program.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = "docker"

    def run(self, *arguments: str) -> str:
        """What the command prints.

        Raises:
            ContainerError: it failed.
        """
        done = subprocess.run(
            [self.command, *arguments], env=self.variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ContainerError(f"`docker {' '.join(arguments[:2])}` failed: {_end(done.stderr)}")
        return done.stdout.strip()

    def build(self, options: Sequence[str], *, log: Path, tell: Callable[[str], None]) -> None:
        """Builds by BuildKit; all that it says goes to the file, and the name of each step to `tell`.

        Raises:
            ContainerError: the build failed.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["build", "--progress", "plain", *options]
        with (
            log.open("w") as file,
            subprocess.Popen(
                [self.command, *arguments],
                env={**self.variables, "DOCKER_BUILDKIT": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                if line.startswith("#") and " [" in line:
                    tell(line.split(" ", 1)[1].strip())
        if process.returncode:
            raise ContainerError(
                f"`docker build` failed: {_failed_step(log.read_text())}", hint=f"the whole log is `{log}`"
            )

    def has(self, image: str) -> bool:
        """Whether the image is here."""
        try:
            self.run("image", "inspect", "--format", "{{.Id}}", image)
        except ContainerError:
            return False
        return True

    def contents(self, image: str) -> Contents:
        """What is in the image's file system.

        Raises:
            ContainerError: there is no such image.
            DataError: the engine broke off.
        """
        container = self.run("create", "--network", "none", image, "true")
        try:
            with subprocess.Popen(
                [self.command, "export", container], env=self.variables, stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                return read_contents(process.stdout)
        finally:
            self.run("rm", "--force", container)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the program."""
        return {**os.environ, **self.environment}


def find_docker(*, hosts: Sequence[str | None] = (None, PRIVATE_HOST)) -> Docker:
    """The first engine that answers, by a client that can build.

    Args:
        hosts: values of DOCKER_HOST, none being what is set up here.

    Raises:
        SettingsError: none answers, or no client here can build.
    """
    reason = ""
    for host in hosts:
        answering: list[Docker] = []
        for command in _CLIENTS:
            docker = Docker({"DOCKER_HOST": host} if host else {}, command=command)
            try:
                docker.run("version", "--format", "{{.Server.Version}}")
            except (ContainerError, OSError) as err:
                reason = reason or str(err)
            else:
                answering.append(docker)
        if answering:
            return _builder(answering)
    raise SettingsError(
        f"no container engine answers: {reason}",
        hint="start Docker; on Debian and Ubuntu `python -m tests.cluster engine` brings root one",
    )


def _builder(clients: Sequence[Docker]) -> Docker:
    """The first that builds by BuildKit, alone or by a plugin that is there."""
    for docker in clients:
        with suppress(ContainerError):
            version = docker.run("version", "--format", "{{.Client.Version}}")
            if int(version.split(".")[0]) < _NEEDS_PLUGIN or docker.run("buildx", "version"):
                return docker
    raise SettingsError(
        "no `docker` here can build: it needs its buildx plugin",
        hint="install docker-buildx-plugin, or Debian's docker.io, whose client needs none",
    )


def _failed_step(log: str) -> str:
    """What the step said that failed; steps run beside each other, so that the log's end may be another's."""
    failed = re.search(r"^(#\d+) ERROR", log, re.MULTILINE)
    if not failed:
        return _end(log)
    return _end("\n".join(line for line in log.splitlines() if line.startswith(f"{failed[1]} ")))


def _end(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_REASON_LINES:]) or "no reason given"
