"""Feeds may compress with any of Kafka's codecs, and both of our clients read them."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest
from aiokafka import AIOKafkaConsumer
from kafka import KafkaConsumer, KafkaProducer


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
async def test_every_codec_arrives_at_both_clients(kafka_bootstrap: str, topic_prefix: str, codec: str) -> None:
    topic, value = f"{topic_prefix}news", b"Meridian Freight raises its full-year outlook. " * 100
    with closing(KafkaProducer(bootstrap_servers=kafka_bootstrap, compression_type=codec)) as producer:
        producer.send(topic, value).get(30)

    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 30)
    finally:
        await consumer.stop()
    assert record.value == value

    with closing(
        KafkaConsumer(
            topic, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
        )
    ) as synchronous:
        assert next(synchronous).value == value
