"""The images of others that the cluster runs, built under their published names: charts and values stay as they are."""

import re
from collections.abc import Mapping
from pathlib import Path

from manifests.docker import Docker
from manifests.versions import versions
from streetvision.errors import DataError
from tests.cluster import go_build
from tests.cluster.base_image import DEBIAN, PYTHON
from tests.cluster.image_archive import ProgramImage
from tests.cluster.process import Programs

CERT_MANAGER = "localhost/streetvision/cert-manager"  # its own images hold one command each, ours all in one
_ROOT = "0:0"
_NOBODY = "65532:65532"
_BUILD_S = 900.0
STORAGE_INITIALIZER = Path(__file__).with_name("storage-initializer.Dockerfile")
_KUBE_PROXY = f"""
FROM {DEBIAN}
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends iptables nftables kmod \\
 && rm -rf /var/lib/apt/lists/*
COPY kube-proxy /usr/local/bin/
"""


def storage_initializer() -> str:
    """Name of the image whose container fetches a model."""
    return f"docker.io/kserve/storage-initializer:{versions()['KSERVE_VERSION']}"


def program_images(folders: Mapping[str, Path], programs: Programs) -> list[ProgramImage]:
    """The images with one program each.

    Args:
        folders: of the built programs, by the name of their Go module.
        programs: that run.
    """
    pins = versions()
    kubernetes = folders["kubernetes"]
    of_kubeadm = kubeadm_images(kubernetes, programs)
    control_plane = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "coredns", "pause")
    built = [_image(of_kubeadm[name], kubernetes / name, _ROOT) for name in control_plane]
    others = (
        (storage_images(programs)[0], kubernetes / "local-path-provisioner", _ROOT),
        (f"quay.io/brancz/kube-rbac-proxy:{pins['KUBE_RBAC_PROXY_VERSION']}", kubernetes / "kube-rbac-proxy", _NOBODY),
        (f"{CERT_MANAGER}:{pins['CERT_MANAGER_VERSION']}", folders["addons"] / "cert-manager", _NOBODY),
        (f"registry.k8s.io/kwok/kwok:{pins['KWOK_VERSION']}", folders["addons"] / "kwok", _ROOT),
        (f"docker.io/versity/versitygw:{pins['VERSITYGW_VERSION']}", folders["versitygw"] / "versitygw", _NOBODY),
    )
    built += [_image(*other) for other in others]
    manager = f"docker.io/kserve/kserve-controller:{pins['KSERVE_VERSION']}"
    return [*built, ProgramImage(manager, folders["kserve"] / "manager", "/manager", _NOBODY)]


def kubeadm_images(kubernetes: Path, programs: Programs) -> dict[str, str]:
    """The names of the images that kubeadm asks for, by their last part."""
    version = versions()["KUBERNETES_VERSION"]
    names = programs.run(kubernetes / "kubeadm", "config", "images", "list", "--kubernetes-version", version).split()
    return {re.split("[/:]", name)[-2]: name for name in names}


def storage_images(programs: Programs) -> tuple[str, str]:
    """The names that kind's storage manifest has for its provisioner and its helper."""
    text = storage_manifest_source(programs)
    found = re.findall(r'^const storage(?:Provisioner|Helper)Image = "([^"]+)"', text, re.MULTILINE)
    if len(found) != 2:
        raise DataError(f"kind's storage manifest names {len(found)} images, expected a provisioner and a helper")
    return found[0], found[1]


def storage_manifest_source(programs: Programs) -> str:
    """The file of kind's module with its storage manifest."""
    kind = go_build.KIND.sources(programs, "sigs.k8s.io/kind")
    return (kind / "pkg/build/nodeimage/const_storage.go").read_text()


def build_kube_proxy(docker: Docker, kubernetes: Path, programs: Programs) -> tuple[str, str]:
    """Leaves on the engine kube-proxy, which wants Debian's iptables; a shell is in it too, so it helps with storage.

    Returns:
        Its two names.
    """
    names = kubeadm_images(kubernetes, programs)["kube-proxy"], storage_images(programs)[1]
    options = ("--network=host", *(part for name in names for part in ("--tag", name)), "--file", "-", kubernetes)
    _build(docker, programs, *options, stdin=_KUBE_PROXY, log="image-kube-proxy")
    return names


def build_storage_initializer(docker: Docker, programs: Programs) -> str:
    """Leaves on the engine KServe's storage initializer, from its package and its module's own script."""
    name = storage_initializer()
    source = go_build.KSERVE.sources(programs, "github.com/kserve/kserve")
    arguments = {"BASE_IMAGE": PYTHON, "VERSION": versions()["KSERVE_STORAGE_VERSION"]}
    _build(
        *(docker, programs, "--network=host", "--tag", name, "--file", STORAGE_INITIALIZER),
        *(part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")),
        source / "python" / "storage-initializer",
        log="image-storage-initializer",
    )
    return name


def _image(name: str, program: Path, user: str) -> ProgramImage:
    return ProgramImage(name, program, f"/usr/local/bin/{program.name}", user)


def _build(docker: Docker, programs: Programs, *options: str | Path, log: str, stdin: str | None = None) -> None:
    environment = {**docker.variables, "DOCKER_BUILDKIT": "1"}
    command = (docker.command, "build", "--progress", "plain", *options)
    programs.run(*command, environment=environment, stdin=stdin, log=log, timeout_s=_BUILD_S)
