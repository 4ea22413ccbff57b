"""The Go programs of the cluster, built from the module proxy at the versions of the committed go.mod and go.sum."""

import json
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from manifests.versions import versions
from streetvision import atomic
from streetvision.errors import SettingsError
from tests.cluster import cache
from tests.cluster.process import Programs

_FOLDER = Path(__file__).with_name("go")
_BUILD_S = 3600.0
_SETTINGS = {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath -buildvcs=false"}  # static, and the same from any folder
_KUBERNETES = "k8s.io/kubernetes/cmd"


@dataclass(frozen=True, slots=True)
class GoModule:
    """One go.mod, whose programs share what they are compiled from.

    Attributes:
        name: of its folder.
        builds: packages that one `go build` can compile together.
        is_kubernetes: its programs tell Kubernetes' version.
    """

    name: str
    builds: tuple[tuple[str, ...], ...]
    is_kubernetes: bool = False

    @property
    def folder(self) -> Path:
        """Where its go.mod is."""
        return _FOLDER / self.name

    def download(self, programs: Programs) -> None:
        """Leaves the sources of all that is compiled in Go's module cache."""
        for packages in self.builds:
            _go(programs, "list", "-deps", *packages, folder=self.folder)

    def build(self, programs: Programs) -> Path:
        """The folder with its programs, each named as the last part of its package.

        Raises:
            ProgramError: it does not compile, or a module cannot be had.
        """
        folder = cache.folder() / "bin" / f"{self.name}-{self.key(programs)}"
        if not folder.exists():
            with atomic.directory(folder) as fresh:
                for number, packages in enumerate(self.builds):
                    arguments = ("-ldflags", self._linking(), "-o", f"{fresh}/", *packages)
                    _go(programs, "build", *arguments, folder=self.folder, log=f"go-{self.name}-{number}")
        return folder

    def sources(self, programs: Programs, path: str) -> Path:
        """The folder of a module that this one requires, with all of its files."""
        answer = _go(programs, "mod", "download", "-json", path, folder=self.folder)
        return Path(json.loads(answer)["Dir"])

    def key(self, programs: Programs) -> str:
        """Stands for all that its programs are made of."""
        return cache.key(self.folder, _go(programs, "version"), str(self.builds), str(_SETTINGS), self._linking())

    def _linking(self) -> str:
        flags = ["-s", "-w"]
        if self.is_kubernetes:
            version = versions()["KUBERNETES_VERSION"]
            major, minor, _ = version.lstrip("v").split(".")
            for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
                values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
                flags += [f"-X {package}.{name}={value}" for name, value in values.items()]
        return " ".join(flags)


KIND = GoModule("kind", (("sigs.k8s.io/kind",),))
# Most of the cluster's programs stand on the same Kubernetes libraries, which compile once for all of them. Those that
# want another minor version of these have a module of their own.
KUBERNETES = GoModule(
    "kubernetes",
    (
        (
            *(f"{_KUBERNETES}/{name}" for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")),
            *(f"{_KUBERNETES}/{name}" for name in ("kube-proxy", "kubelet", "kubeadm")),
            *("./etcd", "./coredns", "./pause", "github.com/brancz/kube-rbac-proxy/cmd/kube-rbac-proxy"),
        ),
        ("github.com/rancher/local-path-provisioner",),  # spells a library's name in another case than kubelet does
    ),
    is_kubernetes=True,
)
KSERVE = GoModule("kserve", (("github.com/kserve/kserve/cmd/manager",),))
ADDONS = GoModule("addons", (("./cert-manager", "sigs.k8s.io/kwok/cmd/kwok"),))
VERSITYGW = GoModule("versitygw", (("github.com/versity/versitygw/cmd/versitygw",),))
MODULES = (KIND, KUBERNETES, KSERVE, ADDONS, VERSITYGW)


def architecture() -> str:
    """Of this machine, as Go and container images name it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def download(programs: Programs, modules: Iterable[GoModule] = MODULES) -> None:
    """Leaves the sources of these modules in Go's module cache."""
    for module in modules:
        module.download(programs)


def _go(programs: Programs, *arguments: str, folder: Path | None = None, log: str | None = None) -> str:
    if not shutil.which("go"):
        raise SettingsError(
            "the cluster is built from Go modules where no image registry answers, and `go` is not here",
            hint="install Go 1.26 or newer, or name a published node image in KIND_IMAGE",
        )
    return programs.run("go", *arguments, folder=folder, log=log, environment=_SETTINGS, timeout_s=_BUILD_S)
