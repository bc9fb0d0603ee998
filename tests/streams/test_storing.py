"""When a signal became available, by clocks that are wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from earlybell.streams.storing import SignalRows
from tests.streams.test_scoring import Record

START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
SIGNAL = json.loads((Path(__file__).parent / "released" / "SentimentSignal-1.json").read_text())
seconds = st.integers(-100, 100)


def message(partition: int, offset: int, appended_s: int, scored_s: int = -1000) -> Record:
    signal = SIGNAL | {"scored_at": (START + timedelta(seconds=scored_s)).isoformat()}
    timestamp = round((START + timedelta(seconds=appended_s)).timestamp() * 1000)
    return Record(offset, json.dumps(signal).encode(), timestamp=timestamp, partition=partition)


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
        assert row["available_at"] == max(latest[partition], scored_at)


def test_a_clock_that_was_set_back_is_waited_for() -> None:
    rows = SignalRows()
    times = [rows(message(0, offset, appended_s))["available_at"] for offset, appended_s in enumerate([10, 3, 9, 11])]
    assert times == [START + timedelta(seconds=second) for second in (10, 10, 10, 11)]


def test_a_partition_that_is_read_again_gets_the_same_times_again() -> None:
    rows = SignalRows()
    appended_s = [1, 5, 2, 9]
    first = [rows(message(0, offset, second))["available_at"] for offset, second in enumerate(appended_s)]
    assert [rows(message(0, offset, second))["available_at"] for offset, second in enumerate(appended_s)] == first
