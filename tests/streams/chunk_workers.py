"""Faust apps on the chunk transport, run inside a test's event loop against the real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from earlybell.streams import app as pipeline_app
from earlybell.streams.brokers import client_options, open_producer
from earlybell.streams.fetching import Unreadable
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.transport import Chunk, ChunkSchema
from tests.patience import PATIENCE_S

Take = Callable[[Chunk], Awaitable[None]]


class ChunkWorker:
    """An app with one agent, which records every chunk and passes it to `take`."""

    def __init__(self, settings: Settings, take: Take) -> None:
        self.chunks: list[Chunk] = []
        self.app = pipeline_app._app(Role.SCORING, settings)
        self.stop = asyncio.Event()

        @self.app.agent(self.app.topic(settings.news_topic, schema=ChunkSchema()), concurrency=1)
        async def take_chunks(chunks: Any) -> None:
            async for chunk in chunks:
                self.chunks.append(chunk)
                await take(chunk)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """(partition, offset) of every message that arrived, in order of arrival."""
        return [(record.partition, record.offset) for chunk in self.chunks for record in chunk.records]

    @property
    def values(self) -> list[bytes]:
        return [record.value for record in self.records if not isinstance(record, Unreadable)]

    @property
    def unreadable(self) -> list[Unreadable]:
        return [record for record in self.records if isinstance(record, Unreadable)]

    @property
    def records(self) -> list[Any]:
        """Every message that arrived, in order of arrival."""
        return [record for chunk in self.chunks for record in chunk.records]


@asynccontextmanager
async def working(settings: Settings, take: Take) -> AsyncIterator[ChunkWorker]:
    """Run a worker; on exit it stops as it does on SIGTERM."""
    worker = ChunkWorker(settings, take)
    pipeline = pipeline_app.Pipeline(worker.app, (), dict)
    running = asyncio.create_task(pipeline_app.run_pipeline(pipeline, worker.stop))
    try:
        yield worker
    finally:
        worker.stop.set()
        await running


async def acknowledge(chunk: Chunk) -> None:
    chunk.acknowledge()


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a broker or another task to fulfil a condition; fail the test if it never does."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (the condition is often about Kafka, which sets no event)
            await asyncio.sleep(0.02)


def publish(settings: Settings, values: Iterable[bytes], *, partition: int | None = None) -> None:
    producer: KafkaProducer = open_producer(settings)
    for number, value in enumerate(values):
        producer.send(settings.news_topic, key=str(number).encode(), value=value, partition=partition)
    producer.flush()
    producer.close()


def committed(settings: Settings, role: str = Role.SCORING, topic: str | None = None) -> dict[int, int]:
    """Return the group's committed offset of each partition, or 0 if there is none."""
    consumer = KafkaConsumer(
        **client_options(settings), group_id=settings.consumer_group(role), enable_auto_commit=False
    )
    try:
        name = topic or settings.news_topic
        return {n: consumer.committed(TopicPartition(name, n)) or 0 for n in range(settings.partitions)}
    finally:
        consumer.close()


def ends(settings: Settings, topic: str | None = None) -> dict[int, int]:
    """Return the end offset of each partition."""
    consumer = KafkaConsumer(**client_options(settings), enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic or settings.news_topic, n) for n in range(settings.partitions)]
        return {partition.partition: end for partition, end in consumer.end_offsets(partitions).items()}
    finally:
        consumer.close()
