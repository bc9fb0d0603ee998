"""More partitions for a topic under load: the roles take them up, and nothing on them is lost."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest
from kafka import KafkaAdminClient

from earlybell.streams import app
from earlybell.streams.brokers import client_options
from earlybell.streams.settings import Settings
from tests.own_topics import own_topics
from tests.streams.chunk_workers import acknowledge, committed, ends, publish, until, working


@pytest.fixture
def settings(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(app, "METADATA_AGE_S", 0.5)
    return own_topics(kafka_bootstrap)


async def test_new_partitions_are_read_from_their_start(settings: Settings) -> None:
    more = settings.model_copy(update={"partitions": settings.partitions + 3})
    async with working(settings, acknowledge) as worker:
        await asyncio.to_thread(publish, settings, [b"before %d" % n for n in range(200)])
        await until(lambda: len(worker.values) == 200)
        with closing(KafkaAdminClient(**client_options(settings))) as admin:
            admin.create_partitions({settings.news_topic: more.partitions})
        await asyncio.to_thread(publish, settings, [b"after %d" % n for n in range(200)])
        await until(lambda: len(worker.values) >= 400)
        await until(lambda: committed(more) == ends(more))
    assert sum(end > 0 for end in ends(more).values()) == more.partitions, "every partition has some"
    assert set(worker.values) == {b"%s %d" % (name, n) for name in (b"before", b"after") for n in range(200)}
