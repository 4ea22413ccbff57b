"""`python -m manifests.images [NAME...]`: builds our container images, and says what is in each and how large it is."""

import argparse
import json
import logging
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.images import PREFIX, TAG
from manifests.docker import Docker, find_docker
from manifests.sbom import write_sbom
from pipelines import versions
from streetvision import atomic
from streetvision.errors import SettingsError, StreetvisionError
from streetvision.progress import Progress

ROOT = Path(__file__).parents[1]
_log = logging.getLogger(__name__)
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Image:
    """One of our images.

    Attributes:
        name: on the command line.
        dockerfile: from the root of the repository.
        target: stage of that file.
        base: the argument of that file that names what it stands on.
        programs: what no package manager knows of, and the command that prints its version.
        suffix: of the tag.
        repository: the name without the prefix, where it is another.
    """

    name: str
    dockerfile: str
    target: str
    base: str = "BASE_IMAGE"
    programs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    suffix: str = ""
    repository: str = ""

    @property
    def reference(self) -> str:
        """Its full name."""
        return f"{PREFIX}/{self.repository or self.name}:{TAG}{self.suffix}"

    @property
    def is_for_gpus(self) -> bool:
        """Whether it stands on a base with CUDA and weighs gigabytes."""
        return self.base == "GPU_BASE_IMAGE"

    def default(self, argument: str) -> str:
        """The default of an argument of its Dockerfile."""
        found = re.search(rf"^ARG {argument}=(\S+)$", (ROOT / self.dockerfile).read_text(), re.MULTILINE)
        assert found, f"{self.dockerfile}: no default of {argument}"
        return found[1]


IMAGES = (
    Image("miner", "serving/miner/Dockerfile", "miner"),
    Image("predictor", "serving/predictor/Dockerfile", "cpu"),
    Image("mlflow", "serving/mlflow/Dockerfile", "mlflow"),
    Image(
        "pipeline-cpu",
        "components/pipeline-cpu.Dockerfile",
        "pipeline-cpu",
        programs=(("helm", ("helm", "version", "--template", "{{.Version}}")),),
    ),
    Image(
        "predictor-tensorrt",
        "serving/predictor/Dockerfile",
        "tensorrt",
        base="GPU_BASE_IMAGE",
        suffix="-tensorrt",
        repository="predictor",
    ),
    Image("pipeline-gpu", "components/pipeline-gpu.Dockerfile", "pipeline-gpu", base="GPU_BASE_IMAGE"),
)


@dataclass(frozen=True, slots=True)
class Built:
    """What came of one image.

    Attributes:
        name: on the command line.
        reference: its full name.
        id: hash of its configuration.
        base: what it stands on.
        build_s: the build took.
        inspect_s: reading it and writing its bill of materials took.
        added_bytes: of the files that the base has not, or not so.
        total_bytes: of all its files.
        distributions: packages of Python.
        debian: packages of the base's distribution.
        sbom: file of its bill of materials.
        push_s: the push took; none where it was not pushed.
    """

    name: str
    reference: str
    id: str
    base: str
    build_s: float
    inspect_s: float
    added_bytes: int
    total_bytes: int
    distributions: int
    debian: int
    sbom: str
    push_s: float | None


@dataclass(frozen=True, slots=True)
class Bases:
    """The images that ours stand on, where they are not the Dockerfiles' defaults."""

    python: str | None = None
    gpu: str | None = None

    def of(self, image: Image) -> str:
        """What the image stands on."""
        given = self.gpu if image.is_for_gpus else self.python
        return given or image.default(image.base)

    def arguments(self, image: Image) -> dict[str, str]:
        """The arguments of its build."""
        arguments = {"BASE_IMAGE": self.python} if self.python else {}
        if image.is_for_gpus and self.gpu:
            arguments["GPU_BASE_IMAGE"] = self.gpu
            if self.gpu == (self.python or image.default("BASE_IMAGE")):  # then it has the builder's Python
                arguments["UV_PYTHON_PREFERENCE"] = "only-system"
        return arguments


