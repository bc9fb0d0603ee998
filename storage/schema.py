"""Which schema a database has, and whether it is the one that this version of the code needs.

It asks through the driver alone: Alembic, which makes the schema (`storage.migrations`), takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import psycopg2.errors

from earlybell.storage import driver
from earlybell.storage.exceptions import SchemaMismatch, StorageError

#: Not Alembic's default name, since another application in the same database may use Alembic too.
VERSION_TABLE = "earlybell_schema_version"


def revisions() -> Sequence[str]:
    """Return the revisions that this version knows, oldest first: each file of migrations begins with its own."""
    files = (Path(__file__).parent / "migrations" / "versions").glob("r*.py")
    return sorted(file.stem.partition("_")[0] for file in files)


def latest() -> str:
    """Return the revision that this version needs."""
    return revisions()[-1]


def current(url: str) -> str | None:
    """Return the database's revision, or None if it has no schema yet.

    Raises
    ------
    StorageError
        The database has another encoding than UTF-8.
    StorageUnavailable
        The database cannot be reached.
    """
    with driver.typed_errors(url), closing(driver.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_encoding")
        refuse_encoding(url, cursor.fetchone()[0])
        try:
            cursor.execute(f"SELECT version_num FROM {VERSION_TABLE}")
        except psycopg2.errors.UndefinedTable:
            return None
        row = cursor.fetchone()
        return None if row is None else str(row[0])


def check(url: str) -> None:
    """Check that the database has the schema of this version of the code.

    Raises
    ------
    StorageError
        The database has another encoding than UTF-8.
    SchemaMismatch
        It is behind (the text says to run ``earlybell db upgrade``) or ahead.
    StorageUnavailable
        The database cannot be reached.
    """
    revision = current(url)
    refuse_newer(url, revision)
    if revision != latest():
        state = f"is at schema {revision}" if revision else "has no schema"
        raise SchemaMismatch(
            f"{driver.parse(url).address} {state}, but this version needs {latest()}: run `earlybell db upgrade`"
        )


def refuse_encoding(url: str, encoding: str) -> None:
    """Raise `StorageError` if a database of this encoding could not store every text."""
    if encoding != driver.ENCODING:
        raise StorageError(
            f"{driver.parse(url).address} has the encoding {encoding}, which lacks characters that news has: create it "
            f"with ENCODING '{driver.ENCODING}' TEMPLATE template0"
        )


def refuse_newer(url: str, revision: str | None) -> None:
    """Raise `SchemaMismatch` if this version does not know the revision, because it is newer."""
    if revision is not None and revision not in revisions():
        raise SchemaMismatch(
            f"{driver.parse(url).address} is at schema {revision}, which this version does not know (its own is "
            f"{latest()}): install the newer version"
        )
