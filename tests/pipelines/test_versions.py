"""An edited library or a new photo is an input that kfp's cache sees."""

import shutil
from pathlib import Path

import pytest

from pipelines import versions


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(versions.ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(versions.ROOT / "constraints.txt", tmp_path)
    monkeypatch.delenv("STREETVISION_CODE_VERSION", raising=False)
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    return tmp_path


def test_the_same_code_has_the_same_version(copy: Path):
    assert versions.code_version() == versions.code_version()
    (copy / "src" / "streetvision" / "__pycache__").mkdir()
    (copy / "src" / "streetvision" / "__pycache__" / "a.pyc").touch()
    before = versions.code_version()
    shutil.rmtree(copy / "src" / "streetvision" / "__pycache__")
    assert versions.code_version() == before


@pytest.mark.parametrize("file", ["src/streetvision/imaging.py", "constraints.txt"])
def test_an_edited_library_or_pin_is_another_version(copy: Path, file: str):
    before = versions.code_version()
    with (copy / file).open("a") as opened:
        opened.write("# edited\n")
    assert versions.code_version() != before


def test_a_renamed_module_is_another_version(copy: Path):
    before = versions.code_version()
    (copy / "src" / "streetvision" / "imaging.py").rename(copy / "src" / "streetvision" / "pictures.py")
    assert versions.code_version() != before


def test_a_cluster_names_the_image_instead(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREETVISION_CODE_VERSION", "sha256:abc")
    assert versions.code_version() == "sha256:abc"


def test_an_image_tells_its_commit(copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREETVISION_GIT_SHA", "abc123")
    assert versions.git_sha() == "abc123"


def test_outside_git_the_commit_is_unknown(copy: Path):
    assert versions.git_sha() == "unknown"
