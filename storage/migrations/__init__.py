"""Upgrades a database to the schema of this version of the code; `storage.schema` checks that it has it.

The migrations are in ``versions/``, one Alembic revision per file. Each contains its own SQL, independent of
``storage.tables``, and is never edited once released; a test compares their sum with the tables.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from earlybell.storage import connection as connections
from earlybell.storage import driver, schema
from earlybell.storage.exceptions import StorageError
from earlybell.storage.migrations import reader

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
        The server is too old, the database's encoding is not UTF-8, or the user may not change the schema; the
        database cannot be reached. Nothing was changed.
    """
    engine = connections.create(url)
    try:
        with connections.typed_errors(url), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            version = int(connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
            if version < OLDEST_POSTGRES:
                raise StorageError(
                    f"{driver.parse(url).address} is PostgreSQL {version}; {OLDEST_POSTGRES} or newer is required"
                )
            schema.refuse_encoding(url, str(connection.scalar(text("SHOW server_encoding"))))
            schema.refuse_newer(url, _revision(connection))
            command.upgrade(_config(connection), "head")
            reader.grant(connection)
            return schema.latest()
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


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
    return context.get_current_revision()


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection, "version_table": schema.VERSION_TABLE})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
