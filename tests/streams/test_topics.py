"""The topics that we create, and those that exist already, on a real broker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import closing

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

from earlybell.inference.pool.pool import Pool
from earlybell.streams import app, dead_letters, topics
from earlybell.streams.brokers import client_options
from earlybell.streams.exceptions import CommandError, TopicError
from earlybell.streams.exit_codes import USER_ERROR
from earlybell.streams.settings import Settings, load_settings
from earlybell.streams.topics import check_topics, create_topics
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.integration.whole_pipeline import messages, running
from tests.own_topics import as_environment
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import committed, ends, publish, until

DAY_MS = 86_400_000


@pytest.fixture
def missing(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    """Settings whose topics do not exist."""
    names = {f"{name}_topic": f"{topic_prefix}{name}" for name in ("news", "sentiment", "dead")}
    return Settings(kafka_bootstrap=kafka_bootstrap, group_prefix=topic_prefix, **names)  # type: ignore[arg-type]


def create(settings: Settings, topic: str, **configs: str) -> None:
    names = {name.replace("_", "."): value for name, value in configs.items()}
    with closing(KafkaAdminClient(**client_options(settings))) as admin:
        admin.create_topics([NewTopic(topic, settings.partitions, 1, topic_configs=names)])


def configs(settings: Settings, topic: str) -> dict[str, str]:
    with closing(KafkaAdminClient(**client_options(settings))) as admin:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {name: entry["value"] for name, entry in described["topic"][topic].items()}


def test_created_topics_say_how_long_and_how_safely_messages_are_kept(missing: Settings) -> None:
    settings = missing.model_copy(update={"news_retention_days": 3.0, "dead_retention_days": 0.0})
    assert len(create_topics(settings)) == 3
    news, sentiment, dead = (
        configs(settings, topic) for topic in (settings.news_topic, settings.sentiment_topic, settings.dead_topic)
    )
    assert news["message.timestamp.type"] == sentiment["message.timestamp.type"] == "LogAppendTime"
    assert news["retention.ms"] == str(3 * DAY_MS)
    assert sentiment["retention.ms"] == str(30 * DAY_MS)
    assert dead["retention.ms"] == "-1"
    assert news["min.insync.replicas"] == "1"
    check_topics(settings)
    assert create_topics(settings) == []


@pytest.mark.parametrize(
    ("replication", "given", "brokers", "wanted"),
    [
        (1, None, 3, (1, 1)),
        (2, None, 3, (2, 2)),
        (3, 3, 3, (3, 3)),
        (None, None, 1, (1, 1)),
        (None, None, 2, (2, 2)),
        (None, None, 5, (3, 2)),
        (None, 1, 5, (3, 1)),
    ],
)
def test_an_acknowledged_message_is_on_two_brokers_where_there_are_two(
    replication: int | None, given: int | None, brokers: int, wanted: tuple[int, int]
) -> None:
    assert topics._copies(Settings(replication=replication, min_insync_replicas=given), brokers) == wanted


def test_more_replicas_in_sync_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARLYBELL_MIN_INSYNC_REPLICAS", "2")
    monkeypatch.setenv("EARLYBELL_REPLICATION", "1")
    monkeypatch.setenv("EARLYBELL_DATABASE_URL", "postgresql://user:secret@host/name")
    with pytest.raises(CommandError, match="MIN_INSYNC_REPLICAS is 2 but EARLYBELL_REPLICATION 1") as refused:
        load_settings()
    assert "secret" not in str(refused.value)


def test_more_replicas_in_sync_than_brokers_is_refused_unless_the_topics_exist(missing: Settings) -> None:
    """A broker that is down for a while is no reason not to start."""
    more = missing.model_copy(update={"min_insync_replicas": 2})
    with pytest.raises(TopicError, match="MIN_INSYNC_REPLICAS is 2 but the cluster has 1 broker: no message"):
        create_topics(more)
    create_topics(missing)
    assert create_topics(more) == []


@pytest.mark.parametrize("topic", ["news_topic", "sentiment_topic"])
def test_a_topic_with_the_producers_clock_is_refused(missing: Settings, topic: str) -> None:
    name = getattr(missing, topic)
    create(missing, name, message_timestamp_type="CreateTime")
    create_topics(missing)
    with pytest.raises(TopicError) as refused:
        check_topics(missing)
    command = f"--entity-name {name} --add-config message.timestamp.type=LogAppendTime"
    assert command in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_compacted_topic_of_dead_letters_is_refused(missing: Settings) -> None:
    create(missing, missing.dead_topic, cleanup_policy="compact")
    create_topics(missing)
    with pytest.raises(TopicError, match=r"--add-config cleanup\.policy=delete"):
        check_topics(missing)


def test_a_role_does_not_start_on_such_a_topic(missing: Settings) -> None:
    create(missing, missing.news_topic, message_timestamp_type="CreateTime")
    command = [sys.executable, "-m", "earlybell.streams.cli", "run", "--role", "scoring"]
    result = subprocess.run(
        command, env=as_environment(missing), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert result.returncode == USER_ERROR
    assert "message.timestamp.type=LogAppendTime" in result.stderr


async def test_a_message_with_the_producers_time_is_a_dead_letter(missing: Settings) -> None:
    """It was written before the topic got the broker's clock, or somebody took that away again."""
    create(missing, missing.news_topic, message_timestamp_type="CreateTime")
    create_topics(missing)
    story = b'{"id": "s1", "headline": "Acme beats", "published_at": "2026-01-05T09:30:00Z"}'
    await asyncio.to_thread(publish, missing, [story], partition=0)
    async with Pool(ConstantScorer, ["cpu"]) as pool, running(app.scoring_pipeline(missing, pool)):
        await until(lambda: committed(missing) == ends(missing))
    assert messages(missing, missing.sentiment_topic) == []
    (letter,) = messages(missing, missing.dead_topic)
    assert letter.value == story
    assert b"not the broker's" in dict(letter.headers)[dead_letters.REASON[0]]
