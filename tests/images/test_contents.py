"""What is in the images, and what must not be."""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from manifests.docker import Docker
from manifests.image_contents import Contents, canonical
from manifests.images import ROOT, Image
from tests.images.containers import images, output, say

FORBIDDEN_MODULES = {
    "pipeline-cpu": {"torch"},
    "pipeline-gpu": {"bittensor"},
    "predictor": {"torch", "mlflow", "kfp"},
    "predictor-tensorrt": {"torch", "mlflow", "kfp"},
    "miner": {"torch", "mlflow", "kfp", "kserve", "pyarrow"},
    "mlflow": {"torch", "kfp", "kserve", "bittensor"},
}
BUILD_MODULES = {"pip", "uv", "ensurepip", "setuptools", "wheel", "hatchling", "grpc_tools"}
BUILD_PROGRAMS = {"pip", "pip3", "uv", "uvx", "git", "curl", "wget", "cc", "gcc", "g++", "c++", "clang", "ld", "make"}
BUDGET_MB = {"miner": 250, "predictor": 450, "pipeline-cpu": 1100, "mlflow": 750}
# What a start of each program imports, late imports included.
STARTS = {
    "miner": ("serving.miner.server", "serving.miner.subtensor", "serving.miner.uploader", "boto3", "redis.asyncio"),
    "predictor": (
        "serving.predictor.server",
        "serving.predictor.settings",
        "PIL.ImageDraw",
        "streetvision.operations.proof",
    ),
    "predictor-tensorrt": ("serving.predictor.server", "streetvision.inference.tensorrt", "tensorrt_rtx"),
    "mlflow": ("mlflow.cli", "mlflow.server", "mlflow.server.auth", "mlflow.server.fastapi_app"),
    "pipeline-cpu": (
        "kfp.dsl.executor_main",
        "streetvision.data.build",
        "streetvision.data.summary",
        "streetvision.assessment",
        "streetvision.registry.publish",
        "streetvision.operations.proof",
        "pipelines.__main__",
    ),
}


@images()
def test_what_an_image_must_not_contain_cannot_be_imported(image: Image, docker: Docker):
    names = sorted(FORBIDDEN_MODULES[image.name] | BUILD_MODULES)
    code = f"import importlib.util as u; print(*(n for n in {names} if u.find_spec(n)))"
    assert output(docker, image.reference, ["python", "-c", code]) == ""


@images()
def test_the_base_s_own_python_brings_no_installer(image: Image, docker: Docker):
    ask = f"import importlib.util as u; print(*(n for n in {sorted(BUILD_MODULES)} if u.find_spec(n)))"
    code = f"import os, sys; p = sys._base_executable; os.execv(p, [p, '-I', '-c', {ask!r}])"
    assert output(docker, image.reference, ["python", "-c", code]) == ""


@images()
def test_there_is_no_compiler_and_no_downloader(image: Image, contents: Callable[[str], Contents]):
    programs = {
        path
        for path in contents(image.reference).sizes
        if PurePosixPath(path).parent.name in ("bin", "sbin") and PurePosixPath(path).name in BUILD_PROGRAMS
    }
    assert not programs


@images()
def test_every_distribution_is_the_pinned_one(image: Image, contents: Callable[[str], Contents]):
    pinned = {
        (canonical(name), version.split(";")[0].strip())
        for name, equals, version in (
            line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
        )
        if equals
    }
    found = {(package.name, package.version) for package in contents(image.reference).distributions}
    assert len(found) > 30
    assert {pair for pair in found if pair[0] != "streetvision"} <= pinned


@images("miner", "predictor", "mlflow", "pipeline-cpu")
def test_what_we_add_to_the_base_stays_in_its_budget(
    image: Image, contents: Callable[[str], Contents], capsys: pytest.CaptureFixture[str]
):
    base = image.default(image.base)
    added_mb = contents(image.reference).added_bytes(contents(base)) / 1e6
    say(capsys, f"{image.name}: {added_mb:.0f} MB above {base}, of {BUDGET_MB[image.name]} MB")
    assert BUDGET_MB[image.name] / 10 < added_mb <= BUDGET_MB[image.name]


@images("miner", "predictor", "predictor-tensorrt", "mlflow", "pipeline-cpu")
def test_all_that_a_start_imports_is_compiled(image: Image, docker: Docker):
    code = (
        "import sys, importlib, importlib.util as u, os\n"
        f"for name in {STARTS[image.name]}: importlib.import_module(name)\n"
        "files = [m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)]\n"
        "sources = [f for f in files if f.endswith('.py')]\n"
        "print(len(sources), *(f for f in sources if not os.path.exists(u.cache_from_source(f))))"
    )
    count, *uncompiled = output(docker, image.reference, ["python", "-W", "ignore", "-c", code]).split()
    assert int(count) > 300
    assert uncompiled == []


@images()
def test_an_image_says_what_it_is(image: Image, docker: Docker):
    configuration = json.loads(docker.run("image", "inspect", image.reference))[0]["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in configuration["Labels"].items()}
    assert {"title", "description", "version", "revision", "source", "licenses", "created"} <= labels.keys()
    assert labels["version"] == image.reference.rpartition(":")[2].removesuffix(image.suffix)
    assert labels["licenses"] == "Apache-2.0"
    assert "unknown" not in (labels["revision"], labels["created"])
    assert configuration["User"] == "10001:10001"
    assert configuration["StopSignal"] == "SIGTERM"
    assert not configuration.get("Healthcheck")  # Kubernetes' probes are the only ones


@images()
def test_the_user_of_an_image_has_a_name_and_can_write_nowhere_but_in_tmp(image: Image, docker: Docker):
    code = (
        "import getpass, os\n"
        "skip = ('/proc', '/sys', '/dev', '/tmp', '/var/tmp', '/run/lock')\n"
        "places = [p for p, _, _ in os.walk('/') if not p.startswith(skip) and os.access(p, os.W_OK)]\n"
        "print(getpass.getuser(), os.getuid(), os.getgid(), os.path.expanduser('~'), *places)"
    )
    # without a read-only root, which would hide what is writable
    command = ["run", "--rm", "--network", "none", "--entrypoint", "python", image.reference, "-c", code]
    assert docker.run(*command).split() == ["streetvision", "10001", "10001", "/tmp"]


@pytest.mark.slow
@images("miner")
def test_a_build_without_the_cache_makes_the_same_image(image: Image, docker: Docker, tmp_path: Path):
    made: list[Contents] = []
    for options in ([], ["--no-cache"]):
        tag = f"{image.reference}-again"
        build = [*options, "--file", str(ROOT / image.dockerfile), "--target", image.target, "--tag", tag, str(ROOT)]
        docker.build(build, log=tmp_path / "log", tell=lambda _: None)
        try:
            made.append(docker.contents(tag))
        finally:
            docker.run("image", "rm", "--force", tag)
    first, again = made
    assert (again.distributions, again.debian) == (first.distributions, first.debian)
    assert again.sizes == first.sizes
