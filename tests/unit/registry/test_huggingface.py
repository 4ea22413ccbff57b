import logging

import pytest

from streetvision.errors import HubError
from streetvision.registry.huggingface import HuggingFaceHub
from tests.registry.hub_server import HubServer

# huggingface_hub 2.4.0 uploads with an argument that its own HTTP client deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

SMALL, LARGE = b"{}", b"weights" * 1000
README = b"---\nlicense: apache-2.0\npipeline_tag: image-classification\n---\n# roadwork\n"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(server):
    return HuggingFaceHub("acme/roadwork", endpoint=server.url)


def test_repository_that_does_not_exist_has_no_head(hub):
    assert hub.head() is None


def test_push_makes_the_repository_and_one_commit_that_reads_back(hub, server, tmp_path):
    (tmp_path / "model.onnx").write_bytes(LARGE)
    files = {"model.onnx": tmp_path / "model.onnx", "config.json": SMALL, "README.md": README}
    commit = hub.push(files, message="roadwork 0.1.0", parent=None)
    assert hub.head() == commit.revision
    assert hub.read("model.onnx", commit.revision) == LARGE
    assert hub.read("config.json", commit.revision) == SMALL
    repository = server.repositories["acme/roadwork"]
    assert not repository.private
    assert [revision.message for revision in repository.revisions.values()] == ["initial commit", "roadwork 0.1.0"]
    assert "PUT /lfs/" + commit.sha256["model.onnx"] in server.requests
    assert commit.url.endswith(commit.revision)


def test_next_push_leaves_exactly_its_files(hub, server):
    first = hub.push({"config.json": SMALL, "model.onnx.data": LARGE}, message="one", parent=None)
    second = hub.push({"config.json": b"[]"}, message="two", parent=first.revision)
    assert set(server.repositories["acme/roadwork"].revisions[second.revision].files) == {
        ".gitattributes",
        "config.json",
    }
    assert hub.read("model.onnx.data", first.revision) == LARGE


def test_push_onto_a_hub_that_moved_on_is_refused(hub):
    first = hub.push({"config.json": SMALL}, message="one", parent=None)
    second = hub.push({"config.json": b"[1]"}, message="theirs", parent=first.revision)
    with pytest.raises(HubError, match=f"stands at revision `{second.revision}`, expected `{first.revision}`"):
        hub.push({"config.json": b"[2]"}, message="ours", parent=first.revision)
    with pytest.raises(HubError, match="expected `none`"):
        hub.push({"config.json": b"[2]"}, message="ours", parent=None)
    assert hub.head() == second.revision


def test_file_that_reads_back_altered_is_an_error(hub, server):
    server.corrupt.add("config.json")
    with pytest.raises(HubError, match=r"`config.json` read back from `acme/roadwork` has sha256"):
        hub.push({"config.json": SMALL, "model.onnx": LARGE}, message="one", parent=None)


def test_private_repository_is_made_private(server):
    HuggingFaceHub("acme/secret", endpoint=server.url, private=True).push({"a": SMALL}, message="one", parent=None)
    assert server.repositories["acme/secret"].private


def test_missing_token_is_named_by_its_variable(server, monkeypatch):
    monkeypatch.delenv("OTHER_TOKEN", raising=False)
    with pytest.raises(HubError, match="environment variable `OTHER_TOKEN` is empty"):
        HuggingFaceHub("acme/roadwork", endpoint=server.url, token_env="OTHER_TOKEN").push({}, message="m", parent=None)
    assert server.requests == []


def test_token_is_neither_in_messages_nor_in_the_log(server, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret_and_wrong")
    hub = HuggingFaceHub("acme/roadwork", endpoint=server.url)
    with caplog.at_level(logging.DEBUG), pytest.raises(HubError) as caught:
        hub.push({"config.json": SMALL}, message="one", parent=None)
    assert "hf_very_secret" not in str(caught.value) + repr(hub) + repr(vars(hub)) + caplog.text


API = "/api/models/acme/roadwork"


@pytest.mark.parametrize(
    ("path", "status", "body", "message"),
    [
        ("/api/repos/create", 401, b"{}", "the token in `HF_TOKEN` is missing or not accepted (HTTP 401)"),
        ("/api/repos/create", 403, b"{}", "the token in `HF_TOKEN` lacks the right (HTTP 403)"),
        (f"{API}/preupload", 403, b"{}", "the token in `HF_TOKEN` lacks the right (HTTP 403)"),
        (f"{API}/preupload", 404, b"{}", "there is no such repository, revision or file (HTTP 404)"),
        (f"{API}/preupload", 200, b"<html>log in</html>", "gave no usable answer"),
        (f"{API}/preupload", 200, b"[]", "gave no usable answer"),
        ("/acme/roadwork.git/info/lfs", 403, b"{}", "the token in `HF_TOKEN` lacks the right (HTTP 403)"),
        ("/lfs/", 403, b"<Error/>", "the token in `HF_TOKEN` lacks the right (HTTP 403)"),
        (f"{API}/commit", 503, b"", "the hub is overloaded or down (HTTP 503)"),
        (f"{API}/commit", 200, b"<html>log in</html>", "gave no usable answer"),
        (f"{API}/commit", 418, b'{"error": "I am a teapot"}', "I am a teapot (HTTP 418)"),
    ],
)
def test_refusal_is_one_clear_sentence(hub, server, path, status, body, message):
    server.faults[path] = [(status, body, "text/html" if body.startswith(b"<h") else "application/json")]
    with pytest.raises(HubError) as caught:
        hub.push({"model.onnx": LARGE, "config.json": SMALL}, message="one", parent=None)
    assert caught.value.message.startswith("pushing to `acme/roadwork` failed: ")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_push_after_a_failed_one_succeeds(hub, server):
    server.faults[f"{API}/commit"] = [(503, b"", "text/plain")]
    with pytest.raises(HubError):
        hub.push({"config.json": SMALL}, message="one", parent=None)
    assert hub.push({"config.json": SMALL}, message="one", parent=hub.head()).revision == hub.head()


@pytest.mark.parametrize(("status", "message"), [(503, "overloaded or down"), (401, "missing or not accepted")])
def test_refused_reading_is_one_clear_sentence(hub, server, status, message):
    server.faults[API] = [(status, b"{}", "application/json")]
    with pytest.raises(HubError, match=f"reading `acme/roadwork` failed: .*{message}"):
        hub.head()


def test_unknown_file_is_one_clear_sentence(hub):
    commit = hub.push({"config.json": SMALL}, message="one", parent=None)
    with pytest.raises(HubError, match=r"reading `model.onnx` from `acme/roadwork` failed: there is no such"):
        hub.read("model.onnx", commit.revision)


def test_hub_out_of_reach_is_one_clear_sentence(unused_tcp_port):
    with pytest.raises(HubError, match="gave no usable answer: .*Connection refused") as caught:
        HuggingFaceHub("acme/roadwork", endpoint=f"http://127.0.0.1:{unused_tcp_port}").head()
    assert "\n" not in caught.value.message
