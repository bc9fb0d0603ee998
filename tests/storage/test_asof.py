"""A backtest cannot see the future: random histories on a real server, and edge cases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, Row, text

from earlybell.storage import asof
from earlybell.storage.connection import open_snapshot
from earlybell.storage.exceptions import StorageUnavailable
from earlybell.storage.tables import signals
from earlybell.storage.writer import Writer
from tests.storage.conftest import MONDAY, signal_row

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


@pytest.fixture
def connection(database: Engine) -> Iterator[Connection]:
    """A transaction on empty tables that is rolled back at the end."""
    with database.connect() as connection:
        yield connection


def put(connection: Connection, *rows: dict[str, Any]) -> None:
    if rows:
        connection.execute(signals.insert(), list(rows))


def at(minutes: float) -> datetime:
    return MONDAY + minutes * MINUTE


def signal(story: str, minutes: float, revision: int = 1, score: float = 0.5, **changes: Any) -> dict[str, Any]:
    label = "positive" if score > 0.2 else "negative" if score < -0.2 else "neutral"
    probabilities = {"positive": 0.5 + score / 2, "neutral": 0.0, "negative": 0.5 - score / 2}
    values: dict[str, Any] = {"news_id": story, "revision": revision, "available_at": at(minutes), "symbols": ["NWF"]}
    return signal_row(**values | {"label": label, "score": score, "probabilities": probabilities} | changes)


def known(connection: Connection, minutes: float, **options: Any) -> list[tuple[str, int]]:
    return [(row.news_id, row.revision) for row in asof.signals_as_of(connection, at(minutes), **options)]


def rows(results: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in results]


# Random histories: few stories, few models, times that collide with each other and with the ends of bars, revisions
# that arrive in any order, scores whose sums depend on the order in which they are added.
histories = st.lists(
    st.builds(
        signal,
        story=st.sampled_from(["a", "b", "c"]),
        minutes=st.integers(0, 40).map(lambda quarter: quarter * 0.25),
        revision=st.integers(1, 4),
        score=st.sampled_from([-1.0, -0.3, -1e-17, 0.0, 0.1, 0.2, 0.3, 1 / 3, 1.0]),
        symbols=st.lists(st.sampled_from(["NWF", "S1", "S2"]), max_size=3),
        model_revision=st.sampled_from(["old", "new"]),
        policy=st.sampled_from(["dial=0.50", "adaptive"]),
    ),
    max_size=30,
    unique_by=lambda row: row["signal_id"],
)


@given(history=histories, now=st.integers(0, 40).map(lambda quarter: quarter * 0.25), shuffled=st.randoms())
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_no_query_about_the_past_sees_what_came_after(
    connection: Connection, history: list[dict[str, Any]], now: float, shuffled: Any
) -> None:
    """Every query returns the same on the whole history as on the part that was available at the time."""

    def answers(of: list[dict[str, Any]]) -> list[list[tuple[Any, ...]]]:
        stored = list(of)
        shuffled.shuffle(stored)  # the order of the rows on disk does not matter either
        with connection.begin_nested() as savepoint:
            put(connection, *stored)
            results = [
                rows(asof.signals_as_of(connection, at(now))),
                rows(asof.signals_as_of(connection, at(now), symbol="S1")),
                rows(asof.symbol_sentiment_as_of(connection, at(now), 3 * MINUTE)),
            ]
            for width in (MINUTE, 2.5 * MINUTE, 7 * MINUTE):
                bars = asof.symbol_bars(connection, width, at(0) - width, at(60))
                results.append([tuple(bar) for bar in bars if bar.bar_end <= at(now)])
                results.append(rows(asof.symbol_bars(connection, width, at(-1), at(now), symbol="S2")))
            savepoint.rollback()
        return results

    assert answers(history) == answers([row for row in history if row["available_at"] <= at(now)])


@given(history=histories, now=st.integers(0, 40).map(lambda quarter: quarter * 0.25))
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_the_answers_are_those_of_a_plain_loop(
    connection: Connection, history: list[dict[str, Any]], now: float
) -> None:
    """The same, computed row by row in Python: the answers are right, not only consistent."""

    def newest(moment: datetime) -> list[dict[str, Any]]:
        best: dict[tuple[str, str, str], dict[str, Any]] = {}
        for row in history:
            key = (row["news_id"], row["model_revision"], row["policy"])
            if row["available_at"] <= moment and (key not in best or row["revision"] > best[key]["revision"]):
                best[key] = row
        return sorted(best.values(), key=lambda row: (row["available_at"], row["signal_id"]))

    def measures(moment: datetime, width: timedelta) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
        groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for row in newest(moment):
            if row["available_at"] > moment - width:
                for symbol in set(row["symbols"]):
                    groups.setdefault((symbol, row["model_revision"], row["policy"]), []).append(row)
        return groups

    def matches(measured: Row[Any], group: list[dict[str, Any]]) -> None:
        assert measured.signals == len(group)
        assert math.isclose(measured.mean_score, math.fsum(row["score"] for row in group) / len(group), abs_tol=1e-15)
        assert measured.last_score == group[-1]["score"]
        assert measured.positive == sum(row["label"] == "positive" for row in group)
        assert measured.negative == sum(row["label"] == "negative" for row in group)

    with connection.begin_nested() as savepoint:
        put(connection, *history)
        as_of = asof.signals_as_of(connection, at(now))
        table = asof.symbol_sentiment_as_of(connection, at(now), 3 * MINUTE)
        width, since, until = 2 * MINUTE, at(-1), at(now)
        bars = asof.symbol_bars(connection, width, since, until)
        savepoint.rollback()

    assert [row.signal_id for row in as_of] == [row["signal_id"] for row in newest(at(now))]

    groups = measures(at(now), 3 * MINUTE)
    assert {(row.symbol, row.model_revision, row.policy) for row in table} == set(groups)
    for row in table:
        group = groups[row.symbol, row.model_revision, row.policy]
        matches(row, group)
        assert row.last_available_at == group[-1]["available_at"]

    expected: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    end = since + width
    while end <= until:
        expected |= {(symbol, end, *of): group for (symbol, *of), group in measures(end, width).items()}
        end += width
    assert {(bar.symbol, bar.bar_end, bar.model_revision, bar.policy) for bar in bars} == set(expected)
    for bar in bars:
        matches(bar, expected[bar.symbol, bar.bar_end, bar.model_revision, bar.policy])


def test_a_correction_replaces_the_story_once_it_is_available(connection: Connection) -> None:
    put(connection, signal("story", 10), signal("story", 20, revision=2))
    assert known(connection, 9.999) == []
    assert known(connection, 10) == [("story", 1)]
    assert known(connection, 19.999) == [("story", 1)]
    assert known(connection, 20) == [("story", 2)]


def test_a_late_revision_never_replaces_a_newer_one(connection: Connection) -> None:
    put(connection, signal("story", 30, revision=1), signal("story", 10, revision=2))
    assert known(connection, 40) == [("story", 2)]
    bars = asof.symbol_bars(connection, 5 * MINUTE, at(0), at(60))
    assert [(bar.bar_end, bar.signals) for bar in bars] == [(at(10), 1)]


def test_a_correction_can_remove_a_symbol(connection: Connection) -> None:
    put(connection, signal("story", 10, symbols=["NWF", "OLD"]), signal("story", 20, revision=2, symbols=["NWF"]))
    assert known(connection, 15, symbol="OLD") == [("story", 1)]
    assert known(connection, 25, symbol="OLD") == []
    assert known(connection, 25, symbol="NWF") == [("story", 2)]


def test_two_models_and_two_policies_are_never_mixed(connection: Connection) -> None:
    put(
        connection,
        signal("story", 1, score=0.9),
        signal("story", 2, score=-0.9, model_revision="next"),
        signal("story", 3, score=0.1, policy="adaptive"),
    )
    assert len(known(connection, 5)) == 3
    bars = asof.symbol_bars(connection, 5 * MINUTE, at(0), at(5))
    assert [(bar.model_revision, bar.policy, bar.signals, bar.mean_score) for bar in bars] == [
        ("4f1d", "adaptive", 1, 0.1),
        ("4f1d", "dial=0.50", 1, 0.9),
        ("next", "dial=0.50", 1, -0.9),
    ]


def test_a_bar_includes_its_end_but_not_its_beginning(connection: Connection) -> None:
    first_instant = timedelta(microseconds=1)
    put(
        connection,
        signal_row(1, available_at=at(0)),
        signal_row(2, available_at=at(0) + first_instant),
        signal_row(3, available_at=at(5)),
        signal_row(4, available_at=at(5) + first_instant),
    )
    bars = asof.symbol_bars(connection, 5 * MINUTE, at(0), at(10), symbol="NWF")
    assert [(bar.bar_end, bar.signals) for bar in bars] == [(at(5), 2), (at(10), 1)]


def test_a_bar_that_ends_after_until_is_omitted(connection: Connection) -> None:
    put(connection, signal("a", 4), signal("b", 11))
    bars = asof.symbol_bars(connection, 5 * MINUTE, at(0), at(12))
    assert [bar.bar_end for bar in bars] == [at(5)]


def test_a_later_correction_counts_in_its_own_bar_and_changes_no_earlier_one(connection: Connection) -> None:
    put(connection, signal("a", 1, score=0.8), signal("b", 2, score=0.4))
    before = rows(asof.symbol_bars(connection, 5 * MINUTE, at(0), at(5)))
    put(connection, signal("a", 7, revision=2, score=-0.8))
    assert rows(asof.symbol_bars(connection, 5 * MINUTE, at(0), at(5))) == before
    bars = asof.symbol_bars(connection, 5 * MINUTE, at(0), at(10))
    assert [(bar.signals, bar.positive, bar.negative, bar.last_score) for bar in bars] == [
        (2, 2, 0, 0.4),
        (1, 0, 1, -0.8),
    ]


def test_within_one_bar_a_correction_replaces_what_it_corrects(connection: Connection) -> None:
    put(connection, signal("a", 1, score=0.8), signal("a", 2, revision=2, score=-0.8))
    [bar] = asof.symbol_bars(connection, 5 * MINUTE, at(0), at(5))
    assert (bar.signals, bar.mean_score) == (1, -0.8)


def test_a_symbol_named_twice_counts_once(connection: Connection) -> None:
    put(connection, signal("a", 1, symbols=["NWF", "NWF"]))
    [bar] = asof.symbol_bars(connection, 5 * MINUTE, at(0), at(5))
    assert bar.signals == 1


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Australia/Lord_Howe"])
def test_daylight_saving_moves_no_bar(connection: Connection, zone: str) -> None:
    """New York's clocks jump on 8 March 2026, Lord Howe's on 5 April."""
    connection.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))
    put(connection, *(signal(f"story {hour}", hour * 60) for hour in range(1, 24 * 40, 7)))
    day = timedelta(days=1)
    bars = asof.symbol_bars(connection, day, at(0), at(0) + 40 * day)
    assert [bar.bar_end for bar in bars] == [at(0) + number * day for number in range(1, 41)]
    assert sum(bar.signals for bar in bars) == len(range(1, 24 * 40, 7))
    last = asof.symbol_sentiment_as_of(connection, at(0) + 7 * day, 7 * day)
    assert last[0].signals == sum(bar.signals for bar in bars[:7])


def test_times_without_an_offset_are_refused(connection: Connection) -> None:
    naive = datetime(2026, 3, 2)
    with pytest.raises(ValueError, match="at has no offset"):
        asof.signals_as_of(connection, naive)
    with pytest.raises(ValueError, match="until has no offset"):
        asof.symbol_bars(connection, MINUTE, at(0), naive)
    with pytest.raises(ValueError, match="at has no offset"):
        asof.symbol_sentiment_as_of(connection, naive, HOUR)


@pytest.mark.parametrize("width", [timedelta(0), -MINUTE])
def test_a_bar_without_width_is_refused(connection: Connection, width: timedelta) -> None:
    with pytest.raises(ValueError, match="width"):
        asof.symbol_bars(connection, width, at(0), at(5))


def test_conditions_from_outside_reach_the_indexes(connection: Connection) -> None:
    """The function is inlined: a query for one symbol does not scan every known signal."""
    put(connection, *(signal_row(number, symbols=[f"S{number % 500}"]) for number in range(5_000)))
    connection.execute(text("ANALYZE signals"))
    plan = "\n".join(
        connection.scalars(text("EXPLAIN SELECT * FROM signals_as_of('2026-06-01 00:00Z') WHERE symbols @> '{S42}'"))
    )
    assert "ix_signals_symbols" in plan
    assert "ix_signals_news_id_model_revision_policy_revision" in plan
    assert "Function Scan" not in plan


def test_a_reading_connection_sees_one_snapshot_and_writes_nothing(migrated: str, database: Engine) -> None:
    moment = MONDAY + HOUR
    with Writer(migrated) as writer, open_snapshot(migrated) as connection:
        writer.write_signals([signal_row(1)])
        first = asof.signals_as_of(connection, moment)
        writer.write_signals([signal_row(2)])
        assert asof.signals_as_of(connection, moment) == first
        assert len(first) == 1
        with pytest.raises(StorageUnavailable, match="read-only"), open_snapshot(migrated) as another:
            put(another, signal_row(3))
    with open_snapshot(migrated) as connection:
        assert len(asof.signals_as_of(connection, moment)) == 2
