"""A database whose disk is full and one that ends transactions in a deadlock: everything is stored once it can be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from earlybell.deploy.local import postgres, processes
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import Patience
from earlybell.inference.pool.pool import Pool
from earlybell.storage import migrations
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.faults.deadlock import deadlock
from tests.faults.full_disk import Disk, NoDisk, disk
from tests.faults.load import stories
from tests.integration.whole_pipeline import both_roles, count, messages, retries
from tests.own_topics import own_topics
from tests.streams.chunk_workers import publish, until

STORIES = 2_000


@pytest.fixture
def small_disk() -> Iterator[Disk]:
    try:
        with disk(megabytes=512) as mounted:
            yield mounted
    except NoDisk as error:
        pytest.skip(str(error))


@contextmanager
def server(home: Path) -> Iterator[Server]:
    """Start a Postgres, and stop the one that runs on its data at the end."""
    started: list[Server] = []
    try:
        yield postgres.start(home, started.append, Patience(90), lasting=False)
    finally:
        for pid in processes.find(postgres.mark(home)):
            processes.stop(pid, postgres.mark(home), started[0].stop_signal)


def everything_stored(settings: Settings, number: int) -> bool:
    return count(settings, "news") == count(settings, "signals") == number


async def test_tables_on_a_full_disk(kafka_bootstrap: str, small_disk: Disk, tmp_path: Path) -> None:
    with server(tmp_path) as database:
        small_disk.hold_the_tables_of(database.address)
        await fill_and_clear(kafka_bootstrap, database.address, small_disk)


async def fill_and_clear(kafka_bootstrap: str, url: str, on: Disk) -> None:
    migrations.upgrade(url)
    settings = own_topics(kafka_bootstrap, database_url=url)
    async with Pool(ConstantScorer, ["cpu"]) as pool, both_roles(settings, pool):
        publish(settings, stories(0, 100))
        await until(lambda: everything_stored(settings, 100))
        before = retries("StorageUnavailable")
        on.fill()
        publish(settings, stories(100, STORIES))
        await until(lambda: retries("StorageUnavailable") > before, 120)
        assert count(settings, "news") < STORIES
        on.clear()
        await until(lambda: everything_stored(settings, STORIES), 120)
    assert messages(settings, settings.dead_topic) == []


async def test_a_transaction_that_a_deadlock_ends(settings: Settings) -> None:
    async with Pool(ConstantScorer, ["cpu"]) as pool, both_roles(settings, pool):
        publish(settings, stories(0, 100))
        await until(lambda: everything_stored(settings, 100))
        before = retries("StorageUnavailable")
        other = asyncio.create_task(asyncio.to_thread(deadlock, settings.database, ("s150", 1), 30.0))
        await asyncio.sleep(0.5)
        publish(settings, stories(100, 200))
        assert await other, "no writer came"
        await until(lambda: everything_stored(settings, 200))
        await until(lambda: deadlocks(settings) > 0)
        assert retries("StorageUnavailable") > before
    assert messages(settings, settings.dead_topic) == []


def deadlocks(settings: Settings) -> int:
    """Return how many there have been in this database."""
    with closing(psycopg2.connect(settings.database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int((cursor.fetchone() or (0,))[0])
