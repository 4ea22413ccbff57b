"""Bringing the local cluster up, from whatever is there, and down again."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from manifests.docker import ContainerError, Docker
from manifests.images import IMAGES
from streetvision.errors import BusyError, StreetvisionError
from tests.cluster import base_image, cache, engine, go_build, images, node_image
from tests.cluster.addons import Addons
from tests.cluster.engine import Engine
from tests.cluster.kind import NAME, Kind
from tests.cluster.process import Programs
from tests.cluster.table import Steps

_NODE_IMAGES = "localhost/streetvision/kind-node"
_LOCK_S = 5.0


@dataclass(frozen=True, slots=True)
class Lab:
    """The cluster of one name on this machine.

    Attributes:
        steps: what is done, with its times.
        name: of the cluster.
        programs: that run.
    """

    steps: Steps
    name: str = NAME
    programs: Programs = field(default_factory=lambda: Programs(cache.folder() / "logs"))

    def up(self) -> Kind:
        """The cluster with its add-ons, ready; what is up already stays as it is.

        Raises:
            BusyError: another command is at work on it.
            StreetvisionError: a step failed; the hint names where its log is.
        """
        with self._locked():
            with self.steps.step("container engine"):
                docker = engine.ensure(self.programs)
            kind, published = self._cluster(docker)
            with self.steps.step("cert-manager, KServe, kwok"), _explained(kind):
                if not Addons(kind, self.programs, published).install():
                    self.steps.note("add-ons", "were there")
            return kind

    def engine(self) -> Docker:
        """A container engine that answers and has the images that ours stand on.

        Raises:
            BusyError: another command is at work on it.
            StreetvisionError: a step failed; the hint names where its log is.
        """
        with self._locked():
            with self.steps.step("container engine"):
                docker = engine.ensure(self.programs)
            with self.steps.step("base images"):
                base_image.ensure(docker, self.programs)
            return docker

    def images(self) -> str:
        """The name of the node image, built with all that it holds where that is missing.

        Raises:
            BusyError: another command is at work on it.
            StreetvisionError: a step failed; the hint names where its log is.
        """
        with self._locked():
            with self.steps.step("container engine"):
                docker = engine.ensure(self.programs)
            return self._node_image(docker)

    def down(self) -> bool:
        """Leaves nothing of the cluster, nor of the engine where that is ours; what was built stays.

        Returns:
            Whether there was anything.
        """
        with self._locked():
            docker = engine.find()
            private = Engine.private()
            if docker is None:
                private.stop()  # what one that was killed left behind
                return False
            kind = self._kind(docker)
            was_there = kind.image() is not None
            with self.steps.step("cluster"):
                kind.delete()
            if docker.environment.get("DOCKER_HOST") == private.host and not docker.run("ps", "--quiet"):
                with self.steps.step("private engine"):
                    private.stop()
            shutil.rmtree(cache.folder() / "scratch", ignore_errors=True)
            return was_there

    def load(self, names: list[str]) -> list[str]:
        """Brings images from the engine to the cluster's node, and returns those that it had not.

        Raises:
            StreetvisionError: there is no cluster, or no such image.
        """
        with self._locked(), self.steps.step(f"load {len(names)} images"):
            return self.running().load(names)

    def load_ours(self) -> list[str]:
        """Brings those of our images that were built, and returns those that the node had not."""
        docker = engine.find()
        if docker is None or not self._kind(docker).answers():
            return []
        built = [image.reference for image in IMAGES if docker.has(image.reference)]
        return self.load(built) if built else []

    def running(self) -> Kind:
        """The cluster, which must be up.

        Raises:
            ClusterError: it is not.
        """
        docker = engine.find()
        if docker is None or not (kind := self._kind(docker)).answers():
            raise StreetvisionError(f"the cluster `{self.name}` is not up", hint="`make kind-up` brings it up")
        return kind

    def status(self) -> dict[str, Any]:
        """What there is of it, as JSON."""
        docker = engine.find()
        if docker is None:
            return {"engine": None, "cluster": None}
        kind = self._kind(docker)
        image = kind.image()
        found: dict[str, Any] = {
            "engine": {"client": docker.command, **docker.environment},
            "cluster": None,
        }
        if image:
            answers = kind.answers()
            found["cluster"] = {
                "name": self.name,
                "context": kind.cluster.context,
                "node_image": image,
                "answers": answers,
                "addons": Addons(kind, self.programs, _is_published(image)).installed() if answers else None,
                "images": sorted(kind.loaded()) if answers else [],
            }
        return found

    def _cluster(self, docker: Docker) -> tuple[Kind, bool]:
        kind = self._kind(docker)
        image = kind.image()
        if image:
            with self.steps.step("cluster that is there"):
                if kind.revive():
                    if not _is_published(image) and image != (newest := node_image.name(self.programs)):
                        self.steps.note("newer node image", f"{newest}: `make kind-down kind-up` takes it")
                    return kind, _is_published(image)
                kind.delete()
        image = os.environ.get("KIND_IMAGE")
        published = image is not None or base_image.registry_answers(docker, self.programs)
        if not published:
            image = self._node_image(docker)
        with self.steps.step("kind create cluster"):
            kind.create(image)
        return kind, published

    def _node_image(self, docker: Docker) -> str:
        name = node_image.name(self.programs)
        if docker.has(name):
            self.steps.note("node image", "was there")
            return name
        folders: dict[str, Path] = {}

        def compiled() -> None:
            with self.steps.step("Go modules"):
                go_build.download(self.programs)
            for module in go_build.MODULES:
                with self.steps.step(f"go build: {module.name}"):
                    folders[module.name] = module.build(self.programs)

        def packed() -> None:
            with self.steps.step("base images"):
                base_image.ensure(docker, self.programs)
            with self.steps.step("node image: Debian's packages"):
                node_image.build_system(docker, self.programs)
            with self.steps.step("storage initializer"):
                images.build_storage_initializer(docker, self.programs)

        self._together(compiled, packed)
        with self.steps.step("node image"):
            node_image.build(docker, folders, self.programs)
        _forget_older(docker, name, folders)
        return name

    def _together(self, *tasks: Callable[[], None]) -> None:
        """Runs them at the same time; where one fails, the others end at once."""
        with ThreadPoolExecutor(len(tasks)) as pool:
            try:
                futures = [pool.submit(task) for task in tasks]
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self.programs.stop()
                raise

    def _kind(self, docker: Docker) -> Kind:
        return Kind(self.name, docker, go_build.KIND.build(self.programs) / "kind", self.programs)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = cache.folder() / "lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path, timeout=_LOCK_S):
                yield
        except Timeout as err:
            raise BusyError("another command is at work on the local cluster", hint="wait until it has ended") from err


def _is_published(image: str) -> bool:
    return not image.startswith(_NODE_IMAGES)


@contextmanager
def _explained(kind: Kind) -> Iterator[None]:
    """Keeps the cluster's logs where what is done inside fails."""
    try:
        yield
    except StreetvisionError as err:
        err.hint = " ".join(filter(None, [err.hint, f"the cluster's logs are in `{kind.export_logs()}`"]))
        raise


def _forget_older(docker: Docker, name: str, folders: dict[str, Path]) -> None:
    """Removes node images and programs of other versions, which are large."""
    for module, folder in folders.items():
        for other in folder.parent.glob(f"{module}-*"):
            if other != folder:
                shutil.rmtree(other)
    for other in docker.run("images", "--format", "{{.Repository}}:{{.Tag}}", _NODE_IMAGES).splitlines():
        if other != name:
            try:
                docker.run("image", "rm", other)
            except ContainerError:  # a cluster runs on it
                continue
