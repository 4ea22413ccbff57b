import json
import logging
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from streetvision.errors import BusyError, RegistryError
from streetvision.registry.lock import LocalLock
from streetvision.registry.mlflow import DatasetUse, Registry
from streetvision.registry.store import FolderStore

# MLflow 3.17 uses loaders that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory):
    """MLflow's own empty database: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Registry(f"sqlite:///{path}", path.parent / "models")
    return path


@pytest.fixture
def database(fresh_database, tmp_path):
    return shutil.copyfile(fresh_database, tmp_path / "mlflow.db")


@pytest.fixture
def registry(database, tmp_path):
    return Registry(f"sqlite:///{database}", tmp_path / "models")


@pytest.fixture
def client(database):
    return MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")


@pytest.fixture
def register(registry, make_model, make_decision):
    def register(content, verdict="promote", **values):
        values = {"params": {"k": 1}, "metrics": {"reward": 0.8}} | values
        return registry.register(make_model(content).path, decision=make_decision(verdict), **values)

    return register


def test_empty_registry_has_no_champion(registry):
    assert registry.champion() is None


def test_registered_version_says_where_it_is_from_and_what_the_gate_said(registry, register, make_model, tmp_path):
    version = register("a", "keep")
    model = make_model("a")
    assert version.version == 1
    assert version.source == (tmp_path / "models" / model.sha256).as_uri()
    assert version.sha256 == model.sha256
    assert version.tags["verdict"] == "keep"
    assert json.loads(version.tags["reasons"]) == ["because of keep"]
    assert {"data_version", "code_version", "git_sha", "preset", "decided_at"} <= version.tags.keys()
    assert registry.by_alias("challenger") == version
    assert registry.fetch(version) == tmp_path / "models" / model.sha256
    assert registry.champion() is None


def test_run_holds_parameters_epochs_data_sets_and_files(register, client, tmp_path):
    (tmp_path / "report.html").write_text("<html>")
    version = register(
        "a",
        params={f"p{number}": number for number in range(150)},
        metrics={"reward": 0.8, "accuracy": 0.95},
        epochs=[{"loss": 1 / epoch, "accuracy": 0.9} for epoch in range(1, 121)],
        artifacts={"report.html": tmp_path / "report.html", "plots/loss.png": b"png"},
        datasets=[DatasetUse(name="manifest", version="d" * 64, source="file:///data", context="training")],
    )
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 150
    assert run.data.metrics["reward"] == 0.8
    losses = client.get_metric_history(version.run_id, "epoch/loss")
    assert [(metric.step, metric.value) for metric in losses] == [(epoch, 1 / epoch) for epoch in range(1, 121)]
    dataset = run.inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.tags[0].value) == ("manifest", "training")
    assert {found.path for found in client.list_artifacts(version.run_id)} == {"decision.json", "plots", "report.html"}
    assert run.info.artifact_uri.startswith((tmp_path / "mlflow-artifacts").as_uri())


def test_failed_run_is_marked_failed(registry, register, client, tmp_path):
    with pytest.raises(FileNotFoundError):
        register("a", artifacts={"report.html": tmp_path / "nothing.html"})
    experiment = client.get_experiment_by_name("roadwork")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]
    assert registry.by_alias("challenger") is None


def test_same_model_again_renews_the_verdict_of_its_version(registry, register):
    first = register("a", "keep")
    second = register("a", "promote")
    assert (second.version, second.run_id) == (first.version, first.run_id)
    assert second.tags["verdict"] == "promote"
    assert register("b").version == 2


def test_champion_registered_again_keeps_its_verdict_and_is_no_challenger(registry, register):
    champion = registry.promote(register("a").version, expected_champion=None)
    assert register("a", "keep") == champion
    assert registry.by_alias("challenger") is None


def test_promotion_moves_the_aliases(registry, register):
    first = registry.promote(register("a").version, expected_champion=None)
    assert registry.champion() == first
    assert first.tags["promoted_at"]
    assert (registry.by_alias("previous"), registry.by_alias("challenger")) == (None, None)
    second = register("b")
    assert registry.promote(second.version, expected_champion=first.version).version == 2
    assert registry.champion().version == 2
    assert registry.by_alias("previous").version == 1
    assert registry.by_alias("challenger") is None


def test_promotion_that_was_cut_off_is_finished_by_the_next(registry, register, client):
    registry.promote(register("a").version, expected_champion=None)
    second = register("b").version
    client.set_registered_model_alias("roadwork", "previous", "1")
    client.set_registered_model_alias("roadwork", "champion", "2")  # and then the process died
    registry.promote(second, expected_champion=1)
    assert (registry.champion().version, registry.by_alias("previous").version) == (2, 1)
    assert registry.by_alias("challenger") is None


def test_refused_challenger_stays_registered_beside_the_champion(registry, register):
    registry.promote(register("a").version, expected_champion=None)
    refused = register("b", "keep")
    with pytest.raises(RegistryError, match="version 2 of `roadwork` has the verdict `keep`, expected `promote`"):
        registry.promote(refused.version, expected_champion=1)
    assert (registry.champion().version, registry.by_alias("challenger").version) == (1, 2)


def test_person_may_approve_what_the_gate_refused(registry, register, client):
    client.set_model_version_tag("roadwork", str(register("a", "keep").version), "approved_by", "a person")
    assert registry.promote(1, expected_champion=None).version == 1


def test_decision_against_an_old_champion_is_refused(registry, register):
    for content in "abc":
        register(content)
    registry.promote(1, expected_champion=None)
    registry.promote(2, expected_champion=1)
    with pytest.raises(RegistryError, match="champion of `roadwork` is version 2, expected version 1, which version 3"):
        registry.promote(3, expected_champion=1)
    with pytest.raises(RegistryError, match="is version 2, expected none"):
        registry.promote(3, expected_champion=None)
    assert registry.champion().version == 2


def test_exactly_one_of_five_promotions_at_once_wins(registry, register):
    # ten rounds between processes: tests/registry/test_promotion.py
    versions = [register(content).version for content in "abcde"]
    start = threading.Barrier(5)

    def promote(version):
        start.wait()
        try:
            return registry.promote(version, expected_champion=None).version
        except RegistryError as err:
            return err.message

    with ThreadPoolExecutor(5) as pool:
        won = list(pool.map(promote, versions))
    champion = registry.champion().version
    lost = [f"champion of `roadwork` is version {champion}, expected none" in str(answer) for answer in won]
    assert [answer for answer in won if answer in versions] == [champion]
    assert sum(lost) == 4


def test_promotion_during_another_is_busy(database, register, tmp_path):
    lock = LocalLock(tmp_path / "models" / ".promotion.lock", timeout_s=0.05)
    version = register("a").version
    registry = Registry(f"sqlite:///{database}", tmp_path / "models", lock=lock)
    with LocalLock(tmp_path / "models" / ".promotion.lock").hold("other"), pytest.raises(BusyError, match="`other`"):
        registry.promote(version, expected_champion=None)


def test_alias_that_reads_back_elsewhere_is_an_error(registry, register, monkeypatch):
    version = register("a").version
    monkeypatch.setattr(Registry, "_point", lambda self, alias, version, hold: None)
    read_back = r"aliases of `roadwork` read back as \{'challenger': 1\}, expected \{'champion': 1\}"
    with pytest.raises(RegistryError, match=read_back):
        registry.promote(version, expected_champion=None)


def test_unknown_version_is_one_clear_sentence(registry, register):
    register("a")
    with pytest.raises(RegistryError, match=r"refused: .*version=7.* not found") as caught:
        registry.promote(7, expected_champion=None)
    assert "\n" not in caught.value.message


def test_stored_model_of_another_sha_is_refused(registry, register, tmp_path):
    first, second = register("a"), register("b")
    shutil.rmtree(tmp_path / "models" / first.sha256)
    shutil.copytree(tmp_path / "models" / second.sha256, tmp_path / "models" / first.sha256)
    with pytest.raises(RegistryError, match=f"version 1 of `roadwork` has sha256 {second.sha256}"):
        registry.fetch(first)


def test_database_of_a_newer_mlflow_is_refused_and_left_alone(database, tmp_path):
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.execute("DROP TABLE registered_model_aliases")  # a table that the newer one renamed
    connection.close()
    before = database.read_bytes()
    with pytest.raises(RegistryError, match=r"has schema `ffffffffffff`, which MLflow 3.* does not know") as caught:
        Registry(f"sqlite:///{database}", tmp_path / "models")
    assert "\n" not in caught.value.message
    assert database.read_bytes() == before


def test_database_of_an_older_mlflow_says_how_to_upgrade(database, tmp_path):
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
    connection.close()
    with pytest.raises(RegistryError, match="out-of-date database schema") as caught:
        Registry(f"sqlite:///{database}", tmp_path / "models")
    assert f"mlflow db upgrade sqlite:///{database}" in caught.value.hint


def test_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(RegistryError, match="is not a readable SQLite database: file is not a database"):
        Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "models")


def test_registering_says_nothing_on_the_console(register, capfd, caplog):
    with caplog.at_level(logging.INFO):
        register("a")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith(("mlflow", "alembic"))] == []


def test_another_store_gives_the_source(database, make_model, make_decision, tmp_path):
    class Bucket(FolderStore):
        def put(self, model):
            return f"s3://bucket/models/roadwork/{model.sha256}/"

    registry = Registry(f"sqlite:///{database}", tmp_path, store=Bucket(tmp_path))
    version = registry.register(make_model().path, decision=make_decision(), params={}, metrics={})
    assert version.source == f"s3://bucket/models/roadwork/{make_model().sha256}/"
