"""What is committed under pipelines/compiled is what the source compiles to, and what a real backend takes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.__main__ import main
from pipelines.catalogue import COMPILED, PIPELINES

FILES = sorted(COMPILED.glob("*.yaml"))
# KFP's API server refuses upper case and underscores in a pipeline's name, and names over 128 characters
NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyz0123456789-")


def documents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    specification, platform = yaml.safe_load_all(path.read_text())
    return specification, platform


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def compiled(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_pipeline_is_committed_and_fresh(capsys: pytest.CaptureFixture[str]):
    assert {path.stem for path in FILES} == set(PIPELINES)
    assert main(["compile", "--check"]) == 0, capsys.readouterr().err


def test_a_stale_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("pipelines.catalogue.COMPILED", tmp_path)
    assert main(["compile", "--check"]) == 1
    assert "run `make compile`" in capsys.readouterr().err


def test_no_step_installs_packages(compiled: Path):
    assert "pip install" not in compiled.read_text()


def test_the_name_is_one_that_the_api_takes(compiled: Path):
    name = documents(compiled)[0]["pipelineInfo"]["name"]
    assert set(name) <= NAME_CHARACTERS
    assert len(name) <= 128


def test_no_default_names_a_wallet_a_hub_or_a_path_of_this_machine(compiled: Path):
    parameters = documents(compiled)[0]["root"]["inputDefinitions"]["parameters"]
    for name in ("tracking_uri", "models_uri", "hub", "submitted_by", "source"):
        assert "defaultValue" not in parameters[name], name
    assert str(Path.home()) not in compiled.read_text()


def test_what_depends_on_the_champion_is_never_answered_from_cache():
    tasks = documents(COMPILED / "retrain.yaml")[0]["root"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"data", "synthesize", "train"}


def test_every_step_is_keyed_by_the_code():
    tasks = documents(COMPILED / "retrain.yaml")[0]["root"]["dag"]["tasks"]
    assert all("code_version" in task["inputs"]["parameters"] for task in tasks.values())
    assert "data_fingerprint" in tasks["data"]["inputs"]["parameters"]
