"""Connects to the database through its driver alone, and turns the driver's errors into typed ones.

For what must start quickly: importing SQLAlchemy takes longer than asking Postgres. `storage.connection` builds its
engines on this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from earlybell.database_url import DatabaseUrl, InvalidDatabaseUrl
from earlybell.storage.exceptions import SchemaMismatch, StorageError, StorageUnavailable

#: SQLSTATE classes and codes, https://www.postgresql.org/docs/current/errcodes-appendix.html
#: data exception, integrity violation, program limit exceeded (a value too large for an index, nesting too deep):
_ROW_AT_FAULT = ("22", "23", "54")
#: undefined table, column and function:
_SCHEMA_AT_FAULT = ("42P01", "42703", "42883")
#: Of databases and connections: the one that has every character of the news.
ENCODING = "UTF8"
#: Every other value waits at least for this server's disk, and is the administrator's choice.
_WAIT_FOR_THE_DISK = """
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""


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


def connect(url: str, *, statement_timeout_s: float | None = None) -> Any:
    """Return a new psycopg2 connection.

    Parameters
    ----------
    statement_timeout_s
        For writers: cancel a statement that takes longer, end a transaction that was left open as long (its locks
        would hold up the others), connect only to a server that takes writes, of those that the URL names, and have
        each commit wait for the disk: after a crash of a server with ``synchronous_commit = off`` the last rows would
        be gone, and their offsets committed.

    Raises
    ------
    StorageError
        `url` is not the URL of a Postgres database.
    psycopg2.Error
        The server does not answer, or refuses.
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
    # The bytes that we send are UTF-8, whatever PGCLIENTENCODING, the role or the database would have them be.
    connection = psycopg2.connect(**{**parameters, **given, "client_encoding": ENCODING})
    if statement_timeout_s is not None:
        with connection, connection.cursor() as cursor:
            cursor.execute(_WAIT_FOR_THE_DISK)
    return connection


@contextmanager
def typed_errors(url: str) -> Iterator[None]:
    """Turn the driver's errors into `StorageUnavailable`, `SchemaMismatch` or `StorageError`."""
    try:
        yield
    except psycopg2.Error as error:
        raise typed(error, parse(url).address) from error


def row_at_fault(error: psycopg2.Error) -> str | None:
    """Return in one line why the database refuses the row itself, or None if the row is not to blame."""
    return first_line(error) if (error.pgcode or "").startswith(_ROW_AT_FAULT) else None


def first_line(error: Exception) -> str:
    """Return what is wrong, without the DETAIL below it, which contains the whole row."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    return str(primary or str(error).strip().split("\n", 1)[0])


def typed(error: Exception, where: str) -> StorageError:
    """Return the error of ours that stands for the driver's."""
    code = getattr(error, "pgcode", None) or ""
    reason = f"{where}: {first_line(error)}"
    if code in _SCHEMA_AT_FAULT:
        return SchemaMismatch(f"{reason}; run `earlybell db upgrade`")
    if code.startswith("42"):  # syntax error or access rule violation: a retry would fail in the same way
        return StorageError(reason)
    return StorageUnavailable(reason) if isinstance(error, psycopg2.Error) else StorageError(reason)
