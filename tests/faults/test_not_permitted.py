"""Roles that the broker lets do less than they need, for a while or for ever, and a group that takes its time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from earlybell.deploy.local import kafka, stack
from earlybell.inference.pool.pool import Pool
from earlybell.storage import migrations
from earlybell.streams import app
from earlybell.streams.brokers import client_options
from earlybell.streams.exceptions import TopicError
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.topics import check_topics
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.integration.whole_pipeline import count, messages
from tests.own_topics import as_environment, configure, own_topics
from tests.streams.chunk_workers import publish, until

AUTHORIZER = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings for a broker that has rules about who may do what."""
    write = kafka._configure

    def with_rules(directory: Path) -> int:
        port = write(directory)
        with (directory / "server.properties").open("a") as file:
            file.write(AUTHORIZER)
        return port

    with patch.object(kafka, "_configure", with_rules), stack.running(tmp_path_factory.mktemp("guarded")) as servers:
        migrations.upgrade(servers.database_url)
        yield own_topics(servers.kafka_bootstrap, database_url=servers.database_url)


@contextmanager
def ruled(settings: Settings, rules: Sequence[ACL]) -> Iterator[None]:
    """Hold rules for everybody. Once there is one for a resource, what none of them allows there is forbidden."""
    with closing(KafkaAdminClient(**client_options(settings))) as admin:
        admin.create_acls(rules)
        try:
            yield
        finally:
            for rule in rules:
                pattern = rule.resource_pattern
                these = ResourcePatternFilter(pattern.resource_type, pattern.resource_name, pattern.pattern_type)
                admin.delete_acls([ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, these)])


def allow(operation: ACLOperation, kind: ResourceType, name: str) -> ACL:
    return ACL("User:ANONYMOUS", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))


def forbid(operation: ACLOperation, kind: ResourceType, name: str) -> list[ACL]:
    """Return rules that forbid one thing and allow all else."""
    denied = ACL("User:ANONYMOUS", "*", operation, ACLPermissionType.DENY, ResourcePattern(kind, name))
    return [denied, allow(ACLOperation.ALL, kind, name)]


def stories(first: int, last: int) -> list[bytes]:
    news = ({"id": f"s{n}", "headline": f"Acme raises its outlook to {n}"} for n in range(first, last))
    return [json.dumps({**item, "published_at": "2026-01-05T09:30:00Z"}).encode() for item in news]


@contextmanager
def running(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Run both roles as ``earlybell run`` does."""
    command = [sys.executable, "-m", "earlybell.streams.cli", "run"]
    process = subprocess.Popen(command, env={**os.environ, **as_environment(settings)}, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0


async def test_configurations_that_may_not_be_read_are_not_taken_for_wrong(guarded: Settings) -> None:
    check_topics(guarded)
    configure(guarded, guarded.sentiment_topic, message_timestamp_type="CreateTime")
    with ruled(guarded, forbid(ACLOperation.DESCRIBE_CONFIGS, ResourceType.TOPIC, guarded.news_topic)):
        with pytest.raises(TopicError, match=guarded.sentiment_topic):  # which may be read
            check_topics(guarded)
        configure(guarded, guarded.sentiment_topic, message_timestamp_type="LogAppendTime")
        check_topics(guarded)


async def test_the_rights_that_the_documentation_names_are_enough(guarded: Settings) -> None:
    read, write = ACLOperation.READ, ACLOperation.WRITE
    rules = [
        allow(read, ResourceType.TOPIC, guarded.news_topic),
        allow(write, ResourceType.TOPIC, guarded.news_topic),  # the feed's, which is this test
        allow(write, ResourceType.TOPIC, guarded.sentiment_topic),
        allow(read, ResourceType.TOPIC, guarded.sentiment_topic),
        allow(write, ResourceType.TOPIC, guarded.dead_topic),
        *(allow(read, ResourceType.GROUP, guarded.consumer_group(role)) for role in Role),
        *forbid(ACLOperation.CREATE, ResourceType.CLUSTER, "kafka-cluster"),
    ]
    before = count(guarded, "signals")
    with ruled(guarded, rules), running(guarded):
        publish(guarded, stories(before, before + 50))
        await until(lambda: count(guarded, "signals") == before + 50, 60)


async def test_rights_that_are_withdrawn_and_come_back_cost_time_only(guarded: Settings) -> None:
    """The group's, which aiokafka tells only who asks; and to read and to write."""
    group = guarded.consumer_group(Role.SCORING)
    withdrawn = [
        forbid(ACLOperation.READ, ResourceType.GROUP, group),
        forbid(ACLOperation.READ, ResourceType.TOPIC, guarded.news_topic),
        forbid(ACLOperation.WRITE, ResourceType.TOPIC, guarded.sentiment_topic),
    ]
    published = count(guarded, "signals")
    with running(guarded) as roles:
        publish(guarded, stories(published, published := published + 50))
        await until(lambda: count(guarded, "signals") == published, 60)
        for rules in withdrawn:
            with ruled(guarded, rules):
                await asyncio.sleep(4)  # a member of the group is one until it commits
                publish(guarded, stories(published, published := published + 50))
                await asyncio.sleep(4)
                assert count(guarded, "signals") == published - 50
                assert roles.poll() is None
            await until(lambda expected=published: count(guarded, "signals") == expected, 90)  # type: ignore[misc]
    assert len({message.key for message in messages(guarded, guarded.sentiment_topic)}) == published
    assert not messages(guarded, guarded.dead_topic)


async def test_a_stop_does_not_wait_for_a_group_that_takes_its_time(settings: Settings) -> None:
    """Another member does not answer, and the coordinator waits for it for minutes."""
    other = KafkaConsumer(
        settings.news_topic,
        **client_options(settings),
        group_id=settings.consumer_group(Role.SCORING),
        partition_assignment_strategy=[RoundRobinPartitionAssignor],
        max_poll_interval_ms=300_000,
    )
    with closing(other):
        await asyncio.to_thread(lambda: [other.poll(timeout_ms=500) for _ in range(20) if not other.assignment()])
        assert other.assignment()
        stop = asyncio.Event()
        async with Pool(ConstantScorer, ["cpu"]) as pool:
            role = asyncio.create_task(app.run_pipeline(app.scoring_pipeline(settings, pool), stop))
            await asyncio.sleep(3)
            stop.set()
            assert await asyncio.wait_for(role, 30) == 0
