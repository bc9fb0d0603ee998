"""A dead letter that the broker refuses, or cannot take yet, does not repeat what was sent before it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest_asyncio
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from earlybell.inference.pool.pool import Pool
from earlybell.streams.brokers import client_options, open_producer
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.integration.whole_pipeline import both_roles, messages, retries
from tests.streams.chunk_workers import committed, ends, until


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(ConstantScorer, ["cpu"]) as pool:
        yield pool


def set_cleanup_policy(settings: Settings, policy: str) -> None:
    admin = KafkaAdminClient(**client_options(settings))
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.dead_topic, {"cleanup.policy": policy})])
    admin.close()


async def test_signals_are_sent_once_while_their_windows_letter_is_refused(settings: Settings, pool: Pool) -> None:
    # A compacted topic refuses messages without a key.
    set_cleanup_policy(settings, "compact")
    producer = open_producer(settings)
    for number in range(40):
        story = {"id": f"s{number}", "headline": "Acme wins", "published_at": "2026-01-05T09:30:00Z"}
        producer.send(settings.news_topic, key=b"k", value=json.dumps(story).encode())
    producer.send(settings.news_topic, value=b"broken, and without a key", partition=0)
    producer.close()
    async with both_roles(settings, pool):
        await until(lambda: len(messages(settings, settings.sentiment_topic)) >= 40)
        before = retries()
        await until(lambda: retries() >= before + 4)
        assert messages(settings, settings.dead_topic) == []
        set_cleanup_policy(settings, "delete")
        await until(lambda: committed(settings) == ends(settings))
    assert len(messages(settings, settings.sentiment_topic)) == 40
    assert [message.value for message in messages(settings, settings.dead_topic)] == [b"broken, and without a key"]
