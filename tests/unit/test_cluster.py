import pytest

from streetvision.cluster import Cluster
from streetvision.errors import ClusterError, SettingsError
from tests.kubernetes_objects import connected, kubernetes_objects

PATH = "/api/v1/namespaces/here/configmaps/a"


@pytest.fixture
def api():
    with kubernetes_objects() as running:
        yield running


@pytest.fixture
def cluster(api, tmp_path, monkeypatch):
    cluster = connected(api, tmp_path, monkeypatch)
    yield cluster
    cluster.close()


def test_the_namespace_is_that_of_the_context(cluster):
    assert (cluster.namespace, cluster.inside) == ("here", False)


def test_what_is_created_is_found_and_replaced_at_its_version_only(cluster):
    made = cluster.create(PATH.rpartition("/")[0], {"metadata": {"name": "a"}, "data": {"k": "1"}})
    changed = cluster.replace(PATH, {**made, "data": {"k": "2"}})
    assert cluster.get(PATH) == changed
    with pytest.raises(ClusterError, match="answered PUT `.*/a` with 409: the object has been modified") as caught:
        cluster.replace(PATH, made)
    assert caught.value.status == 409


def test_what_is_not_there_is_nothing_or_an_error(cluster):
    assert cluster.find(PATH) is None
    with pytest.raises(ClusterError, match="with 404"):
        cluster.get(PATH)


def test_a_refusal_names_the_right_that_is_missing(api, cluster):
    api.refusals["GET", PATH] = [403]
    with pytest.raises(ClusterError, match="with 403: refused with 403") as caught:
        cluster.find(PATH)
    assert "Role and RoleBinding" in caught.value.hint
    assert "the-token" not in str(caught.value)


def test_an_api_out_of_reach_is_one_sentence(cluster, api, tmp_path, monkeypatch):
    api.url = "http://127.0.0.1:9"
    away = connected(api, tmp_path, monkeypatch)
    with pytest.raises(ClusterError, match=r"the Kubernetes API `http://127.0.0.1:9` cannot be reached: .*refused"):
        away.get(PATH)


@pytest.mark.parametrize("content", ["", "a: [", "apiVersion: v1\nkind: Config\n"])
def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path, monkeypatch, content):
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(SettingsError, match="no Kubernetes cluster can be reached from here: "):
        Cluster.connect()


def test_a_kubeconfig_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="no Kubernetes cluster can be reached from here: "):
        Cluster.connect()
