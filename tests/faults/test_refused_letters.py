"""What the broker refuses to take holds up nothing, and does not repeat what was sent before it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest_asyncio

from earlybell.inference.pool.pool import Pool
from earlybell.streams.brokers import open_producer
from earlybell.streams.dead_letters import REASON, STAGE
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.integration.whole_pipeline import both_roles, messages, retries
from tests.own_topics import configure
from tests.streams.chunk_workers import committed, ends, publish, until


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[Pool]:
    async with Pool(ConstantScorer, ["cpu"]) as pool:
        yield pool


def story(number: int, **more: object) -> bytes:
    news = {"id": f"s{number}", "headline": "Acme wins", "published_at": "2026-01-05T09:30:00Z", **more}
    return json.dumps(news).encode()


async def test_signals_are_sent_once_while_their_windows_letter_is_refused(settings: Settings, pool: Pool) -> None:
    # A compacted topic refuses messages without a key.
    configure(settings, settings.dead_topic, cleanup_policy="compact")
    producer = open_producer(settings)
    for number in range(40):
        producer.send(settings.news_topic, key=b"k", value=story(number))
    producer.send(settings.news_topic, value=b"broken, and without a key", partition=0)
    producer.close()
    async with both_roles(settings, pool):
        await until(lambda: len(messages(settings, settings.sentiment_topic)) >= 40)
        before = retries()
        await until(lambda: retries() >= before + 4)
        assert messages(settings, settings.dead_topic) == []
        configure(settings, settings.dead_topic, cleanup_policy="delete")
        await until(lambda: committed(settings) == ends(settings))
    assert len(messages(settings, settings.sentiment_topic)) == 40
    assert [message.value for message in messages(settings, settings.dead_topic)] == [b"broken, and without a key"]


async def test_a_topic_that_takes_small_batches_only(settings: Settings, pool: Pool) -> None:
    configure(settings, settings.sentiment_topic, max_message_bytes="4000")
    configure(settings, settings.dead_topic, max_message_bytes="2000")
    long = story(40, symbols=[f"{number:064}" for number in range(100)])
    producer = open_producer(settings)
    for value in (*map(story, range(20)), long, *map(story, range(20, 40))):
        producer.send(settings.news_topic, key=b"k", value=value)
    producer.close()
    before = retries()
    async with both_roles(settings, pool):
        await until(lambda: committed(settings) == ends(settings))
        assert retries() == before
        signals = messages(settings, settings.sentiment_topic)
        assert sorted(json.loads(signal.value)["news_id"] for signal in signals) == sorted(f"s{n}" for n in range(40))
        # A second window knows the limit.
        publish(settings, [story(number) for number in range(41, 81)])
        await until(lambda: len(messages(settings, settings.sentiment_topic)) == 80)
    (letter,) = messages(settings, settings.dead_topic)
    headers = dict(letter.headers)
    assert (letter.value, headers[STAGE]) == (None, b"signal"), "the dead topic does not take it whole"
    assert b"more than topic" in headers[REASON[0]]


async def test_letters_with_long_headers_are_divided(settings: Settings, pool: Pool) -> None:
    configure(settings, settings.dead_topic, max_message_bytes="3000")
    producer = open_producer(settings)
    for length in (1400, 1600):
        producer.send(settings.news_topic, key=b"k", value=b"broken", headers=[("long", b"x" * length)])
    producer.close()
    before = retries()
    async with both_roles(settings, pool):
        await until(lambda: committed(settings) == ends(settings))
    letters = messages(settings, settings.dead_topic)
    assert [len(dict(letter.headers)["long"]) for letter in letters] == [1400, 1600]
    assert retries() == before
