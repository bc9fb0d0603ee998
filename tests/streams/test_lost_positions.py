"""A position that does not exist on the broker: the partition is opened again, loudly, and nothing stops for ever."""

from __future__ import annotations

from contextlib import closing

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from earlybell.streams import metrics
from earlybell.streams.brokers import client_options
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.topics import create_topics
from tests.streams.chunk_workers import acknowledge, committed, ends, publish, until, working


async def test_a_committed_offset_beyond_the_end_of_the_log(settings: Settings) -> None:
    """A power cut or an unclean election loses the end of a log, but not the group's offsets."""
    publish(settings, (str(n).encode() for n in range(100)), partition=0)
    commit(settings, 0, 1_000)
    before = reopened("shortened")
    async with working(settings, acknowledge) as worker:
        await until(lambda: committed(settings) == ends(settings))
    assert worker.app.crash_reason is None
    assert [int(value) for value in worker.values] == list(range(100))
    assert reopened("shortened") == before + 1


async def test_a_topic_made_again_under_a_running_worker(settings: Settings) -> None:
    publish(settings, (str(n).encode() for n in range(1_000)), partition=0)
    async with working(settings, acknowledge) as worker:
        await until(lambda: committed(settings)[0] == 1_000)
        make_again(settings)
        publish(settings, (b"again-%d" % n for n in range(100)), partition=0)
        await until(lambda: len(worker.values) >= 1_100)
        await until(lambda: committed(settings) == ends(settings))
        publish(settings, [b"later"], partition=0)
        await until(lambda: worker.values[-1] == b"later")
        await until(lambda: committed(settings) == ends(settings))
    assert worker.app.crash_reason is None
    assert set(worker.values[1_000:]) == {*(b"again-%d" % n for n in range(100)), b"later"}


async def test_messages_that_expired_unread(settings: Settings) -> None:
    publish(settings, (str(n).encode() for n in range(100)), partition=0)
    commit(settings, 0, 10)
    with closing(KafkaAdminClient(**client_options(settings))) as admin:
        admin.delete_records({TopicPartition(settings.news_topic, 0): 50})
    before = reopened("expired")
    async with working(settings, acknowledge) as worker:
        await until(lambda: committed(settings) == ends(settings))
    assert [int(value) for value in worker.values] == list(range(50, 100))
    assert reopened("expired") == before + 1


def reopened(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("earlybell_partitions_reopened_total", {"reason": reason}) or 0.0


def commit(settings: Settings, partition: int, offset: int) -> None:
    group = settings.consumer_group(Role.SCORING)
    with closing(KafkaConsumer(**client_options(settings), group_id=group, enable_auto_commit=False)) as consumer:
        tp = TopicPartition(settings.news_topic, partition)
        consumer.assign([tp])
        consumer.commit({tp: OffsetAndMetadata(offset, "", -1)})
        assert consumer.committed(tp) == offset


def make_again(settings: Settings) -> None:
    """Delete the news topic and create it again, faster than a client notices."""
    with closing(KafkaAdminClient(**client_options(settings))) as admin:
        admin.delete_topics([settings.news_topic])
    create_topics(settings)
