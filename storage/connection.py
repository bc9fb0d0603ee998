"""Creates SQLAlchemy engines from URLs, and turns SQLAlchemy's errors into typed ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from earlybell.storage import driver
from earlybell.storage.exceptions import StorageError, StorageUnavailable


def create(url: str, *, writes: bool = False) -> Engine:
    """Create an engine with at most two connections, one per table, which opens them when needed and reopens lost ones.

    Parameters
    ----------
    writes
        See `driver.connect`.

    Raises
    ------
    StorageError
        `url` is not the URL of a Postgres database.
    """
    driver.parse(url)
    return create_engine(
        "postgresql+psycopg2://",
        creator=lambda: driver.connect(url, writes=writes),
        pool_size=2,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,  # keeps the text of news out of tracebacks
    )


@contextmanager
def typed_errors(url: str) -> Iterator[None]:
    """Turn SQLAlchemy's and the driver's errors into `StorageUnavailable`, `SchemaMismatch` or `StorageError`."""
    try:
        yield
    except (SQLAlchemyError, psycopg2.Error) as error:
        raise _typed(error, driver.parse(url).address) from error


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


def _typed(error: Exception, where: str) -> StorageError:
    cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg2.Error) else error
    if isinstance(cause, (DBAPIError, PoolTimeoutError)):
        return StorageUnavailable(f"{where}: {driver.first_line(cause)}")
    return driver.typed(cause, where)
