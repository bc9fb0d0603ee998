"""Two lanes and expired news on a real broker and database: everything is scored or accounted for, once."""

from __future__ import annotations

import json

import pytest

from earlybell.inference.pool.pool import Pool
from earlybell.streams import dead_letters
from earlybell.streams.records import decode_signal
from earlybell.streams.settings import Settings
from earlybell.streams.topics import create_topics
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.integration.whole_pipeline import both_roles, count, messages
from tests.own_topics import configure
from tests.streams.chunk_workers import committed, ends, publish, until


def stories(name: str, number: int) -> list[bytes]:
    common = {"headline": "Acme raises its outlook", "published_at": "2026-01-05T09:30:00Z"}
    return [json.dumps({"id": f"{name}-{n}", **common}).encode() for n in range(number)]


@pytest.fixture
def two_lanes(settings: Settings) -> Settings:
    """Settings with a backfill topic, which exists."""
    lanes = settings.model_copy(update={"backfill_topic": f"{settings.news_topic}.backfill"})
    create_topics(lanes)
    return lanes


def backfill(settings: Settings, values: list[bytes]) -> None:
    assert settings.backfill_topic is not None
    publish(settings.model_copy(update={"news_topic": settings.backfill_topic}), values)


async def test_both_lanes_are_scored_and_stored(two_lanes: Settings) -> None:
    backfill(two_lanes, stories("old", 700))
    publish(two_lanes, stories("new", 300))
    async with Pool(ConstantScorer, ["cpu"]) as pool, both_roles(two_lanes, pool):
        await until(lambda: count(two_lanes, "signals") == count(two_lanes, "news") == 1_000)
        for topic in two_lanes.news_topics:
            await until(lambda topic=topic: committed(two_lanes, topic=topic) == ends(two_lanes, topic))  # type: ignore[misc]
    signals = [decode_signal(message.value) for message in messages(two_lanes, two_lanes.sentiment_topic)]
    assert {signal.news_id for signal in signals if signal.topic == two_lanes.backfill_topic} == {
        f"old-{n}" for n in range(700)
    }
    assert len(signals) == 1_000


@pytest.mark.parametrize("expired_news", ["skip", "defer"])
async def test_expired_news_is_skipped_or_deferred_and_fresh_is_not(two_lanes: Settings, expired_news: str) -> None:
    def expiring(after_s: float) -> Settings:
        return two_lanes.model_copy(update={"expire_after_s": after_s, "expired_news": expired_news})

    deferred = 200 if expired_news == "defer" else 0
    publish(two_lanes, stories("old", 200))
    async with Pool(ConstantScorer, ["cpu"]) as pool:
        async with both_roles(expiring(0.001), pool):
            await until(lambda: committed(two_lanes) == ends(two_lanes))
        publish(two_lanes, stories("new", 50))
        async with both_roles(expiring(3_600), pool):
            await until(lambda: count(two_lanes, "signals") == deferred + 50)
            await until(lambda: count(two_lanes, "news") == 250)
    letters = [dict(message.headers) for message in messages(two_lanes, two_lanes.dead_topic)]
    signals = [decode_signal(message.value) for message in messages(two_lanes, two_lanes.sentiment_topic)]
    assert [letter[dead_letters.STAGE] for letter in letters] == [b"expired"] * (200 - deferred)
    topics = {name: {signal.topic for signal in signals if signal.news_id.startswith(name)} for name in ("old", "new")}
    assert topics == {"old": {two_lanes.backfill_topic} if deferred else set(), "new": {two_lanes.news_topic}}


async def test_deferred_news_that_its_topic_does_not_take_is_a_dead_letter(two_lanes: Settings) -> None:
    assert two_lanes.backfill_topic is not None
    configure(two_lanes, two_lanes.backfill_topic, max_message_bytes="1000")
    long = {"id": "long", "headline": "Acme raises", "body": "x" * 2_000, "published_at": "2026-01-05T09:30:00Z"}
    publish(two_lanes, [*stories("old", 40), json.dumps(long).encode()])
    expiring = two_lanes.model_copy(update={"expire_after_s": 0.001, "expired_news": "defer"})
    async with Pool(ConstantScorer, ["cpu"]) as pool, both_roles(expiring, pool):
        await until(lambda: committed(two_lanes) == ends(two_lanes))
        await until(lambda: len(messages(two_lanes, two_lanes.sentiment_topic)) >= 40)
    (letter,) = messages(two_lanes, two_lanes.dead_topic)
    assert (json.loads(letter.value), dict(letter.headers)[dead_letters.STAGE]) == (long, b"expired")
