"""A topic that is deleted and recreated under both roles: what was stored stays, and what follows is processed."""

from __future__ import annotations

from contextlib import closing

import pytest
from kafka import KafkaAdminClient

from earlybell.inference.pool.pool import Pool
from earlybell.streams.brokers import client_options
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.topics import create_topics
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.faults.load import stories
from tests.integration.whole_pipeline import both_roles, messages, query
from tests.streams.chunk_workers import committed, ends, publish, until

#: More on the old topic than on the new one, so that the old positions lie beyond the new end.
BEFORE, AFTER = 1_000, 300


@pytest.mark.parametrize("which", ["news", "sentiment"])
async def test_a_topic_made_again_under_both_roles(settings: Settings, which: str) -> None:
    topic = {"news": settings.news_topic, "sentiment": settings.sentiment_topic}[which]
    async with Pool(ConstantScorer, ["cpu"]) as pool, both_roles(settings, pool):
        publish(settings, stories(0, BEFORE))
        await until(lambda: stored(settings) == ids(BEFORE), 120)
        await until(lambda: worked_off(settings), 120)
        with closing(KafkaAdminClient(**client_options(settings))) as admin:
            admin.delete_topics([topic])
        create_topics(settings)
        publish(settings, stories(BEFORE, BEFORE + AFTER))
        await until(lambda: stored(settings) == ids(BEFORE + AFTER), 120)
        await until(lambda: worked_off(settings), 120)
    signalled = {message.key for message in messages(settings, settings.sentiment_topic)}
    again = {b"s%d" % n for n in range(BEFORE, BEFORE + AFTER)}
    assert signalled == (again if which == "sentiment" else again | {b"s%d" % n for n in range(BEFORE)})
    assert messages(settings, settings.dead_topic) == []


def stored(settings: Settings) -> tuple[list[str], list[str]]:
    """Return the ids in both tables, with repetitions."""
    news, signals = (query(settings, f"SELECT news_id FROM {table} ORDER BY 1") for table in ("news", "signals"))
    return [row[0] for row in news], [row[0] for row in signals]


def ids(number: int) -> tuple[list[str], list[str]]:
    expected = sorted(f"s{n}" for n in range(number))
    return expected, expected


def worked_off(settings: Settings) -> bool:
    read = [(role, settings.news_topic) for role in Role] + [(Role.STORING, settings.sentiment_topic)]
    return all(committed(settings, role, topic) == ends(settings, topic) for role, topic in read)
