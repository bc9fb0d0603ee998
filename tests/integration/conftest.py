"""The whole pipeline: topics and a database for each test, and the shipped model on a pool of worker processes."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from earlybell.inference.engine import open_engine
from earlybell.inference.pool.pool import Pool
from earlybell.storage import migrations
from earlybell.streams.settings import Settings
from tests.own_topics import own_topics


@pytest.fixture
def settings(kafka_bootstrap: str, fresh_database: str) -> Settings:
    """Empty topics and an empty, migrated database."""
    migrations.upgrade(fresh_database)
    return own_topics(kafka_bootstrap, database_url=fresh_database)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[Pool]:
    """One CPU worker with the shipped checkpoint."""
    engine = functools.partial(open_engine, checkpoint=None, dial=None, precision="float32", threads=2)
    pool = Pool(engine, ["cpu"])
    await pool.start()
    yield pool
    await pool.stop()
