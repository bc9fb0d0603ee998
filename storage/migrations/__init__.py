"""Upgrades a database to the schema of this version of the code, and checks that it has it.

The migrations are in ``versions/``, one Alembic revision per file. Each contains its own SQL, independent of
``storage.tables``, and is never edited once released; a test compares their sum with the tables.
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

#: Not Alembic's default name, since another application in the same database may use Alembic too.
VERSION_TABLE = "earlybell_schema_version"
#: The first version with date_bin, which the bars need.
OLDEST_POSTGRES = 14
# Any number that no other application uses for an advisory lock in this database.
_LOCK = int.from_bytes(b"eb:migr", "big")


def upgrade(url: str) -> str:
    """Create or upgrade the tables, the functions and the read-only role.

    Does nothing if the database is up to date. Several processes may call it at once: one works, the others wait.

    Returns
    -------
    str
        The database's new revision.

    Raises
    ------
    SchemaMismatch
        The database belongs to a newer version of the code.
    StorageError, StorageUnavailable
        The server is too old, or the user may not change the schema; the database cannot be reached. Nothing was
        changed.
    """
    engine = connections.create(url)
    try:
        with connections.typed_errors(url), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            version = int(connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
            if version < OLDEST_POSTGRES:
                raise StorageError(
                    f"{connections.parse(url).address} is PostgreSQL {version}; {OLDEST_POSTGRES} or newer is required"
                )
            _refuse_newer(connection, url)
            command.upgrade(_config(connection), "head")
            reader.grant(connection)
            return _latest()
    finally:
        engine.dispose()


def downgrade(url: str, revision: str = "base") -> None:
    """Downgrade the schema to an earlier revision. ``base`` drops all news and signals."""
    engine = connections.create(url)
    try:
        with connections.typed_errors(url), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            command.downgrade(_config(connection), revision)
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """Return the database's revision, or None if it has no schema yet.

    Raises
    ------
    StorageUnavailable
        The database cannot be reached.
    """
    engine = connections.create(url)
    try:
        with connections.typed_errors(url), engine.connect() as connection:
            return _revision(connection)
    finally:
        engine.dispose()


def check(url: str) -> None:
    """Check that the database has the schema of this version of the code.

    Raises
    ------
    SchemaMismatch
        It is behind (the text says to run ``earlybell db upgrade``) or ahead.
    StorageUnavailable
        The database cannot be reached.
    """
    engine = connections.create(url)
    try:
        with connections.typed_errors(url), engine.connect() as connection:
            revision = _revision(connection)
            _refuse_newer(connection, url)
    finally:
        engine.dispose()
    if revision != _latest():
        state = f"is at schema {revision}" if revision else "has no schema"
        raise SchemaMismatch(
            f"{connections.parse(url).address} {state}, but this version needs {_latest()}: run `earlybell db upgrade`"
        )


def _refuse_newer(connection: Connection, url: str) -> None:
    revision = _revision(connection)
    if revision is not None and revision not in {script.revision for script in _scripts().walk_revisions()}:
        raise SchemaMismatch(
            f"{connections.parse(url).address} is at schema {revision}, which this version does not know (its own is "
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
