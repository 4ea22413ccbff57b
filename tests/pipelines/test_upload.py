"""The same content is one version, whoever uploads it and however often; a failure is one sentence."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipelines.api import Connection, Kubeflow
from pipelines.catalogue import PIPELINES, packages
from tests.pipelines.conftest import Command
from tests.pipelines.kfp_api import KfpApi, serve


def test_every_pipeline_is_uploaded_once(api: KfpApi, command: Command):
    first = command("upload", "--host", api.url, "--json")
    assert first.code == 0, first.err
    told = json.loads(first.out)
    assert [one["pipeline"] for one in told] == sorted(PIPELINES)
    assert all(one["created"] for one in told)
    again = json.loads(command("upload", "--host", api.url, "--json").out)
    assert again == [one | {"created": False} for one in told]
    assert len(api.versions) == len(api.pipelines) == len(PIPELINES)


def test_a_check_names_what_is_missing_and_uploads_nothing(api: KfpApi, command: Command):
    missing = command("upload", "--check", "--host", api.url)
    assert missing.code == 1
    assert all(f"{name} " in missing.out for name in PIPELINES)
    assert missing.out.count("missing") == len(PIPELINES)
    assert api.pipelines == {}
    uploaded = json.loads(command("upload", "--host", api.url, "--json").out)
    checked = command("upload", "--check", "--host", api.url, "--json")
    assert (checked.code, json.loads(checked.out)) == (0, [one | {"created": False} for one in uploaded])
    api.versions.clear()  # the pipeline is there, this content is not
    assert command("upload", "--check", "--host", api.url).code == 1


def test_commands_that_speak_with_a_cluster_need_no_bittensor(api: KfpApi):
    script = "import sys; sys.modules['bittensor_wallet'] = None; from pipelines.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "upload", "--host", api.url]
    assert subprocess.run(command, check=False).returncode == 0


def test_another_image_is_another_version(api: KfpApi, command: Command):
    before = json.loads(command("upload", "--host", api.url, "--json").out)[0]
    environment = os.environ | {"STREETVISION_IMAGE_TAG": "0.2.0", "STREETVISION_KFP_HOST": api.url}
    other = subprocess.run(
        [sys.executable, "-m", "pipelines", "upload", "--json"], capture_output=True, env=environment, check=True
    )
    after = json.loads(other.stdout)[0]
    assert after["pipeline_id"] == before["pipeline_id"]
    assert after["version"] != before["version"]
    executors = api.versions[after["version_id"]]["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    images = {executor["container"]["image"] for executor in executors.values()}
    assert images == {f"docker.io/streetvision/pipeline-{kind}:0.2.0" for kind in ("cpu", "gpu")}


def test_a_committed_pipeline_is_compiled_afresh_where_the_environment_names_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert packages(tmp_path)["retrain"].path.parent != tmp_path
    monkeypatch.setenv("STREETVISION_IMAGE_PREFIX", "docker.io/streetvision")
    fresh = packages(tmp_path)["retrain"]
    assert fresh.path.parent == tmp_path
    monkeypatch.delenv("STREETVISION_IMAGE_PREFIX")
    assert packages(tmp_path)["retrain"].digest == fresh.digest


def test_the_layout_of_a_file_is_not_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = packages(tmp_path)["retrain"]
    (tmp_path / "retrain.yaml").write_text("# another comment\n" + original.path.read_text())
    monkeypatch.setattr("pipelines.catalogue.COMPILED", tmp_path)
    assert packages(tmp_path)["retrain"].digest == original.digest


@pytest.mark.parametrize("fault", ["lose", 502, 503, 429, "drop"])
@pytest.mark.parametrize("at", range(5))
def test_a_lost_answer_makes_no_second_version(
    api: KfpApi, command: Command, monkeypatch: pytest.MonkeyPatch, fault: int | str, at: int
):
    monkeypatch.setattr("pipelines.api._PAUSE_S", 0.01)
    api.faults = [None] * at + [fault]  # the first requests are answered
    outcome = command("upload", "--host", api.url)
    assert outcome.code == 0, outcome.err
    assert api.faults == []
    assert len(api.versions) == len(api.pipelines) == len(PIPELINES)


def test_an_upload_that_somebody_else_was_quicker_with_is_theirs(api: KfpApi, tmp_path: Path):
    package = packages(tmp_path)["retrain"]
    ours, theirs = Kubeflow(Connection(host=api.url)), Kubeflow(Connection(host=api.url)).upload(package)
    look, looks = ours._version, []

    def look_before_theirs_is_there(*names: str) -> object:
        looks.append(names)
        return None if len(looks) == 1 else look(*names)

    ours._version = look_before_theirs_is_there
    assert ours.upload(package).version_id == theirs.version_id
    assert len(looks) == 2


def test_versions_beyond_the_first_page_are_found(api: KfpApi, command: Command):
    uploaded = json.loads(command("upload", "--host", api.url, "--json").out)[0]
    for number in range(250):
        api.add_version(uploaded["pipeline_id"], f"later-{number}", b"a: 1")
    assert not json.loads(command("upload", "--host", api.url, "--json").out)[0]["created"]


def test_the_address_comes_from_the_environment_too(api: KfpApi, command: Command, monkeypatch: pytest.MonkeyPatch):
    missing = command("upload")
    assert missing.code == 2
    assert "hint: `--host URL` or STREETVISION_KFP_HOST" in missing.err
    monkeypatch.setenv("STREETVISION_KFP_HOST", api.url)
    assert command("upload").code == 0


@pytest.fixture
def shared() -> Iterator[KfpApi]:
    with serve(multi_user=True, rights={"mine": {"team-a"}}) as served:
        yield served


def test_with_many_users_a_token_and_a_namespace_are_sent(shared: KfpApi, command: Command, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("mine\n")
    nobody = command("upload", "--host", shared.url, "--namespace", "team-a")
    assert nobody.code == 3
    assert "does not know who asks it" in nobody.err
    assert "audience `pipelines.kubeflow.org`" in nobody.err
    elsewhere = command("upload", "--host", shared.url, "--namespace", "team-b", "--token-file", token)
    assert elsewhere.code == 3
    assert "does not let us list pipelines" in elsewhere.err
    assert command("upload", "--host", shared.url, "--namespace", "team-a", "--token-file", token).code == 0
    assert {one["namespace"] for one in shared.pipelines.values()} == {"team-a"}


def test_a_renewed_token_is_read_anew(shared: KfpApi, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("mine")
    api = Kubeflow(Connection(host=shared.url, namespace="team-a", token_file=token))
    shared.rights = {"renewed": {"team-a"}}
    token.write_text("renewed")
    assert api.recurring_runs() == []
    assert shared.requests[-1].token == "renewed"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--host", "ml-pipeline:8888"), "the Kubeflow API is `ml-pipeline:8888`, expected http://HOST:PORT"),
        (("--host", "URL", "--ca-file", "none"), "the certificates `none` are missing"),
        (("--host", "URL", "--token-file", "none"), "the token `none` cannot be read"),
        (("--host", "URL", "--timeout-s", "soon"), "`--timeout-s` is `soon`, expected seconds"),
        (("--host", "URL", "--timeout-s", "-1"), "expected seconds from 0 on"),
    ],
)
def test_a_bad_option_is_one_sentence(api: KfpApi, command: Command, words: tuple[str, ...], sentence: str):
    outcome = command("upload", *(api.url if word == "URL" else word for word in words))
    assert outcome.code == 2
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err


def test_nobody_there_is_one_sentence(command: Command):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outcome = command("upload", "--host", f"http://127.0.0.1:{port}", "--timeout-s", "0.1")
    assert outcome.code == 3
    assert outcome.err.startswith(f"error: `http://127.0.0.1:{port}` is out of reach: [Errno 111] Connection refused\n")
    assert "hint: from outside the cluster" in outcome.err


def test_a_name_that_does_not_resolve_is_one_sentence(command: Command):
    outcome = command("upload", "--host", "http://ml-pipeline.invalid:8888", "--timeout-s", "0")
    assert outcome.code == 3
    assert "is out of reach" in outcome.err


def test_an_api_that_comes_up_late_is_waited_for(api: KfpApi, command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.api._PAUSE_S", 0.01)
    api.faults = [503, "drop", 502, 503]
    assert command("upload", "--host", api.url).code == 0


def test_a_refusal_shows_the_sentence_and_not_the_stack(
    api: KfpApi, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    text = packages(tmp_path)["retrain"].path.read_text().replace("schemaVersion: 2.1.0", "schemaVersion: 2.0.0")
    (tmp_path / "retrain.yaml").write_text(text)
    monkeypatch.setattr("pipelines.catalogue.COMPILED", tmp_path)
    outcome = command("upload", "--host", api.url)
    assert outcome.code == 2
    assert outcome.err == (
        f"error: `{api.url}` did not take pipeline `retrain` (400): unsupported schema version 2.0.0\n"
    )


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Kubeflow</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_web_page_is_no_api(command: Command):
    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        outcome = command("upload", "--host", f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert outcome.code == 3
    assert "answers, but is no Kubeflow Pipelines API" in outcome.err
