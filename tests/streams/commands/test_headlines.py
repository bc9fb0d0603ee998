"""Signals find their headlines on a real news topic, by the message that each names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec

from earlybell.streams.brokers import open_producer
from earlybell.streams.commands.headlines import Headlines
from earlybell.streams.records import SentimentSignal, encode
from earlybell.streams.settings import Settings
from tests.own_topics import as_environment, own_topics
from tests.patience import PATIENCE_S
from tests.streams import test_schemas

ROOT = Path(__file__).parents[3]


def published(settings: Settings, *values: bytes) -> list[SentimentSignal]:
    """Publish news, and return a signal for each message."""
    signals = []
    with closing(open_producer(settings)) as producer:
        for number, value in enumerate(values):
            sent = producer.send(settings.news_topic, key=b"k", value=value).get(timeout=PATIENCE_S)
            signals.append(
                msgspec.structs.replace(
                    test_schemas.signal(),
                    signal_id=f"s{number}",
                    news_id=f"id-{number}",
                    topic=settings.news_topic,
                    partition=sent.partition,
                    offset=sent.offset,
                )
            )
    return signals


def story(number: int) -> bytes:
    item = {"id": f"id-{number}", "headline": f"Story {number}", "published_at": "2026-03-02T09:00:00Z"}
    return json.dumps(item).encode()


def test_headlines_of_any_offsets_in_any_order(kafka_bootstrap: str) -> None:
    settings = own_topics(kafka_bootstrap, partitions=1)
    signals = published(settings, story(0), b"not news", *(story(number) for number in range(2, 300)))
    with closing(Headlines(settings)) as headlines:
        found = headlines.find(signals[::-1])
        assert found == {f"s{number}": f"Story {number}" for number in range(300) if number != 1}
        assert headlines.find([signals[250], signals[3]]) == {"s250": "Story 250", "s3": "Story 3"}
        elsewhere = msgspec.structs.replace(signals[0], topic="another")
        without = msgspec.structs.replace(signals[0], topic=None, partition=None, offset=None)
        assert headlines.find([elsewhere, without]) == {}
        beyond = msgspec.structs.replace(signals[0], offset=10_000)
        assert headlines.find([beyond, signals[5]]) == {"s5": "Story 5"}


def test_watch_shows_them_and_the_id_where_there_is_none(kafka_bootstrap: str, tmp_path: Path) -> None:
    settings = own_topics(kafka_bootstrap)
    signals = published(settings, story(0), b"not news")
    out = tmp_path / "out"
    with out.open("wb") as file:
        watching = subprocess.Popen(
            [sys.executable, "-m", "earlybell.streams.cli", "watch"],
            env={**os.environ, **as_environment(settings)}, stdout=file, stderr=file, cwd=ROOT,
        )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while "waiting for signals" not in out.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with closing(open_producer(settings)) as producer:
        for sent in signals:
            producer.send(settings.sentiment_topic, key=b"k", value=encode(sent))
    while out.read_text().count("positive") < 2:
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.1)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(timeout=PATIENCE_S) == 0
    lines = out.read_text().splitlines()
    assert [line.split()[-1] for line in lines[-2:]] == ["0", "id-1"]
    assert lines[-2].endswith("Story 0")
    assert "+0.75" in lines[-1]
