"""`python database.py prepare | backup | restore`: the database behind the MLflow server of this chart.

It runs in the MLflow image, where neither `pg_dump` nor `sqlite3` is. A backup is a SQLite database whatever the server
runs on: `mlflow server --backend-store-uri sqlite:///copy.db` opens it anywhere, and a PostgreSQL server can take over
what a SQLite one began. The database is `$MLFLOW_BACKEND_STORE_URI`; credentials come by the environment alone.
"""

import argparse
import configparser
import fcntl
import gzip
import logging
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import boto3
import sqlalchemy as sa
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.db import upgrade as mlflow_upgrade
from mlflow.store.db import utils as schema

LOCK = 0x6D6C666C6F77  # "mlflow": the advisory lock of PostgreSQL that writers of the schema hold
NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ\.db\.gz")  # sorts by time

log = logging.getLogger("database")


def main(argv: list[str] | None = None) -> None:
    """Runs one command; a failure is one sentence and exit code 1."""
    parser = argparse.ArgumentParser(prog="database.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="the schema of this MLflow, the users and their settings")
    preparing.add_argument("--upgrade", action="store_true", help="create or upgrade the schema")
    preparing.add_argument("--default-permission", default="READ", help="of users on what others made")
    for name, text in (("backup", "a copy to the bucket"), ("restore", "a copy from the bucket, in place")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--to" if name == "backup" else "--from", dest="folder", required=True, metavar="s3://...")
        if name == "backup":
            command.add_argument("--keep", type=int, default=14, help="how many copies stay")
        else:
            command.add_argument("name", nargs="?", help="which copy; the newest if not given")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s", force=True)
    for noisy in ("alembic", "mlflow", "botocore", "boto3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    try:
        if given.command == "prepare":
            prepare(uri, upgrade=given.upgrade, default_permission=given.default_permission)
        elif given.command == "backup":
            backup(uri, Folder(given.folder), keep=given.keep)
        else:
            restore(uri, Folder(given.folder), given.name)
    except (Boto3Error, BotoCoreError, ClientError, sa.exc.SQLAlchemyError, sqlite3.Error) as err:
        sys.exit(f"{given.command} failed: {str(err).splitlines()[0]}")


def prepare(uri: str, *, upgrade: bool, default_permission: str) -> None:
    """Makes the database ready for the server; several servers may do it at once.

    Args:
        uri: of the database.
        upgrade: create the tables, or take them to this MLflow's schema.
        default_permission: of users on what others made.
    """
    with _connected(uri) as engine, _lock(uri, engine):
        if upgrade:
            _upgrade(uri, engine)
        if settings := os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
            _write_settings(Path(settings), uri, default_permission)
            _admin(uri, os.environ["MLFLOW_AUTH_ADMIN_USERNAME"], os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"])


def backup(uri: str, folder: "Folder", *, keep: int) -> str:
    """Copies the database into the bucket, reads back that it arrived, and only then lets old copies go.

    Args:
        uri: of the database.
        folder: of the copies.
        keep: how many copies stay; 0 keeps all.

    Returns:
        The copy's name.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "copy.db")
        _copy_out(uri, copy)
        name = folder.put(_packed(copy))
    for old in folder.names()[:-keep] if keep else []:
        folder.delete(old)
    return name


def restore(uri: str, folder: "Folder", name: str | None) -> None:
    """Puts a copy in the place of what the database holds, which is copied to the bucket first.

    The server may run meanwhile: it sees the old content, then the new. Restart it afterwards.

    Args:
        uri: of the database.
        folder: of the copies.
        name: which; the newest if none.
    """
    names = folder.names()
    if not names or (name and name not in names):
        sys.exit(f"there is no copy `{name or ''}` in `{folder.uri}`, expected one of {names}")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "copy.db")
        with gzip.open(folder.get(name or names[-1], Path(scratch, "copy.db.gz"))) as packed, copy.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        _check(copy)
        with _connected(f"sqlite:///{copy}") as file:
            _upgrade_copy(file, users=sa.inspect(file).has_table("users"))
        log.info("what is there now is kept as %s", backup(uri, folder, keep=0))
        _copy_in(copy, uri)
    log.info("restored %s; restart the server", name or names[-1])


class Folder:
    """A folder of a bucket that holds copies.

    Args:
        uri: such as `s3://bucket/mlflow-backups/streetvision`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/"
        self._s3 = boto3.client("s3")

    def names(self) -> list[str]:
        """The copies, oldest first; other objects are not looked at."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        found = (one["Key"].removeprefix(self._prefix) for page in pages for one in page.get("Contents", []))
        return sorted(name for name in found if NAME.fullmatch(name))

    def put(self, file: Path) -> str:
        """Uploads a copy; the name it got, once the bucket has all of it."""
        while (name := f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}.db.gz") in self.names():
            time.sleep(1)
        self._s3.upload_file(str(file), self._bucket, self._prefix + name)
        there = self._s3.head_object(Bucket=self._bucket, Key=self._prefix + name)["ContentLength"]
        if there != (size := file.stat().st_size):
            sys.exit(f"the bucket holds {there} bytes of `{self.uri}/{name}`, expected {size}")
        log.info("%s/%s: %d bytes", self.uri, name, size)
        return name

    def get(self, name: str, file: Path) -> Path:
        """Downloads a copy."""
        self._s3.download_file(self._bucket, self._prefix + name, str(file))
        return file

    def delete(self, name: str) -> None:
        """Deletes a copy."""
        self._s3.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        log.info("deleted %s", name)


@contextmanager
def _connected(uri: str) -> Iterator[sa.Engine]:
    engine = schema.create_sqlalchemy_engine_with_retry(uri)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _lock(uri: str, engine: sa.Engine) -> Iterator[None]:
    """Only one holder at a time, whichever pod it is in."""
    if path := _sqlite_path(uri):
        with Path(f"{path}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.select(sa.func.pg_advisory_lock(LOCK)))
        try:
            yield
        finally:
            connection.execute(sa.select(sa.func.pg_advisory_unlock(LOCK)))


def _upgrade(uri: str, engine: sa.Engine) -> None:
    before, after = schema._get_schema_version(engine), schema._get_latest_schema_revision()
    if before == after:
        log.info("the schema is this MLflow's: %s", after)
        return
    if before and (path := _sqlite_path(uri)):
        _copy_out_sqlite(path, kept := Path(f"{path}.before-{after}"))
        log.info("copied to %s", kept)
    mlflow_upgrade.callback(uri)  # the command line's, without the password on a command line
    log.info("schema: %s -> %s", before, after)


def _write_settings(file: Path, uri: str, default_permission: str) -> None:
    settings = configparser.ConfigParser()
    settings["mlflow"] = {"default_permission": default_permission, "database_uri": uri.replace("%", "%%")}
    file.touch(mode=0o600)
    with file.open("w") as target:
        settings.write(target)


def _admin(uri: str, name: str, password: str) -> None:
    """The user exists with this password: MLflow itself would look at it once and never again."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore  # reads the settings at import

    store = SqlAlchemyStore()
    store.init_db(uri)
    if not store.has_user(name):
        store.create_user(name, password, is_admin=True)
        log.info("created the administrator %s", name)
    elif not store.authenticate_user(name, password):
        store.update_user(name, password=password, is_admin=True)
        log.info("gave the administrator %s the password of today", name)
    store.engine.dispose()


def _copy_out(uri: str, copy: Path) -> None:
    if path := _sqlite_path(uri):
        _copy_out_sqlite(path, copy)
    else:
        with _connected(uri) as engine:
            before, after = schema._get_schema_version(engine), schema._get_latest_schema_revision()
            if before != after:
                sys.exit(f"the database has the schema `{before}`, expected this MLflow's: `{after}`")
            _copy_out_rows(engine, copy)
    _check(copy)


def _copy_out_rows(engine: sa.Engine, copy: Path) -> None:
    one_moment = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**one_moment) as source, _connected(f"sqlite:///{copy}") as file:
        _upgrade_copy(file, users=sa.inspect(source).has_table("users"))
        with file.begin() as target:
            _copy_rows(source, target)


def _copy_in(copy: Path, uri: str) -> None:
    if path := _sqlite_path(uri):
        with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
        return
    with _connected(uri) as engine, _lock(uri, engine), _connected(f"sqlite:///{copy}") as file:
        _copy_in_rows(file, engine)


def _copy_in_rows(file: sa.Engine, engine: sa.Engine) -> None:
    with file.connect() as source, engine.begin() as target:
        _copy_rows(source, target)
        for table in sa.inspect(target).get_table_names():
            _advance_sequences(target, table)


def _copy_out_sqlite(path: Path, copy: Path) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _copy_rows(source: sa.Connection, target: sa.Connection) -> None:
    """Every row of every table that both have, and nothing else, in the order of foreign keys."""
    theirs, ours = sa.MetaData(), sa.MetaData()
    theirs.reflect(source)
    ours.reflect(target)
    tables = [table for table in ours.sorted_tables if table.name in theirs.tables]
    for table in reversed(tables):
        target.execute(table.delete())
    for table in tables:
        columns = [column for column in table.columns if column.computed is None]
        for column in columns:
            if isinstance(column.type, sa.JSON):
                column.type.none_as_null = True
        rows = source.execute(sa.select(*(theirs.tables[table.name].c[column.name] for column in columns)))
        count = 0
        for part in rows.mappings().partitions(1000):
            target.execute(table.insert(), [dict(row) for row in part])
            count += len(part)
        if count:
            log.info("%s: %d", table.name, count)


def _advance_sequences(target: sa.Connection, table: str) -> None:
    """The next row that the server adds gets a number of its own."""
    for column in sa.inspect(target).get_pk_constraint(table)["constrained_columns"]:
        sequence = target.scalar(sa.select(sa.func.pg_get_serial_sequence(f'"{table}"', column)))
        if sequence:
            largest = target.scalar(sa.select(sa.func.max(sa.column(column))).select_from(sa.table(table)))
            target.execute(sa.select(sa.func.setval(sequence, largest or 1, largest is not None)))


def _upgrade_copy(file: sa.Engine, *, users: bool) -> None:
    mlflow_upgrade.callback(str(file.url))
    if users:
        from mlflow.server.auth.db.utils import migrate_if_needed  # reads the settings at import

        migrate_if_needed(file, "head")


def _check(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as database:
        try:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as err:
            found = str(err)
    if found != "ok":
        sys.exit(f"the copy is damaged: {found}")


def _packed(copy: Path) -> Path:
    packed = copy.with_suffix(".db.gz")
    with copy.open("rb") as plain, gzip.open(packed, "wb", compresslevel=6) as target:
        shutil.copyfileobj(plain, target)
    return packed


def _sqlite_path(uri: str) -> Path | None:
    """The database's file, or nothing where it is a PostgreSQL."""
    url = sa.make_url(uri)
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        sys.exit(f"the database is `{backend}`, expected `sqlite` or `postgresql`")
    return Path(url.database or "") if backend == "sqlite" else None


if __name__ == "__main__":
    main()
