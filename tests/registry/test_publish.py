"""Every model is registered; only the promoted one becomes champion and reaches the hub, and it does reach it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streetvision.errors import DataError, HubError, RegistryError, RolloutError, SettingsError
from streetvision.predictions import write_predictions
from streetvision.registry import publish as publishing
from streetvision.registry.hub import FolderHub
from streetvision.registry.mlflow import Registry
from streetvision.registry.publish import Published, open_hub, publish
from tests.kubernetes_objects import KubernetesObjects, kubernetes_objects

HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
PODS = "/api/v1/namespaces/here/pods"
Publish = Callable[..., Published]

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning", "ignore::DeprecationWarning")


@pytest.fixture
def push(tmp_path: Path, make_model, make_predictions, make_decision) -> Publish:
    (tmp_path / "report.html").write_text("<html></html>")
    write_predictions(tmp_path / "predictions.parquet", make_predictions(400, groups=40))

    def run(
        content: str,
        verdict: str = "promote",
        *,
        champion: str | None = None,
        about: str | None = None,
        rollout: str = "",
    ) -> Published:
        model = make_model(content)
        decision = make_decision(verdict, challenger_sha256=about or model.sha256, champion_sha256=champion)
        (tmp_path / "decision").write_text(decision.model_dump_json())
        return publish(
            model.path,
            report=tmp_path / "report.html",
            predictions=tmp_path / "predictions.parquet",
            decision=tmp_path / "decision",
            tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
            models_uri=str(tmp_path / "models"),
            hub=f"folder:{tmp_path}/hub",
            submitted_by=HOTKEY,
            rollout=rollout,
        )

    return run


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesObjects]:
    """A Kubernetes API with the CronJob of the rollout."""
    monkeypatch.setattr("streetvision.operations.rollout_job._EVERY_S", 0.01)
    with kubernetes_objects() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
        template = {"spec": {"template": {"spec": {}}}}
        cron_job = {"metadata": {"uid": "u"}, "spec": {"jobTemplate": template}}
        api.put("/apis/batch/v1/namespaces/here/cronjobs/r-rollout", cron_job)
        yield api


def end_jobs(api: KubernetesObjects, condition: str, log: str) -> None:
    """Every Job ends so, and its pod said that."""

    def end(path: str) -> None:
        if "/jobs/" in path and "status" not in api.objects[path]:
            api.put(path, {**api.objects[path], "status": {"conditions": [{"type": condition, "status": "True"}]}})
            api.put(f"{PODS}/p", {"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}})
            api.texts[f"{PODS}/p/log"] = log

    api.on_get = end


def test_a_promoted_model_becomes_champion_and_is_pushed(push: Publish, tmp_path: Path):
    done = push("a")
    assert done.champion == done.challenger
    assert FolderHub(tmp_path / "hub", publishing.REPOSITORY).head() == done.revision
    assert Path(done.champion.path).name == done.champion.sha256


def test_a_refused_model_stays_registered_and_reaches_no_hub(push: Publish, tmp_path: Path):
    first = push("a")
    done = push("b", "keep", champion=first.challenger.sha256)
    assert (done.challenger.version, done.champion, done.revision) == (2, first.champion, "")
    assert FolderHub(tmp_path / "hub", publishing.REPOSITORY).head() == first.revision


def test_a_push_that_failed_is_made_up_for_by_the_next_run(push: Publish, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise HubError("the hub is down")

    with monkeypatch.context() as patched:
        patched.setattr(FolderHub, "push", refuse)
        with pytest.raises(HubError, match="the hub is down"):
            push("a")
    done = push("a", "keep", champion=None)  # the gate now finds that the challenger is the champion
    assert done.champion is not None
    assert done.revision != ""
    assert push("a", "keep").revision == ""  # once is enough


def test_a_promoted_model_is_rolled_out_by_the_job_before_it_is_pushed(push: Publish, cluster: KubernetesObjects):
    end_jobs(cluster, "Complete", '{"sentence": "version 1 is served"}')
    done = push("a", rollout="here/r-rollout")
    assert (done.rollout, bool(done.revision)) == ("version 1 is served", True)
    kept = push("b", "keep", champion=done.challenger.sha256, rollout="here/r-rollout")
    assert kept.rollout == ""
    assert sum(asked.startswith("POST /apis/batch/") for asked in cluster.asked) == 1


def test_a_model_whose_rollout_failed_reaches_no_hub(push: Publish, cluster: KubernetesObjects, tmp_path: Path):
    end_jobs(cluster, "Failed", "error: version 1 was not rolled out")
    with pytest.raises(RolloutError, match="version 1 was not rolled out; version 1 is champion"):
        push("a", rollout="here/r-rollout")
    assert FolderHub(tmp_path / "hub", publishing.REPOSITORY).head() is None


def test_a_rollout_of_another_form_is_refused_before_anything_is_registered(push: Publish, tmp_path: Path):
    with pytest.raises(SettingsError, match="expected `NAMESPACE/CRONJOB`"):
        push("a", rollout="r-rollout")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_decision_about_another_model_is_refused(push: Publish):
    with pytest.raises(DataError, match="the decision is about model bbbbbbbbbbbb, expected"):
        push("a", about="b" * 64)


def test_a_champion_that_changed_since_the_decision_is_not_replaced(push: Publish, tmp_path: Path):
    first = push("a")
    for compared_with in (None, "c" * 64):
        with pytest.raises(RegistryError, match="champion is"):
            push("b", champion=compared_with)
    champion = Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "models").champion()
    assert champion is not None
    assert champion.sha256 == first.challenger.sha256


@pytest.mark.parametrize("name", ["", "folder:", "hf:name", "s3://bucket", "hf:a/b/c"])
def test_an_unknown_hub_is_one_sentence(name: str):
    with pytest.raises(SettingsError, match="expected `folder:PATH` or `hf:OWNER/NAME`"):
        open_hub(name)
