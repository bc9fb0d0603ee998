"""Databases on the real server for this room: empty ones, and ones with the schema."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from earlybell.storage import migrations

MONDAY = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def engine_of(url: str, **options: Any) -> Engine:
    """Create an engine for the test itself, so that the code under test does not judge itself."""
    # A transaction that a test leaves open makes the next one fail instead of blocking it for ever.
    waits = {"options": "-c lock_timeout=20s"}
    return create_engine(make_url(url).set(drivername="postgresql+psycopg2"), connect_args=waits, **options)


@pytest.fixture(scope="module")
def empty_database(database_url: str) -> Iterator[Callable[[], str]]:
    """Creates empty databases on the server, and drops them at the end of the module."""
    server = engine_of(database_url, isolation_level="AUTOCOMMIT")
    names: list[str] = []

    def make() -> str:
        name = f"storage_{uuid.uuid4().hex[:12]}"
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        names.append(name)
        return make_url(database_url).set(database=name).render_as_string(hide_password=False)

    yield make
    with server.connect() as connection:
        for name in names:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(scope="module")
def migrated(empty_database: Callable[[], str]) -> str:
    """A database with the schema, for one module."""
    url = empty_database()
    migrations.upgrade(url)
    return url


@pytest.fixture
def database(migrated: str) -> Iterator[Engine]:
    """The same database as an engine, with empty tables."""
    engine = engine_of(migrated)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE news, signals"))
    yield engine
    engine.dispose()


def execute(address: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    with closing(psycopg2.connect(address)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)


def news_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a row of the news table; `number` selects the story."""
    moment = MONDAY + timedelta(seconds=number)
    return {
        "news_id": f"story-{number:06d}",
        "revision": 1,
        "headline": f"Northwind Foundries raises its outlook, part {number}",
        "body": None,
        "source": "Harbour Wire",
        "symbols": ["NWF", f"S{number % 7}"],
        "language": "en",
        "url": None,
        "published_at": moment,
        "ingested_at": moment,
        "topic": "news.raw",
        "partition": number % 4,
        "offset": number,
    } | changes


def signal_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a row of the signals table; `number` selects the story. Its id is made of the usual columns."""
    moment = MONDAY + timedelta(seconds=number)
    row = {
        "news_id": f"story-{number:06d}",
        "revision": 1,
        "symbols": ["NWF", f"S{number % 7}"],
        "source": "Harbour Wire",
        "text_hash": f"{number:032x}",
        "label": "positive",
        "score": 0.1 + 0.2,
        "probabilities": {"positive": 0.6, "neutral": 0.1, "negative": 1 / 3},
        "confidence": 0.6,
        "published_at": moment,
        "ingested_at": moment,
        "scored_at": moment + timedelta(milliseconds=20),
        "available_at": moment + timedelta(milliseconds=25),
        "queue_ms": 3.25,
        "inference_ms": 17.5,
        "model": "elbert-small",
        "model_revision": "4f1d",
        "policy": "dial=0.50",
        "dial": 0.5,
        "precision": "float32",
        "exit_depth": 2,
        "predicted_depth": 1.875,
        "depth_limit": 6,
        "tokens": 21,
        "tokens_kept": 14,
        "topic": "news.raw",
        "partition": number % 4,
        "offset": number,
    } | changes
    parts = (row["news_id"], row["revision"], row["model_revision"], row["policy"])
    return {"signal_id": "/".join(map(str, parts))} | row
