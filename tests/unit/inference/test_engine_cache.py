import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streetvision.errors import EngineError, StorageError
from streetvision.inference.engine_cache import EngineCache, EngineKey

KEY = EngineKey(
    model_sha256="a" * 64,
    gpu="sm90 NVIDIA H100 80GB HBM3",
    builder="tensorrt 11.4.0",
    precision="fp16",
    batch_sizes=(1, 2),
    recipe="r" * 12,
)
BUILDER = """
import sys, time
from pathlib import Path
from streetvision.inference.engine_cache import EngineCache, EngineKey

def build(scratch):
    with (Path(sys.argv[3])).open("a") as log:
        log.write("built\\n")
    (scratch / "weights").write_bytes(bytes(100))
    time.sleep(float(sys.argv[4]))
    return b"engine"

print(EngineCache(Path(sys.argv[1])).get(EngineKey.model_validate_json(sys.argv[2]), build).decode())
"""


class Builds:
    """A builder that counts what it was asked for."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, scratch: Path) -> bytes:
        assert list(scratch.iterdir()) == []
        (scratch / "weights").write_bytes(b"in between")
        self.count += 1
        return f"engine {self.count}".encode()


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def entries(tmp_path: Path) -> list[Path]:
    """What lies in the cache beside its locks."""
    return sorted(path for path in (tmp_path / "engines").iterdir() if path.suffix != ".lock")


def start_builder(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [str(tmp_path / "engines"), KEY.model_dump_json(), str(tmp_path / "builds"), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", BUILDER, *arguments], stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_an_engine_is_built_once(cache: EngineCache, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    build = Builds()
    with caplog.at_level(logging.INFO):
        assert [cache.get(KEY, build) for _ in range(3)] == [b"engine 1"] * 3
    assert build.count == 1
    (entry,) = entries(tmp_path)
    assert entry.name.startswith("aaaaaaaaaaaa-sm90-nvidia-h100-80gb-hbm3-fp16-")
    assert sorted(file.name for file in entry.iterdir()) == ["engine.json", "engine.plan"]
    assert [record.message.split(": ")[1][:8] for record in caplog.records] == ["building", "built in"]


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "b" * 64},
        {"gpu": "sm86"},
        {"builder": "tensorrt 11.4.1"},
        {"precision": "bf16"},
        {"batch_sizes": (1, 2, 4)},
        {"recipe": "s" * 12},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_an_engine_depends_on_makes_another_engine(cache: EngineCache, change: dict[str, object]):
    build = Builds()
    cache.get(KEY, build)
    assert cache.get(KEY.model_copy(update=change), build) == b"engine 2"
    assert cache.get(KEY, build) == b"engine 1"


@pytest.mark.parametrize("file", ["engine.plan", "engine.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_engine_is_built_again_and_the_log_says_so(
    cache: EngineCache, tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str
):
    build = Builds()
    cache.get(KEY, build)
    path = entries(tmp_path)[0] / file
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-3] if damage == "truncate" else data[:5] + bytes([data[5] ^ 1]) + data[6:])
    assert cache.get(KEY, build) == b"engine 2"
    assert "unusable, it will be built again" in caplog.text
    assert cache.get(KEY, build) == b"engine 2"


def test_an_engine_of_something_else_under_its_name_is_not_taken(
    cache: EngineCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    other = KEY.model_copy(update={"gpu": "sm86"})
    build = Builds()
    cache.get(other, build)
    (tmp_path / "engines" / other.name).rename(tmp_path / "engines" / KEY.name)
    assert cache.get(KEY, build) == b"engine 2"
    assert "it is of another model, GPU or builder" in caplog.text


def test_a_failed_build_leaves_nothing(cache: EngineCache, tmp_path: Path):
    def build(scratch: Path) -> bytes:
        (scratch / "weights").write_bytes(b"x")
        raise EngineError("no")

    with pytest.raises(EngineError):
        cache.get(KEY, build)
    assert entries(tmp_path) == []
    assert cache.get(KEY, Builds()) == b"engine 1"


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path):
    first = start_builder(tmp_path, 1)
    wait_for(tmp_path / "builds")
    second = start_builder(tmp_path, 0)
    assert [builder.communicate(timeout=30)[0] for builder in (first, second)] == ["engine\n", "engine\n"]
    assert (tmp_path / "builds").read_text() == "built\n"


def test_a_killed_builder_leaves_no_engine_and_the_next_one_clears_up(cache: EngineCache, tmp_path: Path):
    builder = start_builder(tmp_path, 60)
    wait_for(tmp_path / "builds")
    builder.send_signal(signal.SIGKILL)
    builder.communicate(timeout=30)
    assert [path.name[0] for path in entries(tmp_path)] == ["."]  # a folder that no reader looks for
    assert cache.get(KEY, Builds()) == b"engine 1"
    assert [path.name for path in entries(tmp_path)] == [KEY.name]


def test_a_folder_filled_beforehand_may_be_read_only(
    cache: EngineCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    build = Builds()
    cache.get(KEY, build)
    lock = next((tmp_path / "engines").glob(".*.lock"))
    lock.unlink()
    monkeypatch.setattr(os, "utime", lambda path: (_ for _ in ()).throw(PermissionError(13, "read-only")))
    assert cache.get(KEY, build) == b"engine 1"
    assert not lock.exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "engines").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write `.*engines`"):
        EngineCache(tmp_path / "engines").get(KEY, Builds())


def test_a_discarded_engine_is_built_again(cache: EngineCache):
    build = Builds()
    cache.get(KEY, build)
    cache.discard(KEY)
    assert cache.get(KEY, build) == b"engine 2"


def test_only_the_engines_used_last_are_kept(cache: EngineCache, tmp_path: Path):
    keys = [KEY.model_copy(update={"model_sha256": f"{number:064}"}) for number in range(10)]
    build = Builds()
    for age, key in enumerate(keys[:8]):
        cache.get(key, build)
        os.utime(tmp_path / "engines" / key.name, (age, age))
    cache.get(keys[0], build)  # used again
    cache.get(keys[8], build)
    cache.get(keys[9], build)
    assert {path.name for path in entries(tmp_path)} == {key.name for key in (keys[0], *keys[3:])}


def test_the_cache_lies_in_the_users_cache_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineCache.default_folder() == tmp_path / "streetvision" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert EngineCache.default_folder() == tmp_path / "home" / ".cache" / "streetvision" / "engines"
