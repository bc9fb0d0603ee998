"""When a signal became available, by clocks that are wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from earlybell.storage.tables import news, signals
from earlybell.streams.fetching import Message
from earlybell.streams.records import decode_signal
from earlybell.streams.storing import SignalRows, news_row
from tests.streams.test_scoring import fetched

START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
SIGNAL = json.loads((Path(__file__).parent / "released" / "SentimentSignal-1.json").read_text())
seconds = st.integers(-100, 100)


def message(partition: int, offset: int, appended_s: int, scored_s: int = -1000) -> Message:
    signal = SIGNAL | {"scored_at": (START + timedelta(seconds=scored_s)).isoformat()}
    timestamp = round((START + timedelta(seconds=appended_s)).timestamp() * 1000)
    return fetched(offset, json.dumps(signal).encode(), timestamp=timestamp, partition=partition)


def available_at(row: tuple[Any, ...]) -> datetime:
    at: datetime = dict(zip(signals.columns.keys(), row, strict=True))["available_at"]
    return at


def test_a_row_has_the_columns_of_its_table_in_their_order() -> None:
    signal = decode_signal(json.dumps(SIGNAL).encode())
    row = SignalRows()(message(0, 7, appended_s=5))
    named = dict(zip(signals.columns.keys(), row, strict=True))
    assert named.pop("available_at") == START + timedelta(seconds=5)
    assert named == msgspec.structs.asdict(signal) | {"scored_at": START - timedelta(seconds=1000)}

    story = {"id": "a", "revision": 2, "headline": "b", "body": "c", "source": "d", "symbols": ["e"], "language": "en"}
    story |= {"url": "f", "published_at": START.isoformat()}
    record = fetched(8, json.dumps(story).encode(), timestamp=round(START.timestamp() * 1000), partition=3)
    named = dict(zip(news.columns.keys(), news_row(record) or (), strict=True))
    story["news_id"] = story.pop("id")
    assert named == story | {
        "published_at": START, "ingested_at": START,
        "topic": record.topic, "partition": 3, "offset": 8,
    }  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 2), seconds, seconds), max_size=30))
def test_no_signal_is_available_before_its_answer_or_before_its_predecessor_by_the_brokers_clock(
    messages: list[tuple[int, int, int]],
) -> None:
    rows = SignalRows()
    latest: dict[int, datetime] = {}
    for offset, (partition, appended_s, scored_s) in enumerate(messages):
        appended_at, scored_at = START + timedelta(seconds=appended_s), START + timedelta(seconds=scored_s)
        latest[partition] = max(appended_at, latest.get(partition, appended_at))
        row = rows(message(partition, offset, appended_s, scored_s))
        assert available_at(row) == max(latest[partition], scored_at)


def test_a_clock_that_was_set_back_is_waited_for() -> None:
    rows = SignalRows()
    times = [available_at(rows(message(0, offset, appended_s))) for offset, appended_s in enumerate([10, 3, 9, 11])]
    assert times == [START + timedelta(seconds=second) for second in (10, 10, 10, 11)]


def test_a_partition_that_is_read_again_gets_the_same_times_again() -> None:
    rows = SignalRows()
    appended_s = [1, 5, 2, 9]
    first = [available_at(rows(message(0, offset, second))) for offset, second in enumerate(appended_s)]
    assert [available_at(rows(message(0, offset, second))) for offset, second in enumerate(appended_s)] == first
