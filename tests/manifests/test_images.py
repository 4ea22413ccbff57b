"""What is asked of the engine to make an image, and what the Dockerfiles promise before one is made."""

import json
import re
from pathlib import Path

import pytest

from components import images as of_steps
from manifests import docker, images
from manifests.images import IMAGES, ROOT, Bases, Image, main
from pipelines import versions
from tests.manifests.engine_stand_in import Answer, StandIn

DOCKERFILES = sorted({image.dockerfile for image in IMAGES})
BY_NAME = {image.name: image for image in IMAGES}
PYTHON = BY_NAME["miner"].default("BASE_IMAGE")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def use(*answers: Answer) -> StandIn:
        stand_in = StandIn(tmp_path / "engine", *answers)
        monkeypatch.setattr(docker, "_CLIENTS", (str(stand_in.program),))
        return stand_in

    return use


def instructions(dockerfile: str, stage: str = r"\S+") -> list[str]:
    """The instructions of the stages of this name, continued lines joined."""
    joined = (ROOT / dockerfile).read_text().replace("\\\n", " ")
    stages = re.findall(rf"^FROM \S+ AS ({stage})\n(.*?)(?=^FROM |\Z)", joined, re.MULTILINE | re.DOTALL)
    return [line for _, text in stages for line in text.splitlines() if line and not line.startswith("#")]


def test_the_images_are_those_that_steps_run_in():
    assert BY_NAME["pipeline-cpu"].reference == of_steps.PIPELINE_CPU
    assert BY_NAME["pipeline-gpu"].reference == of_steps.PIPELINE_GPU
    assert BY_NAME["predictor-tensorrt"].reference == BY_NAME["predictor"].reference + "-tensorrt"


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_the_last_stage_has_a_user_without_rights_labels_and_no_installer(image: Image):
    last = instructions(image.dockerfile, image.target)
    assert "USER 10001:10001" in last
    assert "STOPSIGNAL SIGTERM" in last
    assert not [line for line in last if line.startswith(("HEALTHCHECK", "ADD "))]
    assert not [line for line in last if re.search(r"pip install|apt-get|apk |curl |wget ", line)]
    (labels,) = (line for line in last if line.startswith("LABEL"))
    names = {"title", "description", "licenses", "version", "revision", "created", "source"}
    assert set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels)) == names
    assert last.index("USER 10001:10001") > max(n for n, line in enumerate(last) if line.startswith(("RUN", "COPY")))


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_dependencies_come_before_source_and_at_pinned_versions(dockerfile: str):
    dependencies = instructions(dockerfile, "builder|dependencies|dependencies-tensorrt")
    copied = {word for line in dependencies if line.startswith("COPY") for word in line.split()[1:-1]}
    assert {"constraints.txt", "pyproject.toml"} <= copied
    assert {Path(name).suffix for name in copied} == {".txt", ".toml"}
    installs = [line for line in instructions(dockerfile) if "pip install" in line]
    assert len(installs) >= 2
    assert not [line for line in installs if not re.search(r"-[cb] constraints\.txt", line)]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_every_stage_stands_on_an_argument_or_another_stage(dockerfile: str):
    text = (ROOT / dockerfile).read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    assert len(stages) == len(re.findall(r"^FROM", text, re.MULTILINE))
    known = {"${BASE_IMAGE}", "${GPU_BASE_IMAGE}", "scratch"}
    for base, name in stages:
        assert base in known
        known.add(name)


def test_all_but_those_for_gpus_are_built_and_the_rest_is_said(engine, tmp_path: Path, capsys: pytest.CaptureFixture):
    stand_in = engine()
    assert main(["--output", str(tmp_path)]) == 0
    built = [asked[asked.index("--tag") + 1] for asked in stand_in.asked("build")]
    assert built == [image.reference for image in IMAGES if not image.is_for_gpus]
    shown = capsys.readouterr().out
    assert "not built: pipeline-gpu, for GPUs (`make images ARGS=pipeline-gpu`, where nvidia/cuda:" in shown
    assert f"2 Python, 1 Debian: {tmp_path / 'miner.cdx.json'}" in shown
    assert not stand_in.asked("push")


def test_an_image_carries_its_version_its_commit_and_the_code_it_is_of(engine, tmp_path: Path, capsys):
    stand_in = engine()
    assert main(["miner", "--output", str(tmp_path), "--json", "--push"]) == 0
    (asked,) = stand_in.asked("build")
    given = dict(asked[n + 1].split("=", 1) for n, word in enumerate(asked) if word == "--build-arg")
    assert given["VERSION"] == "0.1.0"
    assert given["REVISION"] == versions.git_sha()
    assert given["CODE_VERSION"] == versions.code_version()
    assert asked[-1] == str(ROOT)
    assert stand_in.asked("push") == [["push", BY_NAME["miner"].reference]]
    (built,) = json.loads(capsys.readouterr().out)
    contents = json.loads(Path(built["sbom"]).read_text())
    assert contents["metadata"]["component"]["name"] == "docker.io/streetvision/miner"
    assert (built["base"], built["distributions"], built["debian"]) == (PYTHON, 2, 1)
    assert built["added_bytes"] == built["total_bytes"] > 0


def test_a_base_that_is_neither_here_nor_to_be_had_is_bad_input(engine, tmp_path: Path, capsys):
    stand_in = engine((["image", "inspect"], 1, "", "No such image"), (["pull"], 1, "", "dial tcp: no such host"))
    assert main(["miner", "--base", "example/python:3.11", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "error: base image `example/python:3.11` is not here, and cannot be pulled: no such host" in told
    assert "hint: name another with `--base`" in told
    assert not stand_in.asked("build")


def test_a_failed_build_is_told_and_leaves_no_bill_of_materials(engine, tmp_path: Path, capsys):
    engine((["build"], 1, "#7 [a 1/1] RUN x\n#7 ERROR: no space left\n", ""))
    assert main(["miner", "predictor", "--output", str(tmp_path)]) == 1
    assert "no space left" in capsys.readouterr().err
    assert not (tmp_path / "miner.cdx.json").exists()
    assert "no space left" in (tmp_path / "miner.log").read_text()


def test_bases_are_given_to_the_images_that_stand_on_them():
    bases = Bases(python="a:1", gpu="b:1")
    assert bases.arguments(BY_NAME["miner"]) == {"BASE_IMAGE": "a:1"}
    assert bases.arguments(BY_NAME["pipeline-gpu"]) == {"BASE_IMAGE": "a:1", "GPU_BASE_IMAGE": "b:1"}
    assert Bases().arguments(BY_NAME["miner"]) == {}
    same = Bases(gpu=PYTHON).arguments(BY_NAME["pipeline-gpu"])
    assert same == {"GPU_BASE_IMAGE": PYTHON, "UV_PYTHON_PREFERENCE": "only-system"}


def test_outside_git_an_image_is_of_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "ROOT", tmp_path)
    assert images._commit_time().year == 1970
