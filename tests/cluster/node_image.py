"""The image of a kind node, with everything that runs on it inside."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from manifests import tools
from manifests.docker import Docker
from manifests.versions import versions
from streetvision import atomic
from streetvision.errors import DataError
from tests.cluster import cache, go_build, image_archive, images
from tests.cluster.process import Programs

_HERE = Path(__file__).with_name("node")
_BUILD_S = 1200.0


def name(programs: Programs) -> str:
    """Its name, with a tag for all that it is made of."""
    sources = [_HERE, *(Path(module) for module in (image_archive.__file__, images.__file__, __file__))]
    keys = [module.key(programs) for module in go_build.MODULES]
    return f"localhost/streetvision/kind-node:{cache.key(*sources, images.STORAGE_INITIALIZER, *keys, str(versions()))}"


def build_system(docker: Docker, programs: Programs) -> None:
    """Leaves the first stage in the engine's cache: Debian's packages, before any Go program is there."""
    with tempfile.TemporaryDirectory() as empty:
        _build(docker, programs, "--target", "system", Path(empty), log="node-system")


def build(docker: Docker, folders: Mapping[str, Path], programs: Programs) -> None:
    """Leaves the node image on the engine.

    Args:
        docker: with the images of kube-proxy and the storage initializer.
        folders: of the built programs, by the name of their Go module.
        programs: that run.

    Raises:
        ProgramError: the build failed.
    """
    scratch = cache.folder() / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        context = Path(folder)
        _write_files(context / "files", programs)
        binaries = context / "bin"
        binaries.mkdir()
        for program in (folders["kubernetes"] / "kubeadm", folders["kubernetes"] / "kubelet", tools.kubectl()):
            shutil.copy(program, binaries)
        archives = context / "images"
        archives.mkdir()
        image_archive.write(images.program_images(folders, programs), archives / "programs.tar")
        others = (*images.build_kube_proxy(docker, folders["kubernetes"], programs), images.storage_initializer())
        programs.run(
            *(docker.command, "save", "--output", archives / "others.tar", *others),
            environment=docker.variables,
            timeout_s=_BUILD_S,
        )
        arguments = {
            "VERSION": versions()["KUBERNETES_VERSION"],
            "PAUSE": images.kubeadm_images(folders["kubernetes"], programs)["pause"],
        }
        options = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        _build(docker, programs, *options, "--tag", name(programs), context, log="node-image")


def _write_files(folder: Path, programs: Programs) -> None:
    """kind's scripts, units and manifests, with ours beside them."""
    kind = go_build.KIND.sources(programs, "sigs.k8s.io/kind")
    programs.run("cp", "-r", "--no-preserve=mode", kind / "images/base/files", folder)
    shutil.copytree(_HERE / "files", folder, dirs_exist_ok=True)
    atomic.write_text(folder / "kind/manifests/default-storage.yaml", _storage_manifest(programs))


def _storage_manifest(programs: Programs) -> str:
    """kind's own, out of the Go constant that it is."""
    found = re.search(r"defaultStorageManifest = `\n(.*?)\n`\n", images.storage_manifest_source(programs), re.DOTALL)
    if found is None:
        raise DataError("kind's module has no storage manifest where it was expected")
    provisioner, helper = images.storage_images(programs)
    text = (
        found[1].replace("` + storageProvisionerImage + `", provisioner).replace("` + storageHelperImage + `", helper)
    )
    return text + "\n"


def _build(docker: Docker, programs: Programs, *options: str | Path, log: str) -> None:
    environment = {**docker.variables, "DOCKER_BUILDKIT": "1"}
    command = (
        docker.command,
        "build",
        "--progress",
        "plain",
        "--network=host",
        "--file",
        _HERE / "Dockerfile",
        *options,
    )
    programs.run(*command, environment=environment, log=log, timeout_s=_BUILD_S)
