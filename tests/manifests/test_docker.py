"""How the container engine is found and asked."""

import os
from pathlib import Path

import pytest

from manifests import docker as module
from manifests.docker import ContainerError, Docker, find_docker
from streetvision.errors import SettingsError
from tests.manifests.engine_stand_in import StandIn
from tests.manifests.file_systems import FILES

LOG = """#5 [builder 1/2] RUN one
#5 0.1 step five speaks
#6 [source 1/1] RUN two
#6 0.2 no such file
#6 ERROR: executor failed running two
#5 0.3 step five goes on
#5 CANCELED
"""


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch):
    def use(*stand_ins: StandIn) -> None:
        monkeypatch.setattr(module, "_CLIENTS", tuple(str(one.program) for one in stand_ins))
        monkeypatch.delenv("DOCKER_HOST", raising=False)

    return use


def test_what_a_command_prints_is_returned_and_its_failure_is_one_sentence_with_the_reason(tmp_path: Path):
    stand_in = StandIn(tmp_path, (["pull"], 1, "", "first line\nno such image\n"))
    docker = Docker({"DOCKER_HOST": "unix:///x"}, command=str(stand_in.program))
    assert docker.run("rmi", "x") == "sha256:1"
    assert stand_in.calls()[0][1] == "unix:///x"
    with pytest.raises(ContainerError, match="`docker pull one` failed: first line\nno such image$"):
        docker.run("pull", "one", "two")


def test_a_build_is_by_buildkit_tells_its_steps_and_is_written_down(tmp_path: Path):
    stand_in = StandIn(tmp_path, (["build"], 0, LOG, ""))
    told: list[str] = []
    Docker(command=str(stand_in.program)).build(["."], log=tmp_path / "logs" / "a.log", tell=told.append)
    assert told == ["[builder 1/2] RUN one", "[source 1/1] RUN two"]
    assert (tmp_path / "logs" / "a.log").read_text() == LOG
    assert stand_in.calls() == [[["build", "--progress", "plain", "."], os.environ.get("DOCKER_HOST"), "1"]]


def test_a_failed_build_shows_what_the_step_said_that_failed(tmp_path: Path):
    stand_in = StandIn(tmp_path, (["build"], 1, LOG, ""))
    with pytest.raises(ContainerError) as failed:
        Docker(command=str(stand_in.program)).build(["."], log=tmp_path / "a.log", tell=lambda _: None)
    assert "no such file" in failed.value.message
    assert "step five" not in failed.value.message
    assert failed.value.hint == f"the whole log is `{tmp_path / 'a.log'}`"


def test_an_image_is_read_from_a_container_that_is_removed(tmp_path: Path):
    stand_in = StandIn(tmp_path)
    contents = Docker(command=str(stand_in.program)).contents("ours")
    assert set(contents.sizes) == set(FILES)
    assert stand_in.asked("rm") == [["rm", "--force", "ours"]]


def test_an_image_is_here_or_not(tmp_path: Path):
    docker = Docker(command=str(StandIn(tmp_path, (["a/missing"], 1, "", "No such image")).program))
    assert docker.has("a/present")
    assert not docker.has("a/missing")


def test_the_engine_that_is_set_up_here_comes_first(tmp_path: Path, clients):
    stand_in = StandIn(tmp_path)
    clients(stand_in)
    assert find_docker() == Docker(command=str(stand_in.program))


def test_where_none_is_set_up_the_local_cluster_s_own_answers(tmp_path: Path, clients):
    stand_in = StandIn(tmp_path, silent=(None,))
    clients(stand_in)
    assert find_docker() == Docker({"DOCKER_HOST": module.PRIVATE_HOST}, command=str(stand_in.program))


def test_a_client_that_cannot_build_gives_way_to_one_that_can(tmp_path: Path, clients):
    newer, older = StandIn(tmp_path / "newer", version="28.2.2"), StandIn(tmp_path / "older")
    clients(newer, older)
    assert find_docker().command == str(older.program)
    with_plugin = StandIn(tmp_path / "plugin", (["buildx", "version"], 0, "v0.20", ""), version="28.2.2")
    clients(with_plugin, older)
    assert find_docker().command == str(with_plugin.program)


def test_no_client_that_can_build_is_said_with_what_to_install(tmp_path: Path, clients):
    clients(StandIn(tmp_path, version="28.2.2"))
    with pytest.raises(SettingsError, match="no `docker` here can build: it needs its buildx plugin"):
        find_docker()


def test_no_engine_and_no_client_are_said_with_what_to_do(tmp_path: Path, clients, monkeypatch: pytest.MonkeyPatch):
    clients(StandIn(tmp_path, silent=(None, module.PRIVATE_HOST)))
    with pytest.raises(SettingsError, match="no container engine answers: .*Cannot connect") as refused:
        find_docker()
    assert "python -m tests.cluster engine" in (refused.value.hint or "")
    monkeypatch.setattr(module, "_CLIENTS", (str(tmp_path / "none"),))
    with pytest.raises(SettingsError, match="no container engine answers: .*No such file"):
        find_docker()
