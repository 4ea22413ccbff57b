"""One cluster of kind."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests import tools
from manifests.cluster import Cluster, ClusterError
from manifests.docker import ContainerError, Docker
from tests.cluster import wait
from tests.cluster.process import ProgramError, Programs

NAME = "streetvision"
CONFIGURATION = Path(__file__).parents[2] / "manifests" / "overlays" / "kind" / "kind.yaml"
_NETWORK = "kind"
_READY_S = 240
_LOADED = "/var/lib/streetvision-images.json"
_LABEL = "io.x-k8s.kind.cluster"


@dataclass(frozen=True, slots=True)
class Kind:
    """A cluster with one node.

    Attributes:
        name: of it.
        docker: the engine that it is on.
        program: kind's.
        programs: that run.
    """

    name: str
    docker: Docker
    program: Path
    programs: Programs

    @property
    def node(self) -> str:
        """The container that is its node."""
        return f"{self.name}-control-plane"

    @property
    def cluster(self) -> Cluster:
        """As kubectl and helm see it."""
        return Cluster(tools.kubectl(), tools.helm(), f"kind-{self.name}", "default")

    def image(self) -> str | None:
        """The image of its node, where there is one."""
        try:
            return self.docker.run("container", "inspect", "--format", "{{.Config.Image}}", self.node)
        except ContainerError:
            return None

    def create(self, image: str | None) -> None:
        """Makes it and returns once its node is ready; where that fails, its logs are kept and it is removed.

        Args:
            image: of the node, or that which kind has published.

        Raises:
            ProgramError: kind failed.
        """
        options = ["--image", image] if image else []
        try:
            self._run(
                *("create", "cluster", "--name", self.name, "--config", CONFIGURATION, "--retain", *options),
                *("--wait", f"{_READY_S}s"),
                log="kind-create",
                timeout_s=2 * _READY_S,
            )
        except ProgramError as err:
            folder = self.export_logs()
            self.delete()
            raise ProgramError(err.message, hint=f"the node's logs are in `{folder}`") from err

    def revive(self) -> bool:
        """Whether it answers, after its node was started where it stood still; the kubeconfig names it then."""
        try:
            self.docker.run("start", self.node)
            self._run("export", "kubeconfig", "--name", self.name)
            wait.until(self.answers, what="an API server that answers", timeout_s=60)
        except (ContainerError, ProgramError, wait.LateError):
            return False
        return True

    def answers(self) -> bool:
        """Whether its API server is ready."""
        try:
            return self.cluster.run_kubectl("get", "--raw", "/readyz", timeout_s=10, in_namespace=False) == "ok"
        except ClusterError:
            return False

    def delete(self) -> None:
        """Leaves no container of it, no volume, no kubeconfig entry, and no network where no other cluster is.

        Raises:
            ProgramError: kind failed.
        """
        if self.image():
            self._run("delete", "cluster", "--name", self.name, timeout_s=180)
        if not self.docker.run("ps", "--all", "--quiet", "--filter", f"label={_LABEL}"):
            self.docker.run("network", "rm", _NETWORK) if self._has_network() else None

    def execute(self, *command: str) -> str:
        """What a command on the node prints.

        Raises:
            ContainerError: it failed.
        """
        return self.docker.run("exec", self.node, *command)

    def load(self, images: Sequence[str]) -> list[str]:
        """Brings images to the node, and returns those that it had not.

        Raises:
            ContainerError: the engine has no such image.
            ProgramError: kind failed.
        """
        here = {image: self.docker.run("image", "inspect", "--format", "{{.Id}}", image) for image in images}
        loaded = self.loaded()
        missing = [image for image in images if loaded.get(image) != here[image]]
        if missing:
            self._run("load", "docker-image", "--name", self.name, *missing, log="kind-load", timeout_s=900)
            text = json.dumps(loaded | here)
            self.programs.run(
                *(self.docker.command, "exec", "--interactive", self.node, "tee", _LOADED),
                stdin=text,
                environment=self.docker.variables,
            )
        return missing

    def loaded(self) -> dict[str, str]:
        """The images that were brought to the node, and their ids."""
        try:
            return json.loads(self.execute("cat", _LOADED))
        except ContainerError:
            return {}

    def export_logs(self) -> Path:
        """The folder with the logs of its node and its pods."""
        folder = self.programs.logs / self.name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._run("export", "logs", "--name", self.name, folder)
        except ProgramError:  # it ends so where the node has no crictl, after it has written nearly all
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _has_network(self) -> bool:
        return _NETWORK in self.docker.run("network", "ls", "--format", "{{.Name}}").splitlines()

    def _run(self, *arguments: str | Path, log: str | None = None, timeout_s: float = 120.0) -> str:
        return self.programs.run(
            self.program, *arguments, environment=self.docker.environment, log=log, timeout_s=timeout_s
        )
