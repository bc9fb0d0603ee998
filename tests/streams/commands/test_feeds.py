"""Feeds on a real broker: what is published, under which keys, in which order, at which pace."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from earlybell.streams import brokers
from earlybell.streams.brokers import client_options, open_producer
from earlybell.streams.commands.feeds import (
    MAX_KEY_AND_VALUE_BYTES,
    Message,
    Pacer,
    Report,
    messages,
    publish,
    raw_messages,
)
from earlybell.streams.commands.replay import replay_file
from earlybell.streams.commands.rows import Columns, open_file
from earlybell.streams.demo import sample
from earlybell.streams.exceptions import BrokerError
from earlybell.streams.records import decode_news
from earlybell.streams.settings import Settings
from earlybell.streams.topics import create_topics
from tests.integration.whole_pipeline import messages as messages_of
from tests.own_topics import own_topics


@pytest.fixture
def settings(kafka_bootstrap: str) -> Settings:
    return own_topics(kafka_bootstrap)


def send(settings: Settings, feed: Iterator[Message], pacer: Pacer | None = None) -> Report:
    with closing(open_producer(settings)) as producer:
        return publish(feed, producer, settings, topic=settings.news_topic, pacer=pacer or Pacer(None), report=Report())


def test_rows_arrive_as_news_under_their_ids_in_order(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "news.jsonl.gz"
    rows = [
        {
            "title": f"Story {number}",
            "date": f"2026-03-02T09:{number % 60:02}:00Z",
            "link": f"https://x.test/{number % 50}",
        }
        for number in range(2_000)
    ]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    bad: list[tuple[int, str]] = []
    report = send(settings, messages(open_file(str(path)), "jsonl", Columns(), lambda *fault: bad.append(fault)))
    assert (report.sent, report.refused, bad) == (2_000, 0, [])
    published = messages_of(settings, settings.news_topic)
    items = [decode_news(record.value) for record in published]
    assert sorted(item.headline for item in items) == sorted(row["title"] for row in rows)
    assert all(record.key == item.id.encode() for record, item in zip(published, items, strict=True))
    assert len({record.key for record in published}) == 50
    for key in {record.key for record in published}:
        numbers = [
            int(item.headline.split()[1]) for record, item in zip(published, items, strict=True) if record.key == key
        ]
        assert numbers == sorted(numbers), "messages with one id stay in order"
        assert len({record.partition for record in published if record.key == key}) == 1


def test_raw_lines_arrive_unchanged(settings: Settings) -> None:
    report = send(settings, raw_messages(open_file(str(sample.FEED))))
    assert (report.sent, report.refused) == (sample.MESSAGES, 0)
    lines = sample.FEED.read_bytes().split(b"\n")[:-1]
    wanted = Counter(line or None for line in lines)
    published = messages_of(settings, settings.news_topic)
    assert Counter(record.value for record in published) == wanted
    assert [record.key for record in published if record.value is None] == [b"line:235"]
    [broken] = [record for record in published if record.value and record.value.startswith(b"GET")]
    assert broken.key is None
    corrected = [record for record in published if b'"revision": 2' in (record.value or b"")]
    assert len(corrected) == sample.CORRECTIONS
    assert all(json.loads(record.value)["id"].encode() == record.key for record in corrected)


def test_broken_rows_are_skipped_and_reported_by_line(settings: Settings, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "news.csv"
    path.write_text(
        "title,date\nGood,2026-03-02T09:00Z\n,2026-03-02T09:01Z\nNaive,2026-03-02T09:02\nGood too,1772442000\n"
    )
    options: dict[str, Any] = {"file_format": None, "speed": "max", "limit": None, "topic": None, "raw": False}
    report = replay_file(settings, str(path), pairs=[], timezone=None, **options)
    assert (report.sent, report.bad) == (2, 2)
    reported = capsys.readouterr().err
    assert "line 3: no headline" in reported
    assert "line 4: time without an offset" in reported
    assert "2 rows skipped" in reported
    assert {decode_news(record.value).headline for record in messages_of(settings, settings.news_topic)} == {
        "Good",
        "Good too",
    }


def test_a_message_over_the_limit_is_reported_and_the_others_arrive(settings: Settings) -> None:
    sizes = (MAX_KEY_AND_VALUE_BYTES - 1, MAX_KEY_AND_VALUE_BYTES + 1, 10)
    feed = [Message(number, None, b"k", b"x" * size) for number, size in enumerate(sizes)]
    report = send(settings, iter(feed))
    assert (report.sent, report.refused) == (2, 1)
    assert "the limit is 1048576" in report.reason
    assert len(messages_of(settings, settings.news_topic)) == 2


def test_our_topics_are_stamped_by_the_broker(settings: Settings) -> None:
    assert create_topics(settings) == [], "they already exist"
    before = datetime.now(UTC) - timedelta(seconds=5)
    send(settings, iter([Message(1, datetime(2012, 1, 1, tzinfo=UTC), b"k", b"v")]))
    [record] = messages_of(settings, settings.news_topic)
    assert datetime.fromtimestamp(record.timestamp / 1000, UTC) > before
    with closing(KafkaAdminClient(**client_options(settings))) as admin:
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, topic) for topic in (settings.news_topic, settings.dead_topic)
        ]
        limits = {
            topic: int(
                config["max.message.bytes"]
                if isinstance(config["max.message.bytes"], str)
                else config["max.message.bytes"]["value"]
            )
            for topics in admin.describe_configs(resources).values()
            for topic, config in topics.items()
        }
        partitions = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics([settings.news_topic])}
    assert limits[settings.dead_topic] > limits[settings.news_topic]
    assert partitions == {settings.news_topic: settings.partitions}


def test_no_broker_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "BOOTSTRAP_TIMEOUT_MS", 200)
    with pytest.raises(BrokerError, match=r"127.0.0.1:1: .*earlybell up") as caught:
        open_producer(Settings(kafka_bootstrap="127.0.0.1:1"))
    assert "\n" not in str(caught.value)


class Clock:
    """A clock that advances only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_the_pace_is_a_multiple_of_real_time_and_disorder_never_waits() -> None:
    clock = Clock()
    pacer = Pacer(60.0, now=clock, sleep=clock.sleep)
    first = datetime(2026, 3, 2, tzinfo=UTC)
    sent = []
    for minutes in (0, 10, 5, 10, 30):
        list(pacer.wait(first + timedelta(minutes=minutes)))
        sent.append(clock.now - 100.0)
    list(pacer.wait(None))
    assert sent == pytest.approx([0, 10, 10, 10, 30])
    assert clock.now == pytest.approx(130)


def test_at_full_speed_nothing_sleeps() -> None:
    pacer = Pacer(None, sleep=lambda _: pytest.fail("slept"))
    for year in (2000, 2030):
        assert list(pacer.wait(datetime(year, 1, 1, tzinfo=UTC))) == []
