"""Both roles in a test's event loop, and what they leave on the topics and in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg2
from kafka import KafkaConsumer, TopicPartition

from earlybell.inference.pool.pool import Pool
from earlybell.storage.writer import Writer
from earlybell.streams import app, metrics
from earlybell.streams.brokers import client_options
from earlybell.streams.settings import Settings


@asynccontextmanager
async def running(*pipelines: app.Pipeline) -> AsyncIterator[None]:
    """Run the pipelines; on exit they stop as they do on SIGTERM."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(app.run_pipeline(pipeline, stop)) for pipeline in pipelines]
    try:
        yield
    finally:
        stop.set()
        codes = await asyncio.gather(*tasks)
    assert codes == [0] * len(pipelines)


@asynccontextmanager
async def both_roles(settings: Settings, pool: Pool) -> AsyncIterator[tuple[app.Pipeline, app.Pipeline]]:
    """Run the scoring and the storing role."""
    with Writer(settings.database) as news, Writer(settings.database) as signals:
        scoring, storing = app.scoring_pipeline(settings, pool), app.storing_pipeline(settings, news, signals)
        async with running(scoring, storing):
            yield scoring, storing


def messages(settings: Settings, topic: str) -> list[Any]:
    """Return every message that the topic holds now."""
    consumer = KafkaConsumer(**client_options(settings), enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        partitions = [TopicPartition(topic, n) for n in range(settings.partitions)]
        consumer.assign(partitions)
        ends, messages = consumer.end_offsets(partitions), []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for records in consumer.poll(timeout_ms=200).values():
                messages += records
        return messages
    finally:
        consumer.close()


def query(settings: Settings, sql: str, *arguments: Any) -> Sequence[tuple[Any, ...]]:
    """Return the rows of a query."""
    connection = psycopg2.connect(settings.database)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return cursor.fetchall()
    finally:
        connection.close()


def count(settings: Settings, table: str) -> int:
    """Return the number of rows of a table."""
    return int(query(settings, f"SELECT count(*) FROM {table}")[0][0])


def retries(cause: str = "") -> float:
    """Return how many attempts at a window have failed in this process, for one cause or all of them."""
    [family] = metrics.RETRIES.collect()
    samples = [sample for sample in family.samples if sample.name.endswith("_total")]
    return sum(sample.value for sample in samples if cause in {"", sample.labels["cause"]})