def main(argv: list[str] | None = None) -> int:
    """Builds what is named; returns the exit code: 0 well, 1 failed, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    images = [image for image in IMAGES if (image.name in arguments.name if arguments.name else not image.is_for_gpus)]
    bases = Bases(arguments.base, arguments.gpu_base)
    built: list[Built] = []
    try:
        docker = find_docker()
        with Progress("images", total=len(images), unit="image", enabled=sys.stderr.isatty()) as progress:
            for image in images:
                one = build(
                    image,
                    docker,
                    bases=bases,
                    output=arguments.output,
                    push=arguments.push,
                    no_cache=arguments.no_cache,
                    progress=progress,
                )
                built.append(one)
                progress.advance(1)
    except StreetvisionError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2 if isinstance(err, ValueError) else 1
    except KeyboardInterrupt:
        print("interrupted: what is built is kept, the next run goes on from there", file=sys.stderr)
        return 130
    if arguments.json:
        print(json.dumps([asdict(one) for one in built], indent=2))
        return 0
    print(table(built))
    for image in IMAGES:
        if image.is_for_gpus and image not in images:
            print(f"not built: {image.name}, for GPUs (`make images ARGS={image.name}`, where {bases.of(image)} is)")
    return 0


def build(
    image: Image,
    docker: Docker,
    *,
    bases: Bases,
    output: Path,
    push: bool = False,
    no_cache: bool = False,
    progress: Progress,
) -> Built:
    """The image, built, read and, if told so, pushed.

    Args:
        image: which one.
        docker: the engine.
        bases: what it stands on.
        output: folder of logs and bills of materials.
        push: whether it goes to its registry.
        no_cache: whether every layer is made anew.
        progress: shows the steps.

    Raises:
        ContainerError: a step of the build failed, or the push did.
        SettingsError: the base is neither here nor to be had.
    """
    base = bases.of(image)
    _log.info("%s: builds on %s", image.name, base)
    _provide(docker, base)
    commit = _commit_time()
    begun = time.monotonic()
    arguments = bases.arguments(image) | {
        "VERSION": TAG,
        "REVISION": versions.git_sha(),
        "CREATED": commit.isoformat(),
        "SOURCE": _project().get("urls", {}).get("Source", "unknown"),
        "CODE_VERSION": versions.code_version(),
    }
    docker.build(
        [
            *("--file", str(ROOT / image.dockerfile), "--target", image.target, "--tag", image.reference),
            *(option for name, value in arguments.items() for option in ("--build-arg", f"{name}={value}")),
            *(["--no-cache"] if no_cache else []),
            str(ROOT),
        ],
        log=output / f"{image.name}.log",
        tell=lambda step: progress.show(f"{image.name} {step[:60]}"),
    )
    build_s = time.monotonic() - begun
    contents, below = docker.contents(image.reference), docker.contents(base)
    programs = {
        name: docker.run("run", "--rm", "--network", "none", "--entrypoint", command[0], image.reference, *command[1:])
        for name, command in image.programs
    }
    sbom = output / f"{image.name}.cdx.json"
    name, _, tag = image.reference.rpartition(":")
    atomic.write_text(sbom, write_sbom(contents, name=name, version=tag, programs=programs, created=commit))
    inspected = time.monotonic()
    if push:
        docker.run("push", image.reference)
    return Built(
        name=image.name,
        reference=image.reference,
        id=docker.run("image", "inspect", "--format", "{{.Id}}", image.reference),
        base=base,
        build_s=round(build_s, 1),
        inspect_s=round(inspected - begun - build_s, 1),
        added_bytes=contents.added_bytes(below),
        total_bytes=sum(contents.sizes.values()),
        distributions=len(contents.distributions),
        debian=len(contents.debian),
        sbom=str(sbom),
        push_s=round(time.monotonic() - inspected, 1) if push else None,
    )


def table(built: Iterable[Built]) -> str:
    """A line for each image, seconds and sizes."""
    lines = [f"{'image':<44} {'build':>8} {'read':>7} {'above base':>11} {'in all':>9}  packages"]
    for one in built:
        pushed = f", pushed in {one.push_s:.0f} s" if one.push_s is not None else ""
        lines.append(
            f"{one.reference.removeprefix('docker.io/'):<44} {one.build_s:>6.1f} s {one.inspect_s:>5.1f} s "
            f"{one.added_bytes / _MB:>8.0f} MB {one.total_bytes / _MB:>6.0f} MB  "
            f"{one.distributions} Python, {one.debian} Debian: {one.sbom}{pushed}"
        )
    return "\n".join(lines)


def _provide(docker: Docker, base: str) -> None:
    if docker.has(base):
        return
    try:
        docker.run("pull", "--quiet", base)
    except StreetvisionError as err:
        raise SettingsError(
            f"base image `{base}` is not here, and cannot be pulled: {err.message.rpartition(': ')[2]}",
            hint="name another with `--base`, or with `--gpu-base` for the GPU images",
        ) from err


def _commit_time() -> datetime:
    """When the commit was made, so that building it again writes the same; outside git the epoch."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return datetime.fromtimestamp(int(done.stdout) if done.returncode == 0 else 0, tz=UTC)


def _project() -> dict[str, dict[str, str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m manifests.images", description=__doc__)
    parser.add_argument(
        "name",
        nargs="*",
        choices=[[], *(image.name for image in IMAGES)],
        help="which; default: all but those for GPUs",
    )
    parser.add_argument("--base", metavar="IMAGE", help="with Python 3.11, in place of the Dockerfiles' default")
    parser.add_argument(
        "--gpu-base", metavar="IMAGE", help="in place of the CUDA image; may be the same as --base, with its Python"
    )
    parser.add_argument("--push", action="store_true", help="send each to its registry")
    parser.add_argument("--no-cache", action="store_true", help="make every layer anew")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--output", type=Path, default=Path(".streetvision/images"), help="folder of logs and bills of materials"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
