import pytest

from manifests import deploy
from manifests.cluster import Cluster
from manifests.needs import Kubeflow, Need
from manifests.third_party import parts

VALUES = {
    "global": {"objectStore": {"existingSecret": ""}},
    "pipelines": {
        "enabled": True,
        "upload": {"enabled": True},
        "mlflow": {"existingSecret": "mlflow"},
        "kfp": {"host": "http://ml-pipeline.kubeflow:8888", "namespace": "team"},
    },
}


@pytest.fixture
def no_cluster(tmp_path, monkeypatch):
    """A kubeconfig that leads nowhere."""
    file = tmp_path / "kubeconfig"
    file.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "contexts: [{name: a, context: {cluster: a, user: a}}]\nusers: [{name: a, user: {}}]\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(file))


def test_where_no_cluster_answers_one_sentence_says_so(no_cluster, capsys):
    assert deploy.main(["kind"]) == 1
    said = capsys.readouterr()
    assert "no cluster answers" in said.err
    assert "make kind-up" in said.err
    assert "FAILED" in said.out, "the table of steps still comes"


def test_a_values_file_that_is_none_is_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Cluster, "connect", lambda **_: Cluster(tmp_path, tmp_path, "here", "streetvision"))
    monkeypatch.setattr(Cluster, "server_version", lambda _: (1, 35))
    assert deploy.main(["gpu", "--values", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml` is no file of values" in capsys.readouterr().err


def test_an_unknown_profile_is_refused():
    with pytest.raises(SystemExit) as end:
        deploy.parse(["tpu"])
    assert end.value.code == 2


def test_what_steps_take_from_kubeflow_is_asked_for_only_where_it_is_used():
    kubeflow = deploy.kubeflow(VALUES)
    assert kubeflow == Kubeflow("http://ml-pipeline.kubeflow:8888", "team", kubeflow.secrets)
    assert [one.name for one in kubeflow.secrets] == ["streetvision-mlflow"]
    assert deploy.kubeflow(VALUES | {"pipelines": {"enabled": False}}) is None
    assert deploy.kubeflow(VALUES | {"pipelines": {"enabled": True, "upload": {"enabled": False}}}) is None


def test_the_list_of_needs_tells_how_to_come_by_what_is_missing():
    part = parts()["cert-manager"]
    said = deploy.listed(
        [Need("cert-manager", "its kinds are not known", part=part), Need("a default StorageClass", None)]
    ).splitlines()
    assert said[0] == "MISSING  cert-manager: its kinds are not known"
    assert said[1] == f"         {part.commands[0]}"
    assert said[2] == "ok       a default StorageClass"
    assert said[-1].startswith("--install-third-party")
