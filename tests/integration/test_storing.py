"""The storing role on a real broker and database: what it stores, and what becomes a dead letter instead."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from earlybell.inference.pool.pool import Pool
from earlybell.storage.writer import Writer
from earlybell.streams import app, dead_letters
from earlybell.streams.brokers import client_options, open_producer
from earlybell.streams.records import decode_signal
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.integration.whole_pipeline import both_roles, messages, query, running
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import committed, ends, until

RELEASED = Path(__file__).parents[1] / "streams" / "released"


@asynccontextmanager
async def storing(settings: Settings) -> AsyncIterator[None]:
    """Run the storing role alone; on exit, it has read and stored everything."""
    with Writer(settings.database) as news, Writer(settings.database) as signals:
        async with running(app.storing_pipeline(settings, news, signals)):
            yield
            for topic in (settings.news_topic, settings.sentiment_topic):
                await until(lambda topic=topic: committed(settings, Role.STORING, topic) == ends(settings, topic))  # type: ignore[misc]


def publish(settings: Settings, topic: str, values: Sequence[bytes | None]) -> None:
    producer = open_producer(settings)
    for value in values:
        producer.send(topic, key=b"key", value=value, headers=[("trace", b"42")]).get(timeout=PATIENCE_S)
    producer.close()


def released(record: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RELEASED.glob(f"{record}-*.json"))]


def signal(number: int, **changes: Any) -> bytes:
    return json.dumps(
        released("SentimentSignal")[-1] | {"signal_id": f"id-{number}", "news_id": f"n{number}"} | changes
    ).encode()


def story(id: str, headline: str, **more: Any) -> bytes:  # noqa: A002
    return json.dumps({"id": id, "headline": headline, "published_at": "2026-01-05T09:30:00Z", **more}).encode()


def letters(settings: Settings) -> dict[bytes | None, dict[str, str]]:
    """Return the headers of each dead letter, by its value."""
    return {
        message.value: {name: text.decode() for name, text in message.headers}
        for message in messages(settings, settings.dead_topic)
    }


async def test_every_released_form_is_stored(settings: Settings) -> None:
    forms = released("SentimentSignal")
    publish(settings, settings.sentiment_topic, [json.dumps(form).encode() for form in forms])
    publish(settings, settings.news_topic, [json.dumps(form).encode() for form in released("NewsItem")])
    async with storing(settings):
        pass
    stored = query(settings, "SELECT signal_id, text_hash FROM signals ORDER BY news_id")
    assert stored == [(form["signal_id"], form.get("text_hash")) for form in forms]
    assert query(settings, "SELECT news_id, revision FROM news") == [("wire-42", 2)]
    assert letters(settings) == {}


async def test_a_signal_that_cannot_be_read_or_stored_becomes_a_dead_letter(settings: Settings) -> None:
    bad: dict[bytes | None, tuple[str, str]] = {
        b"not a signal": ("decode", "malformed"),
        b"\xff": ("decode", "malformed"),
        None: ("decode", "tombstone"),
        signal(1, score="high"): ("decode", "score"),
        b"{}": ("decode", "signal_id"),
        signal(2, exit_depth=9): ("store", "ck_signals_depth"),
        signal(3, label="unheard of"): ("decode", "label"),
        signal(5, probabilities={"negative": 1.0}): ("store", "ck_signals_probabilities"),
    }
    publish(settings, settings.sentiment_topic, [signal(0), *bad, signal(4)])
    async with storing(settings):
        pass
    assert query(settings, "SELECT news_id FROM signals ORDER BY 1") == [("n0",), ("n4",)]
    found = letters(settings)
    assert found.keys() == bad.keys()
    for value, (stage, reason) in bad.items():
        headers = found[value]
        assert headers["trace"] == "42"
        assert headers[dead_letters.TOPIC[0]] == settings.sentiment_topic
        assert headers[dead_letters.STAGE] == stage, value
        assert reason in headers[dead_letters.REASON[0]], value


async def test_available_at_is_never_before_the_answer(settings: Settings) -> None:
    """A worker's clock may be ahead of the broker's, or the broker's may have been set back."""
    later = datetime.now(UTC).replace(microsecond=250) + timedelta(hours=1)
    earlier = "2026-01-05T08:30:00Z"
    publish(settings, settings.sentiment_topic, [signal(0, scored_at=later.isoformat()), signal(1, scored_at=earlier)])
    async with storing(settings):
        pass
    (first,), (second,) = query(settings, "SELECT available_at FROM signals ORDER BY news_id")
    assert first == later
    broker = [message.timestamp for message in messages(settings, settings.sentiment_topic)]
    assert second == datetime.fromtimestamp(broker[1] / 1000, UTC), "a wrong clock spoils no other signal"


async def test_a_message_with_its_producers_time_is_refused(settings: Settings) -> None:
    """Where an administrator has taken the broker's time away, a message could claim any time of arrival."""
    admin = KafkaAdminClient(**client_options(settings))
    # No retention: the broker's next look, every five minutes, would delete messages that claim to be of 1970.
    changed = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
    admin.alter_configs(
        [
            ConfigResource(ConfigResourceType.TOPIC, topic, changed)
            for topic in (settings.news_topic, settings.sentiment_topic)
        ]
    )
    admin.close()
    values = {settings.news_topic: story("a", "Acme wins"), settings.sentiment_topic: signal(0)}
    producer = open_producer(settings)
    for topic, value in values.items():
        while producer.send(topic, value=b"probe", timestamp_ms=1).get(timeout=PATIENCE_S).timestamp != 1:
            pass  # the broker has not taken the setting over yet
        producer.send(topic, value=value, timestamp_ms=1)
    producer.close()
    async with Pool(ConstantScorer, ["cpu"]) as pool, both_roles(settings, pool):
        await until(lambda: letters(settings).keys() >= set(values.values()))
    found = letters(settings)
    for value in values.values():
        assert "message.timestamp.type" in found[value][dead_letters.REASON[0]]
    assert query(settings, "SELECT 1 FROM news UNION ALL SELECT 1 FROM signals") == []


async def test_one_revision_with_two_texts_has_two_ids_and_one_row(settings: Settings) -> None:
    """The first stays in the tables; the second becomes a dead letter in each, and is not lost in silence."""
    first, second = story("a", "Acme wins"), story("a", "Acme loses")
    publish(settings, settings.news_topic, [first, first, second, first])
    async with Pool(ConstantScorer, ["cpu"]) as pool, both_roles(settings, pool):
        await until(lambda: len(messages(settings, settings.dead_topic)) == 2)
    signals = [decode_signal(message.value) for message in messages(settings, settings.sentiment_topic)]
    assert len({signal.signal_id for signal in signals}) == 2
    assert len({signal.text_hash for signal in signals}) == 2
    assert query(settings, "SELECT headline FROM news") == [("Acme wins",)]
    assert query(settings, "SELECT signal_id FROM signals") == [(signals[0].signal_id,)]
    found = letters(settings)
    assert second in found
    for headers in found.values():
        assert headers[dead_letters.STAGE] == "store"
        assert "another text" in headers[dead_letters.REASON[0]]
