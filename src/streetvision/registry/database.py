"""The SQLite database that MLflow uses without a server."""

import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow

from streetvision.errors import RegistryError

_SQLITE = "sqlite:///"
_MIGRATIONS = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"


def check_database(uri: str) -> None:
    """Refuses a database of a newer MLflow before this one touches it.

    Raises:
        RegistryError: the schema is unknown to the MLflow that is installed, or the file is no database.
    """
    path = database_file(uri)
    if path is None or not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
            rows = database.execute("SELECT version_num FROM alembic_version").fetchall() if tables else []
    except sqlite3.Error as err:
        raise RegistryError(f"`{path}` is not a readable SQLite database: {err}") from err
    for (revision,) in rows:
        if not any(_MIGRATIONS.glob(f"{revision}_*.py")):
            raise RegistryError(
                f"MLflow database `{path}` has schema `{revision}`, which MLflow {mlflow.__version__} does not know: "
                "a newer one wrote it",
                hint="install that MLflow, or start with another database",
            )


def database_file(uri: str) -> Path | None:
    """The file of an `sqlite:///` address; nothing for any other."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None
