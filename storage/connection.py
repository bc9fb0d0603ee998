"""Connects to the database: creates engines from URLs, and turns the driver's errors into typed ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from earlybell.storage.exceptions import SchemaMismatch, StorageError, StorageUnavailable

#: SQLSTATE classes and codes, https://www.postgresql.org/docs/current/errcodes-appendix.html
#: data exception, integrity violation, program limit exceeded (a value too large for an index, nesting too deep):
_ROW_AT_FAULT = ("22", "23", "54")
#: undefined table, column and function:
_SCHEMA_AT_FAULT = ("42P01", "42703", "42883")


def create(url: str) -> Engine:
    """Create an engine with at most two connections, one per table, which opens them when needed and reopens lost ones.

    Raises
    ------
    StorageError
        `url` is not the URL of a Postgres database.
    """
    return create_engine(
        _psycopg2(url),
        pool_size=2,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,  # keeps the text of news out of tracebacks
        connect_args={
            "application_name": "earlybell",
            "connect_timeout": 10,
            # Notice a peer that vanished (power, network) after half a minute, not after hours.
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )


def masked(url: str) -> str:
    """Return a URL without its password and options, for messages and logs."""
    parsed = _psycopg2(url)
    host, port = parsed.host or parsed.query.get("host") or "localhost", parsed.port or parsed.query.get("port")
    user = f"{parsed.username}@" if parsed.username else ""
    return f"postgresql://{user}{host}{f':{port}' if port else ''}/{parsed.database or ''}"


@contextmanager
def typed_errors(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors into `StorageUnavailable`, `SchemaMismatch` or `StorageError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _typed(error, masked(engine.url.render_as_string(hide_password=False))) from error


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
        with typed_errors(engine), engine.connect() as connection:
            yield connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    finally:
        engine.dispose()


def row_at_fault(error: DBAPIError) -> str | None:
    """Return in one line why the database refuses the row itself, or None if the row is not to blame."""
    code = getattr(error.orig, "pgcode", None) or ""
    return _first_line(error) if code.startswith(_ROW_AT_FAULT) else None


def _psycopg2(url: str) -> URL:
    try:
        # Hosting services hand out "postgres://". The driver is our choice, not the URL's.
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except (ArgumentError, ValueError):  # the latter for a port that is not a number
        raise StorageError(
            "the database URL cannot be parsed: use postgresql://user:password@host:5432/database"
        ) from None
    if parsed.get_backend_name() != "postgresql":
        raise StorageError(
            f"{parsed.get_backend_name()} databases are not supported: use a URL such as postgresql://host/database"
        )
    return parsed.set(drivername="postgresql+psycopg2")


def _first_line(error: SQLAlchemyError) -> str:
    # Without the DETAIL below it, which contains the whole row.
    cause: object = (error.orig if isinstance(error, DBAPIError) else None) or error
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    return str(primary or str(cause).strip().split("\n", 1)[0])


def _typed(error: SQLAlchemyError, where: str) -> StorageError:
    code = getattr(getattr(error, "orig", None), "pgcode", None) or ""
    reason = f"{where}: {_first_line(error)}"
    if code in _SCHEMA_AT_FAULT:
        return SchemaMismatch(f"{reason}; run `earlybell db upgrade`")
    if code.startswith("42"):  # syntax error or access rule violation: a retry would fail in the same way
        return StorageError(reason)
    if isinstance(error, (DBAPIError, PoolTimeoutError)):
        return StorageUnavailable(reason)
    return StorageError(reason)
