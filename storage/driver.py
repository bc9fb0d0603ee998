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
_LIMITS = """
SELECT set_config('statement_timeout', '{milliseconds}', true),
       set_config('idle_in_transaction_session_timeout', '{milliseconds}', true),
       set_config('synchronous_commit', CASE value WHEN 'off' THEN 'on' ELSE value END, true)
FROM current_setting('synchronous_commit') AS value
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


def connect(url: str, *, writes: bool = False) -> Any:
    """Return a new psycopg2 connection.

    It asks for nothing at the start that a pooler like PgBouncer refuses, and leaves nothing in the session.

    Parameters
    ----------
    writes
        Connect only to a server that takes writes, of those that the URL names.

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
    if writes:
        parameters["target_session_attrs"] = "read-write"
    # The bytes that we send are UTF-8, whatever PGCLIENTENCODING, the role or the database would have them be.
    return psycopg2.connect(**{**parameters, **parse(url).parameters, "client_encoding": ENCODING})


def limits(statement_timeout_s: float) -> str:
    """Return the statement with which a transaction that writes begins.

    It has statements that take longer cancelled, and the transaction ended when it is left open as long (its locks
    would hold up the others). Its commit waits for the disk: after a crash of a server with ``synchronous_commit =
    off`` the last rows would be gone, and their offsets committed. Every other value waits at least for this server's
    disk, and is the administrator's choice.

    All of it counts for one transaction: a pooler may give the next one another session.
    """
    return _LIMITS.format(milliseconds=round(statement_timeout_s * 1000))


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
