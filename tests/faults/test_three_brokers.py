"""A cluster loses one broker after the other, and then two at once: nothing is lost, doubled or wrong."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest
from kafka.admin import KafkaAdminClient

from earlybell.inference.pool.pool import Pool
from earlybell.storage import migrations
from earlybell.streams.brokers import client_options
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.faults.account import account
from tests.faults.load import Load
from tests.faults.own_cluster import BROKERS, OwnCluster, own_cluster
from tests.integration.whole_pipeline import both_roles, count
from tests.own_topics import own_topics
from tests.streams.chunk_workers import until


@pytest.fixture(scope="module")
def cluster() -> Iterator[OwnCluster]:
    with own_cluster() as started:
        yield started


@pytest.fixture
def settings(cluster: OwnCluster, fresh_database: str) -> Settings:
    migrations.upgrade(fresh_database)
    return own_topics(cluster.bootstrap, database_url=fresh_database)


def test_topics_take_the_clusters_copies(settings: Settings) -> None:
    admin = KafkaAdminClient(**client_options(settings))
    try:
        described = admin.describe_topics([settings.news_topic, settings.sentiment_topic, settings.dead_topic])
    finally:
        admin.close()
    copies = [len(partition["replica_nodes"]) for topic in described for partition in topic["partitions"]]
    assert copies == [BROKERS] * len(copies) != []


@pytest.mark.timeout(1_200)
async def test_brokers_die_in_turn_and_together(cluster: OwnCluster, settings: Settings) -> None:
    load = Load(settings)
    publishing = threading.Thread(target=load.run)

    async def more_comes_through() -> None:
        wanted = count(settings, "signals") + 50
        await until(lambda: count(settings, "signals") >= wanted)

    async with Pool(ConstantScorer, ["cpu"]) as pool, both_roles(settings, pool):
        publishing.start()
        try:
            await more_comes_through()
            for broker, number in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]):
                await asyncio.to_thread(cluster.end, number, broker)
                await more_comes_through()  # the other two go on
                await asyncio.to_thread(cluster.start, broker)
            # One copy is left, which is fewer than an acknowledgement needs, and one controller, which is no majority.
            await asyncio.to_thread(cluster.end, signal.SIGKILL, 0, 1)
            await asyncio.sleep(3.0)
            await asyncio.to_thread(cluster.start, 0, 1)
            await more_comes_through()
        finally:
            load.stop()
            await asyncio.to_thread(cluster.start_missing)  # the load waits for its acknowledgements
            await asyncio.to_thread(publishing.join)
        await until(lambda: bool(account(settings, load.given)))
