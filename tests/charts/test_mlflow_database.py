import gc
import gzip
import importlib.util
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.store.db import utils as schema
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from tests.charts.render import CHARTS
from tests.serving.miner import s3

PROGRAM = CHARTS / "mlflow/files/database.py"
FOLDER = f"s3://{s3.BUCKET}/mlflow-backups/streetvision"
pytestmark = [  # MLflow's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::starlette.exceptions.StarletteDeprecationWarning"),
]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    specification = importlib.util.spec_from_file_location("database", PROGRAM)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bucket() -> Iterator[s3.Moto]:
    server = s3.Moto()
    server.start()
    server.create_bucket()
    yield server
    server.close()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        import pgserver

        server = pgserver.get_server(folder / "data")
    yield server
    logging.getLogger("pgserver").setLevel(logging.WARNING)
    server.cleanup()


@pytest.fixture
def new_postgres(postgres: Any) -> Callable[[], str]:
    """Addresses of empty databases of one server."""
    server = sa.create_engine(postgres.get_uri(), isolation_level="AUTOCOMMIT")
    count = iter(range(100))

    def make() -> str:
        name = f"mlflow{next(count)}"
        with server.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        return postgres.get_uri(name)

    return make


@pytest.fixture(autouse=True)
def no_connection_is_left() -> Iterator[None]:
    yield
    for name in ("tracking", "model_registry"):  # whose stores keep theirs for ever
        if module := sys.modules.get(f"mlflow.store.{name}.sqlalchemy_store"):
            for engine in module.SqlAlchemyStore._engine_map.values():
                engine.dispose()
            module.SqlAlchemyStore._engine_map.clear()
    gc.collect()


