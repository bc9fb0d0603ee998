"""How the database is reached, and what its refusals mean: engines from URLs, and driver errors as typed ones."""

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
    """Make an engine of at most two connections (one a table): made when first needed, and again when they were lost.

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
        hide_parameters=True,  # the text of news belongs in no traceback
        connect_args={
            "application_name": "earlybell",
            "connect_timeout": 10,
            # A peer that vanished without a word (power, network) is noticed after half a minute, not after hours.
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )


def masked(url: str) -> str:
    """Say where a URL points without its password or options: for messages and logs."""
    found = _psycopg2(url)
    host, port = found.host or found.query.get("host") or "localhost", found.port or found.query.get("port")
    user = f"{found.username}@" if found.username else ""
    return f"postgresql://{user}{host}{f':{port}' if port else ''}/{found.database or ''}"


@contextmanager
def typed_errors(engine: Engine) -> Iterator[None]:
    """Turn what the driver raises into `StorageUnavailable`, `SchemaMismatch` or `StorageError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _typed(error, masked(engine.url.render_as_string(hide_password=False))) from error


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """Open a read-only connection on which every query sees the same snapshot of the database.

    For `storage.asof`. Raises `StorageUnavailable` where the database cannot be reached.
    """
    engine = create(url)
    try:
        with typed_errors(engine), engine.connect() as connection:
            yield connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    finally:
        engine.dispose()


def row_at_fault(error: DBAPIError) -> str | None:
    """Why the database refuses the row itself, in one line; None where the row is not to blame."""
    code = getattr(error.orig, "pgcode", None) or ""
    return _first_line(error) if code.startswith(_ROW_AT_FAULT) else None


def _psycopg2(url: str) -> URL:
    try:
        # "postgres://" is what hosting services hand out; the driver is ours to choose, not the URL's.
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise StorageError(
            "the database URL cannot be read: it should be postgresql://user:password@host:5432/database"
        ) from None
    if parsed.get_backend_name() != "postgresql":
        raise StorageError(
            f"a {parsed.get_backend_name()} database will not do: the URL should be postgresql://host/database"
        )
    return parsed.set(drivername="postgresql+psycopg2")


def _first_line(error: SQLAlchemyError) -> str:
    # Not the DETAIL below it: that holds the whole row.
    cause: object = (error.orig if isinstance(error, DBAPIError) else None) or error
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    return str(primary or str(cause).strip().split("\n", 1)[0])


def _typed(error: SQLAlchemyError, where: str) -> StorageError:
    code = getattr(getattr(error, "orig", None), "pgcode", None) or ""
    reason = f"{where}: {_first_line(error)}"
    if code in _SCHEMA_AT_FAULT:
        return SchemaMismatch(f"{reason}; run `earlybell db upgrade`")
    if code.startswith("42"):  # syntax error or access rule violation: the same call would fail the same way
        return StorageError(reason)
    if isinstance(error, (DBAPIError, PoolTimeoutError)):
        return StorageUnavailable(reason)
    return StorageError(reason)
