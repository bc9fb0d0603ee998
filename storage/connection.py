"""Connects to the database: creates engines from URLs, and turns the driver's errors into typed ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from earlybell.database_url import DatabaseUrl, InvalidDatabaseUrl
from earlybell.storage.exceptions import SchemaMismatch, StorageError, StorageUnavailable

#: SQLSTATE classes and codes, https://www.postgresql.org/docs/current/errcodes-appendix.html
#: data exception, integrity violation, program limit exceeded (a value too large for an index, nesting too deep):
_ROW_AT_FAULT = ("22", "23", "54")
#: undefined table, column and function:
_SCHEMA_AT_FAULT = ("42P01", "42703", "42883")


def parse(url: str) -> DatabaseUrl:
    """Parse the database's URL.

    Raises
    ------
    StorageError
        It is not the URL of a Postgres database.
    """
    try:
        return DatabaseUrl.parse(url)
    except InvalidDatabaseUrl as error:
        raise StorageError(str(error)) from None


def create(url: str, *, statement_timeout_s: float | None = None) -> Engine:
    """Create an engine with at most two connections, one per table, which opens them when needed and reopens lost ones.

    Parameters
    ----------
    statement_timeout_s
        For writers: cancel a statement that takes longer, end a transaction that was left open as long (its locks
        would hold up the others), and connect only to a server that takes writes, of those that the URL names.

    Raises
    ------
    StorageError
        `url` is not the URL of a Postgres database.
    """
    parameters: dict[str, Any] = {
        "application_name": "earlybell",
        "connect_timeout": 10,
        # Notice a peer that vanished (power, network) after half a minute, not after hours.
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    given = parse(url).parameters
    if statement_timeout_s is not None:
        milliseconds = round(statement_timeout_s * 1000)
        limits = f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={milliseconds}"
        # The URL's own options come last: the last value of a name counts.
        parameters |= {"target_session_attrs": "read-write"}
        given = {**given, "options": f"{limits} {given.get('options', '')}".rstrip()}
    return create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(**{**parameters, **given}),
        pool_size=2,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,  # keeps the text of news out of tracebacks
    )


@contextmanager
def typed_errors(url: str) -> Iterator[None]:
    """Turn the driver's errors into `StorageUnavailable`, `SchemaMismatch` or `StorageError`."""
    try:
        yield
    except (SQLAlchemyError, psycopg2.Error) as error:
        raise _typed(error, parse(url).address) from error


@contextmanager
def open_snapshot(url: str) -> Iterator[Connection]:
    """Open a read-only connection, for `storage.asof`, on which all queries see the same snapshot of the database.

    Raises
    ------
    StorageUnavailable
        The database cannot be reached.
    """
    engine = create(url)
    try:
        with typed_errors(url), engine.connect() as connection:
            yield connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    finally:
        engine.dispose()


def row_at_fault(error: psycopg2.Error) -> str | None:
    """Return in one line why the database refuses the row itself, or None if the row is not to blame."""
    return _first_line(error) if (error.pgcode or "").startswith(_ROW_AT_FAULT) else None


def _first_line(error: Exception) -> str:
    # Without the DETAIL below it, which contains the whole row.
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    return str(primary or str(error).strip().split("\n", 1)[0])


def _typed(error: Exception, where: str) -> StorageError:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code = getattr(cause, "pgcode", None) or ""
    reason = f"{where}: {_first_line(cause if isinstance(cause, Exception) else error)}"
    if code in _SCHEMA_AT_FAULT:
        return SchemaMismatch(f"{reason}; run `earlybell db upgrade`")
    if code.startswith("42"):  # syntax error or access rule violation: a retry would fail in the same way
        return StorageError(reason)
    if isinstance(error, (DBAPIError, PoolTimeoutError, psycopg2.Error)):
        return StorageUnavailable(reason)
    return StorageError(reason)