@pytest.fixture
def run(program: ModuleType, bucket: s3.Moto, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a command over a database, as a container of the chart would."""
    s3.use_keys(monkeypatch)
    bucket.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)

    def call(uri: str, *arguments: str, **environment: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(logging, "basicConfig", lambda **_: None)  # of the process, which here is that of all tests
            for name, value in {"MLFLOW_BACKEND_STORE_URI": uri, **environment}.items():
                patch.setenv(name, value)
            program.main(list(arguments))

    return call


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Addresses of databases that do not exist yet, of the kind the test is run for."""
    if request.param == "postgresql":
        return request.getfixturevalue("new_postgres")
    count = iter(range(100))
    return lambda: f"sqlite:///{tmp_path}/mlflow{next(count)}.db"


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="module")
def filled_file(program: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("filled") / "mlflow.db"
    program.prepare(f"sqlite:///{file}", upgrade=True, default_permission="READ")
    fill(f"sqlite:///{file}")
    return file


@pytest.fixture
def filled(filled_file: Path, tmp_path: Path) -> str:
    """Address of a SQLite database with a run and a promoted version."""
    shutil.copy(filled_file, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def fill(uri: str) -> None:
    """A run and a promoted version, as the registry writes them."""
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("roadwork", artifact_location="mlflow-artifacts:/1")
    run = client.create_run(experiment, tags={"git_sha": "0123"})
    metrics = [Metric("reward", 0.25, 1, 0), Metric("loss", float("nan"), 1, 0), Metric("epoch/auc", 0.5, 1, 3)]
    client.log_batch(run.info.run_id, metrics=metrics, params=[Param("views", "4")])
    dataset = Dataset("roadwork", "digest", "local", '{"uri": "x"}')
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    client.set_terminated(run.info.run_id)
    client.create_registered_model("roadwork")
    client.create_model_version("roadwork", "s3://models/roadwork/abc/", run.info.run_id, tags={"verdict": "promote"})
    client.set_registered_model_alias("roadwork", "champion", "1")
    engine = sa.create_engine(uri)
    jobs = sa.Table("jobs", sa.MetaData(), autoload_with=engine)
    with engine.begin() as connection:  # JSON, and none of it
        times = {"creation_time": 1, "last_update_time": 1}
        row = {"job_name": "x", "params": "{}", "status": 1, "retry_count": 0, **times}
        connection.execute(jobs.insert(), [{"id": "1", **row, "progress": {"done": [1.5, "ä"]}}])
        connection.execute(jobs.insert(), [{"id": "2", **row}])
    engine.dispose()


def content(uri: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, sorted; tables without rows left out."""
    engine = sa.create_engine(uri)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = {
            table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for table in tables.sorted_tables
        }
    engine.dispose()
    return {name: found for name, found in rows.items() if found}


def names(bucket: s3.Moto) -> list[str]:
    return sorted(key.removeprefix("mlflow-backups/streetvision/") for key in bucket.objects())


def test_prepare_makes_the_schema_that_the_installed_mlflow_expects(
    run: Callable[..., None], new_database: Callable[[], str]
) -> None:
    uri = new_database()
    run(uri, "prepare", "--upgrade")
    engine = sa.create_engine(uri)
    schema._verify_schema(engine)
    engine.dispose()
    before = content(uri)
    run(uri, "prepare", "--upgrade")
    assert content(uri) == before


def test_prepare_without_upgrade_leaves_a_database_of_somebody_else_alone(
    run: Callable[..., None], new_database: Callable[[], str]
) -> None:
    uri = new_database()
    run(uri, "prepare")
    assert content(uri) == {}


@pytest.mark.slow
def test_three_servers_that_start_at_once_make_one_schema(new_database: Callable[[], str]) -> None:
    uri = new_database()
    command_line = [sys.executable, str(PROGRAM), "prepare", "--upgrade"]
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    servers = [subprocess.Popen(command_line, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [server.communicate()[0] for server in servers]
    assert [server.returncode for server in servers] == [0, 0, 0], said
    assert sum("schema: None ->" in text for text in said) == 1
    assert sum("the schema is this MLflow's" in text for text in said) == 2


def test_an_older_sqlite_is_copied_before_it_is_upgraded(run: Callable[..., None], sqlite: str, tmp_path: Path) -> None:
    engine = sa.create_engine(sqlite)
    InitialBase.metadata.create_all(engine)
    engine.dispose()
    scripts = ScriptDirectory.from_config(schema._get_alembic_config(sqlite))
    command.upgrade(schema._get_alembic_config(sqlite), scripts.get_revision("head").down_revision)
    run(sqlite, "prepare")
    assert list(tmp_path.glob("*.before-*")) == []
    older = content(sqlite)
    run(sqlite, "prepare", "--upgrade")
    (copy,) = tmp_path.glob("*.before-*")
    assert content(f"sqlite:///{copy}") == older


def test_the_administrator_has_the_password_of_today(
    run: Callable[..., None], new_database: Callable[[], str], tmp_path: Path
) -> None:
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    uri = new_database()
    settings = tmp_path / "auth.ini"
    for password in ("first password 1%", "second password"):
        run(
            uri,
            *("prepare", "--upgrade", "--default-permission", "EDIT"),
            MLFLOW_AUTH_CONFIG_PATH=str(settings),
            MLFLOW_AUTH_ADMIN_USERNAME="operator",
            MLFLOW_AUTH_ADMIN_PASSWORD=password,
        )
    users = SqlAlchemyStore()
    users.init_db(uri)
    assert users.authenticate_user("operator", "second password")
    assert not users.authenticate_user("operator", "first password 1%")
    assert users.get_user("operator").is_admin
    users.engine.dispose()


def test_mlflow_reads_the_settings_that_prepare_writes(
    run: Callable[..., None], sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.server.auth.config import read_auth_config

    settings = tmp_path / "auth.ini"
    names = {"MLFLOW_AUTH_ADMIN_USERNAME": "operator", "MLFLOW_AUTH_ADMIN_PASSWORD": "a long password"}
    uri = sqlite.replace("mlflow.db", "100%25.db")
    run(
        uri,
        *("prepare", "--upgrade", "--default-permission", "NO_PERMISSIONS"),
        MLFLOW_AUTH_CONFIG_PATH=str(settings),
        **names,
    )
    for name, value in {"MLFLOW_AUTH_CONFIG_PATH": str(settings), **names}.items():
        monkeypatch.setenv(name, value)
    read = read_auth_config()
    assert (read.default_permission, read.database_uri, read.admin_username) == ("NO_PERMISSIONS", uri, "operator")
    assert settings.stat().st_mode & 0o077 == 0
    assert "a long password" not in settings.read_text()


def test_a_copy_holds_every_row_and_opens_as_a_database_of_mlflow(
    run: Callable[..., None], bucket: s3.Moto, new_database: Callable[[], str], tmp_path: Path
) -> None:
    uri = new_database()
    run(uri, "prepare", "--upgrade")
    fill(uri)
    run(uri, "backup", "--to", FOLDER)
    (packed,) = bucket.objects().values()
    (tmp_path / "copy.db").write_bytes(gzip.decompress(packed))
    assert content(f"sqlite:///{tmp_path}/copy.db") == content(uri)
    client = MlflowClient(f"sqlite:///{tmp_path}/copy.db", f"sqlite:///{tmp_path}/copy.db")
    assert client.get_model_version_by_alias("roadwork", "champion").source == "s3://models/roadwork/abc/"


def test_what_was_lost_is_there_again_after_a_restore(
    run: Callable[..., None], bucket: s3.Moto, new_database: Callable[[], str]
) -> None:
    uri = new_database()
    run(uri, "prepare", "--upgrade")
    fill(uri)
    before = content(uri)
    run(uri, "backup", "--to", FOLDER)
    MlflowClient(uri, uri).delete_registered_model("roadwork")
    lost = content(uri)
    assert lost != before
    run(uri, "restore", "--from", FOLDER)
    assert content(uri) == before
    kept = names(bucket)
    assert len(kept) == 2  # and what was there instead is kept
    run(uri, "restore", "--from", FOLDER, kept[1])
    assert content(uri) == lost


@pytest.mark.slow
def test_a_postgresql_takes_over_what_a_sqlite_began(
    run: Callable[..., None], filled: str, new_postgres: Callable[[], str], tmp_path: Path
) -> None:
    users = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": "operator",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a long password",
    }
    uri = new_postgres()
    for database in (filled, uri):
        run(database, "prepare", "--upgrade", **users)
    run(filled, "backup", "--to", FOLDER)
    run(uri, "restore", "--from", FOLDER)
    assert content(uri) == content(filled)
    client = MlflowClient(uri, uri)  # what is added next does not collide with what came
    assert client.create_experiment("another") not in {"0", "1"}
    assert client.create_model_version("roadwork", "s3://models/roadwork/def/").version == 2


def test_only_the_newest_copies_stay_and_other_objects_are_not_touched(
    run: Callable[..., None], bucket: s3.Moto, filled: str
) -> None:
    ours = [f"2026-01-0{day}T02-00-00Z.db.gz" for day in range(1, 6)]
    others = ["notes.txt", "2026-01-01T02-00-00Z.db.gz.part"]
    for name in ours + others:
        bucket.client.put_object(Bucket=s3.BUCKET, Key=f"mlflow-backups/streetvision/{name}", Body=b"")
    run(filled, "backup", "--to", FOLDER, "--keep", "2")
    left = names(bucket)
    assert set(others) <= set(left)
    assert [name for name in left if name not in others][:1] == ours[-1:]
    assert len(left) == 2 + len(others)


def test_old_copies_stay_where_a_new_one_did_not_arrive(
    run: Callable[..., None], bucket: s3.Moto, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.client.put_object(Bucket=s3.BUCKET, Key="mlflow-backups/streetvision/2026-01-01T02-00-00Z.db.gz", Body=b"")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def refuse(method: str, _key: str) -> None:
        if method == "PUT":
            raise s3.Refuse(507)

    bucket.before = refuse
    with pytest.raises(SystemExit, match="backup failed: .*507"):
        run(filled, "backup", "--to", FOLDER, "--keep", "1")
    bucket.before = lambda _method, _key: None
    assert names(bucket) == ["2026-01-01T02-00-00Z.db.gz"]


def test_a_damaged_copy_is_not_restored(run: Callable[..., None], bucket: s3.Moto, filled: str, tmp_path: Path) -> None:
    before = content(filled)
    damaged = bytearray((tmp_path / "mlflow.db").read_bytes())
    damaged[-60_000:] = bytes(60_000)
    bucket.client.put_object(
        Bucket=s3.BUCKET, Key="mlflow-backups/streetvision/2026-01-01T02-00-00Z.db.gz", Body=gzip.compress(damaged)
    )
    with pytest.raises(SystemExit, match="the copy is damaged"):
        run(filled, "restore", "--from", FOLDER)
    assert content(filled) == before


@pytest.mark.parametrize("name", [[], ["2026-01-01T02-00-00Z.db.gz"]])
def test_a_copy_that_is_not_there_is_named(run: Callable[..., None], filled: str, name: list[str]) -> None:
    with pytest.raises(SystemExit, match="there is no copy"):
        run(filled, "restore", "--from", FOLDER, *name)


def test_a_copy_is_taken_while_somebody_writes(
    run: Callable[..., None], bucket: s3.Moto, filled: str, tmp_path: Path
) -> None:
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=20)) as database:
            for number in range(100_000):
                if stop.is_set():
                    return
                with database:
                    database.execute("INSERT INTO experiment_tags VALUES (?, 'x', 0)", (f"key{number}",))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        run(filled, "backup", "--to", FOLDER)
    finally:
        stop.set()
        writer.join()
    assert len(names(bucket)) == 1


def test_another_kind_of_database_is_refused(program: ModuleType) -> None:
    with pytest.raises(SystemExit, match="the database is `mysql`, expected `sqlite` or `postgresql`"):
        program._sqlite_path("mysql+pymysql://u:p@host/db")
