"""News on Kafka becomes signals on a topic and rows in Postgres: real broker, real database, shipped model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from earlybell.inference.pool.pool import Pool
from earlybell.streams import dead_letters
from earlybell.streams.brokers import client_options, open_producer
from earlybell.streams.commands.redrive import redrive
from earlybell.streams.records import MAX_MESSAGE_BYTES, decode_signal
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from tests.integration.whole_pipeline import both_roles, count, messages, query
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import committed, ends, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLISHED = "2026-01-05T09:30:00+01:00"


def item(id: str, headline: str = "Acme Robotics raises its outlook", **more: Any) -> dict[str, Any]:  # noqa: A002
    return {"id": id, "headline": headline, "published_at": PUBLISHED, **more}


def as_bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def publish(
    settings: Settings, *values: bytes | None, key: bytes | None = b"key", headers: Sequence[tuple[str, bytes]] = ()
) -> None:
    producer: KafkaProducer = open_producer(settings)
    futures = [producer.send(settings.news_topic, key=key, value=value, headers=list(headers)) for value in values]
    producer.flush()
    for future in futures:
        future.get(timeout=PATIENCE_S)
    producer.close()


async def test_a_story_becomes_a_signal_and_two_rows(settings: Settings, pool: Pool) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    story = item("a1", symbols=["ACME", "BOT"], source="wire", url="https://example.com/a1", extra={"ignored": [1]})
    async with both_roles(settings, pool):
        publish(settings, as_bytes(story), key=b"a1")
        await until(lambda: count(settings, "signals") == 1 and count(settings, "news") == 1)
        await until(lambda: committed(settings) == ends(settings))
        await until(lambda: committed(settings, Role.STORING) == ends(settings))
    (message,) = messages(settings, settings.sentiment_topic)
    signal = decode_signal(message.value)
    assert message.key == b"a1"
    assert (signal.news_id, signal.revision, signal.symbols, signal.source) == ("a1", 1, ["ACME", "BOT"], "wire")
    assert signal.label in signal.probabilities
    assert sum(signal.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert signal.confidence == max(signal.probabilities.values()) == signal.probabilities[signal.label]
    assert signal.score == pytest.approx(signal.probabilities["positive"] - signal.probabilities["negative"])
    assert signal.model_revision == pool.description.served_revision
    assert 0 <= signal.exit_depth <= signal.depth_limit
    assert 0 < signal.tokens_kept <= signal.tokens
    assert signal.ingested_at is not None
    assert before < signal.ingested_at <= signal.scored_at + timedelta(seconds=1)
    assert (signal.topic, signal.partition, signal.offset) == (settings.news_topic, signal.partition, 0)
    ((row_id, available_at, label, published_at),) = query(
        settings, "SELECT signal_id, available_at, label, published_at FROM signals"
    )
    assert (row_id, label) == (signal.signal_id, signal.label)
    assert available_at == datetime.fromtimestamp(message.timestamp / 1000, UTC)
    assert published_at == datetime.fromisoformat(PUBLISHED)
    ((headline, symbols, ingested_at),) = query(settings, "SELECT headline, symbols, ingested_at FROM news")
    assert (headline, symbols, ingested_at) == (story["headline"], story["symbols"], signal.ingested_at)


async def test_with_a_latency_objective_signals_carry_their_own_dial(settings: Settings, pool: Pool) -> None:
    adaptive = settings.model_copy(update={"latency_objective_ms": 0.001, "most_accuracy_lost": 1.0})  # never met
    async with both_roles(adaptive, pool) as (scoring, _):
        with closing(open_producer(adaptive)) as producer:
            for number in range(40):  # a window each
                producer.send(adaptive.news_topic, key=b"a", value=as_bytes(item(f"a{number}")))
                await until(lambda number=number: scoring.counts()["signals"] > number)  # type: ignore[misc]
        await until(lambda: count(adaptive, "signals") == 40)
    signals = [decode_signal(message.value) for message in messages(adaptive, adaptive.sentiment_topic)]
    assert {signal.policy for signal in signals} == {"adaptive"}
    dials = [signal.dial for signal in sorted(signals, key=lambda signal: signal.scored_at)]
    assert dials == sorted(dials)
    assert dials[0] == pool.description.dial
    assert dials[-1] == pool.description.curve[-1][0], "it went as far as the curve does"


async def test_duplicates_count_once_and_a_correction_is_a_revision(settings: Settings, pool: Pool) -> None:
    first, correction = item("a"), item("a", "Acme Robotics cuts its outlook", revision=2)
    async with both_roles(settings, pool):
        publish(settings, *[as_bytes(first)] * 3, as_bytes(correction), as_bytes(first), key=b"a")
        await until(lambda: committed(settings) == ends(settings))
        topic = settings.sentiment_topic
        await until(lambda: committed(settings, Role.STORING, topic) == ends(settings, topic))
        await until(lambda: len(messages(settings, topic)) == 5)
        await until(lambda: count(settings, "signals") == 2)
    signals = [decode_signal(message.value) for message in messages(settings, settings.sentiment_topic)]
    assert [signal.revision for signal in signals] == [1, 1, 1, 2, 1]
    assert len({signal.signal_id for signal in signals}) == 2
    assert query(settings, "SELECT news_id, revision FROM news ORDER BY 2") == [("a", 1), ("a", 2)]


BAD: dict[str, tuple[bytes | None, str, str]] = {
    "not JSON": (b"Acme beats estimates", "decode", "not JSON"),
    "no headline": (b'{"id": "x", "published_at": "2026-01-05T09:30:00Z"}', "decode", "headline"),
    "a naive timestamp": (as_bytes({**item("x"), "published_at": "2026-01-05T09:30:00"}), "decode", "timezone"),
    "an empty headline": (as_bytes(item("x", "")), "decode", "headline"),
    "a blank headline": (as_bytes(item("x", " \t")), "decode", "blank"),
    "a headline of half a MB": (as_bytes(item("x", "h" * 500_000)), "decode", "4096"),
    "only U+0000": (as_bytes(item("x", "\0")), "decode", "headline"),
    "a lone surrogate": (as_bytes(item("x", "Acme \ud800")), "decode", "surrogate"),
    "invalid UTF-8": (b'{"id": "x", "headline": "\xff", "published_at": "2026-01-05T09:30:00Z"}', "decode", "UTF-8"),
    "NaN": (b'{"id": "x", "headline": "h", "published_at": "2026-01-05T09:30:00Z", "revision": NaN}', "decode", "JSON"),
    "symbols as a string": (as_bytes(item("x", symbols="ACME")), "decode", "symbols"),
    "symbols as numbers": (as_bytes(item("x", symbols=[1])), "decode", "symbols"),
    "revision 0": (as_bytes(item("x", revision=0)), "decode", "revision"),
    "an overlong id": (as_bytes(item("x" * 257)), "decode", "id"),
    "an unsupported language": (as_bytes(item("x", language="de")), "language", "'de'"),
    "a tombstone": (None, "decode", "tombstone"),
    "deep nesting": (b"[" * 50_000, "decode", "contract"),
    "a JSON list": (b"[]", "decode", "contract"),
}  # fmt: skip


async def test_bad_input_becomes_dead_letters_and_the_stream_goes_on(settings: Settings, pool: Pool) -> None:
    async with both_roles(settings, pool):
        for number, (value, _, _) in enumerate(BAD.values()):
            publish(settings, value, key=f"k{number}".encode())
            publish(settings, as_bytes(item(f"good-{number}")))
        await until(lambda: count(settings, "signals") == len(BAD))
        # News in a language that the model does not read is stored, but has no signal.
        await until(lambda: count(settings, "news") == len(BAD) + 1)
        await until(lambda: committed(settings) == ends(settings))
        await until(lambda: committed(settings, Role.STORING) == ends(settings))
    letters = {message.key: message for message in messages(settings, settings.dead_topic)}
    assert len(letters) == len(BAD)
    for number, (name, (value, stage, reason)) in enumerate(BAD.items()):
        letter = letters[f"k{number}".encode()]
        assert letter.value == value, name
        headers = {header: text.decode() for header, text in letter.headers}
        assert headers[dead_letters.STAGE] == stage, name
        for dialect in range(2):
            assert reason in headers[dead_letters.REASON[dialect]], name
            assert headers[dead_letters.TOPIC[dialect]] == settings.news_topic
            assert int(headers[dead_letters.PARTITION[dialect]]) < settings.partitions
            assert headers[dead_letters.OFFSET[dialect]].isdigit()
            assert headers[dead_letters.EXCEPTION[dialect]] == "BadNews"


async def test_valid_news_of_every_kind_is_accepted(settings: Settings, pool: Pool) -> None:
    """U+0000 is removed; unknown fields are ignored; a known language in any form; a body of almost 1 MiB."""
    body = "Revenue rose. " * (1_000_000 // 14)
    good = [
        item("nul\0id", "Acme\0 beats", source="w\0ire", symbols=["AC\0ME"], body="a\0b"),
        item("unknown", colour="red", nested={"deep": [[[]]]}),
        item("english", language="en-GB"),
        item("long", body=body),
        item("nulls", body=None, source=None, symbols=None, language=None, url=None),
        item("emoji", "Acme \N{ROCKET} beats\u2028 estimates \u202e"),
        item("many", symbols=[f"S{n}" for n in range(1_000)]),
    ]
    async with both_roles(settings, pool):
        publish(settings, *map(as_bytes, good))
        await until(lambda: count(settings, "signals") == count(settings, "news") == len(good))
    assert messages(settings, settings.dead_topic) == []
    assert query(settings, "SELECT headline, source, symbols, body FROM news WHERE news_id = 'nulid'") == [
        ("Acme beats", "wire", ["ACME"], "ab")
    ]
    ((tokens,),) = query(settings, "SELECT tokens FROM signals WHERE news_id = 'long'")
    assert 128 < tokens <= pool.description.max_tokens


async def test_a_letter_that_is_too_large_for_the_broker_goes_without_its_value(settings: Settings, pool: Pool) -> None:
    """Others may raise the news topic's limit above the contract's; its dead letters may then not fit."""
    admin = KafkaAdminClient(**client_options(settings))
    limits = {settings.dead_topic: 10_000, settings.news_topic: 2 * MAX_MESSAGE_BYTES}
    admin.alter_configs(
        [
            ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(limit)})
            for topic, limit in limits.items()
        ]
    )
    admin.close()
    huge = as_bytes(item("huge", body="b" * (MAX_MESSAGE_BYTES + 10)))
    async with both_roles(settings, pool):
        publish(settings, huge, b"small and broken", as_bytes(item("good")))
        await until(lambda: committed(settings) == ends(settings))
    letters = {len(message.value or b""): dict(message.headers) for message in messages(settings, settings.dead_topic)}
    assert set(letters) == {0, len(b"small and broken")}
    assert letters[0][dead_letters.VALUE_OMITTED] == str(len(huge)).encode()
    assert str(len(huge)).encode() in letters[0][dead_letters.REASON[0]]


async def test_redrive_sends_letters_back_once(settings: Settings, pool: Pool) -> None:
    async with both_roles(settings, pool):
        publish(settings, b"broken", as_bytes(item("foreign", language="de")), headers=[("trace", b"42")])
        await until(lambda: len(messages(settings, settings.dead_topic)) == 2)
        assert redrive(settings) == 2
        await until(lambda: committed(settings) == ends(settings))
    news = messages(settings, settings.news_topic)
    assert [list(message.headers) for message in news] == [[("trace", b"42")]] * 4
    sent = [message.value for message in news]
    assert sorted(sent) == sorted([b"broken", as_bytes(item("foreign", language="de"))] * 2)
    # Both are still broken: there are two more letters, which only the next redrive sends back.
    assert len(messages(settings, settings.dead_topic)) == 4
    assert redrive(settings, limit=1) == 1
    assert redrive(settings) == 1
    assert redrive(settings) == 0
