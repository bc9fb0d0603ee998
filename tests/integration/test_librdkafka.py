"""Clients built on librdkafka (Python, Go, .NET, Node, Rust): news in with any codec, signals out as plain records."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer

from earlybell.inference.pool.pool import Pool
from earlybell.streams.records import decode_signal
from earlybell.streams.settings import Settings
from tests.integration.test_pipeline import as_bytes, item
from tests.integration.whole_pipeline import both_roles, count
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def publish(settings: Settings, codec: str) -> None:
    """Publish a story with a key and headers, and one without: librdkafka has a partitioner of its own."""
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "compression.type": codec,
            "enable.idempotence": codec != "none",
        }
    )
    keyed, bare = f"{codec}-keyed", f"{codec}-bare"
    producer.produce(settings.news_topic, as_bytes(item(keyed)), keyed.encode(), headers={"trace": b"00-4bf9"})
    producer.produce(settings.news_topic, as_bytes(item(bare, "Acme Robotics files for bankruptcy")))
    assert producer.flush(PATIENCE_S) == 0


def consume(settings: Settings, number: int) -> dict[str, str]:
    """Return the labels of this many signals, by news id, as a strategy with a group of its own gets them."""
    options = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "group.id": f"{settings.group_prefix}-strategy",
        "auto.offset.reset": "earliest",
    }
    labels: dict[str, str] = {}
    deadline = time.monotonic() + PATIENCE_S
    with closing(Consumer(options)) as consumer:
        consumer.subscribe([settings.sentiment_topic])
        while len(labels) < number and time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            assert message.error() is None
            signal = decode_signal(message.value() or b"")
            assert message.key() == signal.news_id.encode()
            labels[signal.news_id] = signal.label
    return labels


async def test_librdkafka_publishes_news_and_reads_signals(settings: Settings, pool: Pool) -> None:
    async with both_roles(settings, pool):
        for codec in CODECS:
            await asyncio.to_thread(publish, settings, codec)
        labels = await asyncio.to_thread(consume, settings, 2 * len(CODECS))
        await until(lambda: count(settings, "news") == count(settings, "signals") == 2 * len(CODECS))
    expected = {f"{codec}-keyed": "positive" for codec in CODECS} | {f"{codec}-bare": "negative" for codec in CODECS}
    assert labels == expected
