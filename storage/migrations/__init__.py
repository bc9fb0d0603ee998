"""Brings a database to the schema of this version of the code, and says whether it is there.

The steps lie in ``versions/``, one Alembic revision a file. A step that has been released is never edited: its SQL is
written out in it and does not follow ``storage.tables``; a test holds their sum and the tables equal.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from earlybell.storage import connection as connections
from earlybell.storage.exceptions import SchemaMismatch, StorageError
from earlybell.storage.migrations import reader

#: Not Alembic's default name: the database may be shared with another application that uses Alembic too.
VERSION_TABLE = "earlybell_schema_version"
#: The first with date_bin, which the bars are made with.
OLDEST_POSTGRES = 14
# Any number will do that no other application takes for a lock of this database: "eb" and the migrations' initial.
_LOCK = int.from_bytes(b"eb:migr", "big")


def upgrade(url: str) -> str:
    """Bring the database up to this version: its tables, its functions, and the read-only role.

    Does nothing where that is done already. Several processes may do it at once: one works, the others wait.

    Returns
    -------
    str
        The revision that the database is at now.

    Raises
    ------
    SchemaMismatch
        The database belongs to a newer version of the code.
    StorageError, StorageUnavailable
        The server is too old, or the user may not change the schema; the database cannot be reached.
        Nothing was changed.
    """
    engine = connections.create(url)
    try:
        with connections.typed_errors(engine), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            version = int(connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
            if version < OLDEST_POSTGRES:
                raise StorageError(
                    f"{connections.masked(url)} is PostgreSQL {version}; it takes {OLDEST_POSTGRES} or newer"
                )
            _refuse_newer(connection, url)
            command.upgrade(_config(connection), "head")
            reader.grant(connection)
            return _latest()
    finally:
        engine.dispose()


def downgrade(url: str, revision: str = "base") -> None:
    """Take the schema back to an earlier revision. Going back to ``base`` destroys all news and signals."""
    engine = connections.create(url)
    try:
        with connections.typed_errors(engine), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            command.downgrade(_config(connection), revision)
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """Say which revision the database is at; None where it was never upgraded.

    Raises `StorageUnavailable` where the database cannot be reached.
    """
    engine = connections.create(url)
    try:
        with connections.typed_errors(engine), engine.connect() as connection:
            return _revision(connection)
    finally:
        engine.dispose()


def check(url: str) -> None:
    """Make sure that the database has the schema of this version of the code.

    Raises
    ------
    SchemaMismatch
        It is behind (the text says to run ``earlybell db upgrade``) or ahead.
    StorageUnavailable
        The database cannot be reached.
    """
    engine = connections.create(url)
    try:
        with connections.typed_errors(engine), engine.connect() as connection:
            found = _revision(connection)
            _refuse_newer(connection, url)
    finally:
        engine.dispose()
    if found != _latest():
        raise SchemaMismatch(
            f"{connections.masked(url)} is {f'at schema {found}' if found else 'without a schema'}, this version needs "
            f"{_latest()}: run `earlybell db upgrade`"
        )


def _refuse_newer(connection: Connection, url: str) -> None:
    found = _revision(connection)
    if found is not None and found not in {script.revision for script in _scripts().walk_revisions()}:
        raise SchemaMismatch(
            f"{connections.masked(url)} is at schema {found}, which this version does not know (its own is "
            f"{_latest()}): install the newer version"
        )


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _latest() -> str:
    head = _scripts().get_current_head()
    assert head is not None, "the package has no migrations"
    return head


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
