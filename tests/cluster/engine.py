"""The container engine: one that answers, or a `dockerd` of our own from Debian's package."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from manifests.docker import ContainerError, Docker
from manifests.tools import cache_folder
from streetvision import atomic
from streetvision.errors import SettingsError
from tests.cluster import wait
from tests.cluster.process import Programs

_CAP_SYS_RESOURCE = 24
_START_S = 60.0
_RUNTIME = Path(__file__).with_name("oci_runtime.py")
_LESSENED = ("--add-runtime", f"lessened={_RUNTIME}", "--default-runtime", "lessened")
_CLIENTS = ("docker", "/usr/bin/docker")  # Debian's builds by itself where another one, first in PATH, needs a plugin
_CHAINS = re.compile(r"^:(DOCKER[\w-]*) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Engine:
    """A private engine.

    Attributes:
        run_folder: its socket, its process and what the machine was like before; gone when it stops.
        data_folder: images and containers, which stay.
        log: what it says.
    """

    run_folder: Path
    data_folder: Path
    log: Path

    @classmethod
    def private(cls) -> "Engine":
        """The one of this machine."""
        folder = cache_folder() / "engine"
        return cls(Path("/run/streetvision"), folder / "data", folder / "dockerd.log")

    @property
    def host(self) -> str:
        """Value of DOCKER_HOST."""
        return f"unix://{self.run_folder / 'docker.sock'}"

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        pid = self._pid()
        return pid is not None and Path(f"/proc/{pid}/comm").exists()

    def start(self, *options: str) -> None:
        """Returns once it answers; does nothing where it does already.

        Args:
            options: more of `dockerd`'s.

        Raises:
            LateError: it does not answer; the end of its log is in the message.
        """
        if not self.is_running:
            self.run_folder.mkdir(parents=True, exist_ok=True)
            self.data_folder.mkdir(parents=True, exist_ok=True)
            atomic.write_json(self._before, {"forward": _forward_policy()})
            runtime = (
                ()
                if _may_raise_limits()
                else ("--add-runtime", f"lessened={_RUNTIME}", "--default-runtime", "lessened")
            )
            with self.log.open("w") as log:
                subprocess.Popen(
                    [
                        *("dockerd", "--host", self.host, "--pidfile", self._pidfile),
                        *("--data-root", self.data_folder, "--exec-root", self.run_folder / "exec"),
                        *runtime,
                        *options,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        wait.until(self._answers, what="a private dockerd that answers", timeout_s=_START_S)

    def stop(self) -> None:
        """Leaves no process of it, no socket, no network device and no rule of the firewall; its images stay.

        Raises:
            LateError: it does not end.
        """
        pid = self._pid()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            wait.until(lambda: not self.is_running, what=f"the end of dockerd (process {pid})", timeout_s=_START_S)
        if self._before.exists():
            _remove_network(json.loads(self._before.read_text())["forward"])
        shutil.rmtree(self.run_folder, ignore_errors=True)

    def client(self) -> Docker:
        """The command line that reaches it."""
        return Docker({"DOCKER_HOST": self.host}, command=_builder({"DOCKER_HOST": self.host}))

    def _answers(self) -> bool:
        if not self.is_running:
            words = " ".join(self.log.read_text().splitlines()[-3:])
            raise ContainerError(f"it ended: {words}", hint=f"its log is `{self.log}`")
        Docker({"DOCKER_HOST": self.host}, command=_CLIENTS[-1]).run("version")
        return True

    def _pid(self) -> int | None:
        try:
            pid = int(self._pidfile.read_text())
            return pid if Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd" else None
        except (OSError, ValueError):
            return None

    @property
    def _pidfile(self) -> Path:
        return self.run_folder / "docker.pid"

    @property
    def _before(self) -> Path:
        return self.run_folder / "before.json"


def find() -> Docker | None:
    """An engine that answers: the one that is set up here, or the private one while it runs."""
    private = {"DOCKER_HOST": Engine.private().host}
    for environment in ({}, private):
        for command in _CLIENTS:
            with suppress(ContainerError, OSError):
                Docker(environment, command=command).run("version", "--format", "{{.Server.Version}}")
                return Docker(environment, command=_builder(environment))
    return None


def ensure(programs: Programs) -> Docker:
    """An engine that answers, installed and started where there is none.

    Raises:
        SettingsError: there is none, and this user cannot start one.
        ProgramError: Debian's packages cannot be installed.
        LateError: it was started and does not answer.
    """
    if docker := find():
        return docker
    if os.geteuid() != 0:
        raise SettingsError(
            "no container engine answers, and only root can start one",
            hint="start Docker, or run this command as root on Debian or Ubuntu",
        )
    install(programs, "dockerd", "docker.io")
    if docker := find():  # the package may have started one
        return docker
    engine = Engine.private()
    engine.start()
    return engine.client()


def install(programs: Programs, program: str, *packages: str) -> None:
    """Leaves the program on this machine, from these packages of Debian.

    Raises:
        SettingsError: there is no apt-get.
        ProgramError: apt-get failed.
    """
    if shutil.which(program):
        return
    if not shutil.which("apt-get"):
        raise SettingsError(f"`{program}` is not here, and no apt-get to install it with", hint=f"install `{program}`")
    settings = {"DEBIAN_FRONTEND": "noninteractive"}
    programs.run("apt-get", "update", log="apt-update", environment=settings, timeout_s=300)
    command = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    programs.run(*command, log=f"apt-install-{packages[0]}", environment=settings, timeout_s=600)


def _builder(environment: dict[str, str]) -> str:
    """A client that builds by BuildKit without a plugin, or with the one that it needs."""
    for command in _CLIENTS:
        docker = Docker(environment, command=command)
        with suppress(ContainerError, OSError):
            major = int(docker.run("version", "--format", "{{.Client.Version}}").split(".")[0])
            if major < 23 or docker.run("buildx", "version"):
                return command
    raise SettingsError(
        "no `docker` here can build: it needs its buildx plugin",
        hint="install docker-buildx-plugin, or Debian's docker.io, whose client needs none",
    )


def _may_raise_limits() -> bool:
    """Whether this root may give containers the capability that a privileged one gets."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(found and int(found[1], 16) >> _CAP_SYS_RESOURCE & 1)


def _forward_policy() -> str:
    found = re.search(r"^-P FORWARD (\w+)", _iptables("iptables", "-S", "FORWARD"), re.MULTILINE)
    return found[1] if found else "ACCEPT"


def _remove_network(forward: str) -> None:
    """Takes away what dockerd leaves behind: its bridge and its chains, and the policy that it set."""
    for family in ("iptables", "ip6tables"):
        for table in ("filter", "nat"):
            rules = _iptables(f"{family}-save", "-t", table)
            for line in rules.splitlines():
                if line.startswith("-A") and ("DOCKER" in line or "docker0" in line or "172.17.0.0/16" in line):
                    _iptables(family, "-t", table, "-D", *shlex.split(line)[1:])
            for chain in _CHAINS.findall(rules):
                _iptables(family, "-t", table, "-F", chain)
            for chain in _CHAINS.findall(rules):
                _iptables(family, "-t", table, "-X", chain)
    _iptables("iptables", "-P", "FORWARD", forward)
    _iptables("ip", "link", "delete", "docker0")


def _iptables(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
