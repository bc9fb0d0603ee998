"""Messages of a transaction count when it is committed, and not at all if it is aborted."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer

from earlybell.streams.settings import Settings
from tests.streams.chunk_workers import acknowledge, committed, ends, publish, until, working


async def test_only_committed_transactions_are_read(settings: Settings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, transactional_id=settings.group_prefix)
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(settings.news_topic, b"aborted", partition=0)
        await producer.abort_transaction()
        await producer.begin_transaction()
        await producer.send_and_wait(settings.news_topic, b"committed", partition=0)
        async with working(settings, acknowledge) as worker:
            await asyncio.to_thread(publish, settings, [b"elsewhere"], partition=1)
            await until(lambda: b"elsewhere" in worker.values)
            assert worker.values == [b"elsewhere"]
            await producer.commit_transaction()
            await asyncio.to_thread(publish, settings, [b"after"], partition=0)
            await until(lambda: committed(settings) == ends(settings))
    finally:
        await producer.stop()
    assert worker.values == [b"elsewhere", b"committed", b"after"]
