"""The writer on a real server: each row is stored once, exactly as submitted, and a bad row never stops good ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Engine, func, make_url, select, text

from earlybell.storage import copying
from earlybell.storage import writer as writer_module
from earlybell.storage.exceptions import SchemaMismatch, StorageError, StorageUnavailable
from earlybell.storage.tables import metadata, news, signals
from earlybell.storage.writer import Writer, Written
from tests.patience import PATIENCE_S
from tests.storage.conftest import engine_of, news_row, signal_row

#: Which of the two arrives depends on when the connection was cut.
LOST = r"terminating connection due to administrator command|server closed the connection unexpectedly"


@pytest.fixture
def writer(migrated: str) -> Iterator[Writer]:
    with Writer(migrated) as writer:
        yield writer


def count(database: Engine, table: Any) -> int:
    with database.connect() as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)


def stored(database: Engine, table: Any) -> list[dict[str, Any]]:
    with database.connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def test_rows_come_back_exactly_as_they_went_in(database: Engine, writer: Writer) -> None:
    new_york = timezone(timedelta(hours=-5))
    story = news_row(
        body='"quotes", \\backslashes\\, {braces}, %(percent)s, tabs\tand\nnewlines,\r\n \b\f\x01\x7f'
        "  \\n \\. \u2028, é, 株式, 🗞",
        symbols=["BRK.B", "a,b", '{"}', "NULL", " ", "株"],
        published_at=datetime(2026, 3, 2, 9, 29, 59, 999_999, tzinfo=new_york),
        ingested_at=datetime(1970, 1, 1, tzinfo=UTC),
        offset=2**63 - 1,
        revision=2**31 - 1,
    )
    signal = signal_row(
        score=-0.1 - 0.2,
        confidence=5e-324,  # the smallest double, to the last bit
        probabilities={"positive": 0.1, "neutral": 1 / 3, "negative": 0.1 + 0.2, "": 1e-17},
        queue_ms=1.7976931348623157e308,
        available_at=datetime(2026, 3, 2, 14, 30, 0, 1, tzinfo=UTC),
        predicted_depth=None,
        published_at=None,
        topic=None,
    )
    assert writer.write_news([story]) == Written(1)
    assert writer.write_signals([signal]) == Written(1)
    assert stored(database, news) == [story]
    assert stored(database, signals) == [signal]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
def test_times_do_not_depend_on_the_time_zone_of_the_session(migrated: str, database: Engine, zone: str) -> None:
    with Writer(f"{migrated}?options=-c%20timezone%3D{zone}") as writer:
        writer.write_signals([signal_row()])
    assert stored(database, signals) == [signal_row()]


def test_an_empty_batch_writes_nothing(database: Engine, writer: Writer) -> None:
    assert writer.write_news([]) == Written(0)
    assert writer.write_signals([]) == Written(0)


def test_a_row_is_stored_once_however_often_it_is_submitted(database: Engine, writer: Writer) -> None:
    rows = [news_row(number) for number in range(10)]
    assert writer.write_news(rows + rows[:5]) == Written(10)
    assert writer.write_news(rows) == Written(0)
    assert writer.write_news([*rows, news_row(3, revision=2)]) == Written(1)
    assert count(database, news) == 11


def test_of_two_rows_with_one_key_and_text_the_first_stays(database: Engine, writer: Writer) -> None:
    assert writer.write_news([news_row(source="first"), news_row(source="second")]) == Written(1)
    assert writer.write_news([news_row(source="third")]) == Written(0)
    assert [row["source"] for row in stored(database, news)] == ["first"]


@pytest.mark.parametrize("together", [True, False])
def test_another_text_under_the_same_revision_is_refused(database: Engine, writer: Writer, together: bool) -> None:
    stories = [news_row(body="one"), news_row(body="two"), news_row(headline="Three"), news_row(body="one")]
    answers = [
        signal_row(signal_id="a", text_hash="a"),
        signal_row(signal_id="b", text_hash="b"),
        signal_row(signal_id="a", text_hash="c"),
        signal_row(signal_id="a", text_hash="a"),
    ]
    for write, rows, table in ((writer.write_news, stories, news), (writer.write_signals, answers, signals)):
        if together:
            written = write(rows)
            assert (written.new, [refused.index for refused in written.refused]) == (1, [1, 2])
        else:
            outcomes = [write([row]) for row in rows]
            assert [written.new for written in outcomes] == [1, 0, 0, 0]
            assert [len(written.refused) for written in outcomes] == [0, 1, 1, 0]
            written = outcomes[1]
        assert "another text" in written.refused[0].reason
        assert stored(database, table) == [rows[0]]


def test_a_second_answer_of_the_same_model_is_discarded(database: Engine, writer: Writer) -> None:
    assert writer.write_signals([signal_row(), signal_row(signal_id="another")]) == Written(1)
    assert writer.write_signals([signal_row(policy="dial=0.75")]) == Written(1)


def test_known_new_and_bad_rows_in_one_batch(database: Engine, writer: Writer) -> None:
    """In whatever order they come, and whichever of them the database meets first."""
    writer.write_news([news_row(number) for number in range(0, 3_000, 3)])
    rows = [news_row(number, revision=0 if number % 100 == 50 else 1) for number in range(3_000)]
    bad = [number for number in range(3_000) if number % 100 == 50]
    for expected in (3_000 - len(bad) - len([n for n in range(0, 3_000, 3) if n not in bad]), 0):
        written = writer.write_news(rows)
        assert written.new == expected
        assert [row.index for row in written.refused] == bad
    assert count(database, news) == 3_000 - len(bad) + len([n for n in bad if n % 3 == 0])


def test_a_bad_row_does_not_take_a_good_one_with_its_key_along(database: Engine, writer: Writer) -> None:
    writer.write_news([news_row(9)])  # so that the batch has a known row, and is looked up
    rows = [news_row(0, offset=-1), news_row(0), news_row(0), news_row(0, headline="Another"), news_row(9)]
    written = writer.write_news(rows)
    assert (written.new, [row.index for row in written.refused]) == (1, [0, 3])
    assert sorted(row["offset"] for row in stored(database, news)) == [0, 9]


def test_the_row_at_fault_is_found_behind_texts_of_many_lines(database: Engine, writer: Writer) -> None:
    rows = [news_row(number, body="one\ntwo\r\n\nfour\n" * (number % 3)) for number in range(50)]
    for index in (0, 17, 49):
        rows[index]["offset"] = -1
    written = writer.write_news(rows)
    assert (written.new, [row.index for row in written.refused]) == (47, [0, 17, 49])


def test_an_error_without_the_number_of_a_line_still_finds_the_row(
    database: Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_row_at_fault", lambda *_: None)
    written = writer.write_news([news_row(number, headline="" if number in {3, 4} else "x") for number in range(9)])
    assert (written.new, [row.index for row in written.refused]) == (7, [3, 4])


def test_a_rule_of_the_administrators_own_refuses_its_rows(database: Engine, writer: Writer) -> None:
    with database.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX one_per_source ON news (source)"))
    try:
        written = writer.write_news([news_row(0), news_row(1), news_row(2, source="Elsewhere")])
    finally:
        with database.begin() as connection:
            connection.execute(text("DROP INDEX one_per_source"))
    assert (written.new, [row.index for row in written.refused]) == (2, [1])
    assert "one_per_source" in written.refused[0].reason


def test_one_batch_is_one_transaction(database: Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_COPY_BYTES", 1)  # one statement per row
    rows = [news_row(number) for number in range(20)]
    assert writer.write_news(rows[:19]) == Written(19)
    with database.begin() as connection:
        connection.execute(text("TRUNCATE news"))
        connection.execute(
            text(
                "CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER break_off BEFORE INSERT ON news FOR EACH ROW"
                " WHEN (NEW.news_id = 'story-000015') EXECUTE FUNCTION break_off()"
            )
        )
    try:
        with pytest.raises(StorageUnavailable, match=LOST):
            writer.write_news(rows)
        assert count(database, news) == 0
    finally:
        with database.begin() as connection:
            connection.execute(text("DROP FUNCTION break_off CASCADE"))
    assert writer.write_news(rows) == Written(20)


REFUSED_NEWS: list[tuple[dict[str, Any], str]] = [
    ({"headline": "with\0nul"}, "U+0000 cannot be stored"),
    ({"symbols": ["A\0B"]}, "U+0000 cannot be stored"),
    ({"headline": "lone \ud800 surrogate"}, "not UTF-8"),
    ({"headline": ""}, "ck_news_headline"),
    ({"headline": None}, 'null value in column "headline"'),
    ({"news_id": "x" * 257}, "ck_news_news_id"),
    ({"news_id": ""}, "ck_news_news_id"),
    ({"news_id": None}, 'null value in column "news_id"'),
    ({"revision": 0}, "ck_news_revision"),
    ({"revision": 2**31}, "Expected `int` <= 2147483647 - at `revision`"),
    ({"offset": 2**70}, "at `offset`"),
    ({"offset": -1}, "ck_news_origin"),
    ({"symbols": None}, 'null value in column "symbols"'),
    ({"symbols": [["A", "B"], ["C", "D"]]}, "Expected `str`, got `array` - at `symbols"),
    ({"symbols": ["A", None]}, "Expected `str`, got `null` - at `symbols"),
    ({"symbols": "A"}, "got `str` - at `symbols`"),
    ({"symbols": ["x" * 400_000]}, "index row"),  # too long for the index even when compressed
    ({"published_at": datetime(2026, 3, 2)}, "timezone component - at `published_at`"),
    ({"published_at": "yesterday"}, "at `published_at`"),
]
REFUSED_SIGNALS: list[tuple[dict[str, Any], str]] = [
    ({"score": 1.0000000000000002}, "ck_signals_score"),
    ({"score": float("nan")}, 'null value in column "score"'),
    ({"inference_ms": float("inf")}, 'null value in column "inference_ms"'),
    ({"confidence": -0.1}, "ck_signals_confidence"),
    ({"probabilities": [0.1, 0.9]}, "got `array` - at `probabilities`"),
    ({"probabilities": {"neutral": 1.0}}, "ck_signals_probabilities"),  # has no probability of the label
    ({"probabilities": {"positive": float("nan")}}, "ck_signals_probabilities"),
    ({"probabilities": {"positive": 0.5, "\0": 0.5}}, "unsupported Unicode escape sequence"),
    ({"exit_depth": 7}, "ck_signals_depth"),
    ({"exit_depth": 1.5}, "Expected `int | null`, got `float` - at `exit_depth`"),
    ({"dial": 2}, "ck_signals_dial"),
    ({"tokens_kept": 22}, "ck_signals_tokens"),
    ({"available_at": None}, 'null value in column "available_at"'),
]


@pytest.mark.parametrize(
    ("table", "changes", "reason"),
    [("news", *case) for case in REFUSED_NEWS] + [("signals", *case) for case in REFUSED_SIGNALS],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else None,
)
def test_a_bad_row_is_refused_and_its_neighbours_are_stored(
    database: Engine, writer: Writer, table: str, changes: dict[str, Any], reason: str
) -> None:
    make, write = (news_row, writer.write_news) if table == "news" else (signal_row, writer.write_signals)
    rows = [make(number) for number in range(9)]
    rows[4] = make(4, **changes)
    written = write(rows)
    assert written.new == 8
    [refused] = written.refused
    assert refused.index == 4
    assert reason in refused.reason
    assert "\n" not in refused.reason and len(refused.reason) < 300
    assert write(rows) == Written(0, written.refused)  # and the same again


#: What may be wrong with a row whose types are right.
REFUSED_TUPLES: list[tuple[str, dict[str, Any], str]] = [
    *(("news", *case) for case in REFUSED_NEWS if case[0].keys() <= {"headline", "news_id", "offset", "revision"}),
    *(("signals", *case) for case in REFUSED_SIGNALS if "got `" not in case[1]),
    *(
        ("signals", {column: value}, f"at `{column}`")
        for column in ("revision", "exit_depth", "depth_limit", "tokens", "tokens_kept", "partition", "offset")
        for value in (2**63, -(2**63) - 1, 10**30)
    ),
]


@pytest.mark.parametrize(("table", "changes", "reason"), REFUSED_TUPLES)
def test_a_bad_tuple_is_refused_like_a_bad_mapping(
    database: Engine, writer: Writer, table: str, changes: dict[str, Any], reason: str
) -> None:
    make, write = (news_row, writer.write_news) if table == "news" else (signal_row, writer.write_signals)
    columns = metadata.tables[table].columns.keys()
    rows = [tuple(make(number, **(changes if number == 4 else {}))[name] for name in columns) for number in range(9)]
    written = write(rows)
    assert written.new == 8
    [refused] = written.refused
    assert refused.index == 4
    assert reason.removeprefix("Expected `int` <= 2147483647 - ") in refused.reason
    for _ in range(2):  # the second time all rows are looked up first
        assert write(rows) == Written(0, written.refused)


def test_a_tuple_is_stored_as_its_mapping_is(database: Engine, writer: Writer) -> None:
    columns = signals.columns.keys()
    signal = signal_row(symbols=['{"}', "a,b", "\\"], policy='"\n', source="株\t")
    assert writer.write_signals([tuple(signal[name] for name in columns)]) == Written(1)
    assert stored(database, signals) == [signal]
    assert writer.write_signals([signal]) == Written(0)


def test_a_tuple_of_another_length_is_the_callers_error(writer: Writer) -> None:
    with pytest.raises(ValueError, match="news has 13 columns; the row has 1 values"):
        writer.write_news([("story",)])


def test_many_bad_rows_are_all_reported(database: Engine, writer: Writer) -> None:
    rows = [news_row(number, headline="" if number % 3 == 0 else "text") for number in reversed(range(200))]
    written = writer.write_news(rows)
    bad = [index for index, row in enumerate(rows) if not row["headline"]]
    assert [row.index for row in written.refused] == bad
    assert written.new == count(database, news) == 200 - len(bad)


def test_a_batch_of_only_bad_rows(database: Engine, writer: Writer) -> None:
    written = writer.write_news([news_row(number, revision=-1) for number in range(5)])
    assert (written.new, len(written.refused)) == (0, 5)


def test_large_texts_and_long_lists(database: Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_COPY_BYTES", 3 * 2**20)  # several statements in the transaction
    rows = [news_row(number, body=f"{number} é\\" * 200_000) for number in range(8)]
    rows.append(news_row(8, symbols=[f"SYM{number}" for number in range(20_000)]))
    assert writer.write_news(rows) == Written(9)
    assert sorted(stored(database, news), key=lambda row: str(row["news_id"])) == rows


def test_a_row_too_large_to_send_is_refused(database: Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MAX_ROW_BYTES", 10_000)
    written = writer.write_news([news_row(0, body="x" * 10_000), news_row(1)])
    assert written.new == 1
    assert [row.index for row in written.refused] == [0]
    assert "the limit is 10000" in written.refused[0].reason


def test_an_unknown_column_is_the_callers_error(writer: Writer) -> None:
    with pytest.raises(ValueError, match="news has no column id"):
        writer.write_news([{"id": "story"}])


def test_writers_that_race_with_the_same_rows_store_each_once(migrated: str, database: Engine) -> None:
    """In opposite orders, which would deadlock if rows were inserted in the order given."""
    batches = [[signal_row(number) for number in range(start, start + 1_000)] for start in (0, 1_000, 2_000)]
    together = threading.Barrier(4, timeout=PATIENCE_S)

    def write(order: int) -> int:
        new = 0
        with Writer(migrated) as writer:
            for batch in batches:
                together.wait()
                written = writer.write_signals(batch if order % 2 else batch[::-1])
                assert written.refused == ()
                new += written.new
        return new

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(4))) == 3_000
    assert count(database, signals) == 3_000


def test_threads_may_share_a_writer(database: Engine, writer: Writer) -> None:
    with ThreadPoolExecutor(6) as pool:
        written = list(
            pool.map(lambda part: writer.write_news([news_row(part * 50 + n) for n in range(100)]), range(6))
        )
    assert sum(batch.new for batch in written) == count(database, news) == 350


def end_connections(database: Engine) -> int:
    """End every other connection to the database, as an administrator or a failing server would."""
    with database.connect() as connection:
        return int(
            connection.scalar(
                text(
                    "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'earlybell'"
                )
            )
            or 0
        )


def test_a_connection_lost_between_batches_is_not_noticed(database: Engine, writer: Writer) -> None:
    assert writer.write_news([news_row(0)]) == Written(1)
    assert end_connections(database) == 1
    assert writer.write_news([news_row(1)]) == Written(1)


def test_a_connection_lost_during_a_batch_only_costs_time(database: Engine, writer: Writer) -> None:
    rows = [signal_row(number) for number in range(50)]
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
    # Another transaction holds one of the rows, so the batch stalls half-way.
    with ThreadPoolExecutor(1) as pool, database.connect() as blocker:
        blocker.execute(signals.insert(), rows[25])
        batch = pool.submit(writer.write_signals, rows)
        while not batch.done() and not blocker.scalar(waiting):
            pass
        assert end_connections(database) == 1
        with pytest.raises(StorageUnavailable, match=LOST) as caught:
            batch.result()
    assert "\n" not in str(caught.value)
    assert count(database, signals) == 0
    assert writer.write_signals(rows) == Written(50)


def test_a_database_that_stops_accepting_writes_is_temporarily_unavailable(
    database: Engine, writer: Writer, migrated: str
) -> None:
    """As after a failover, when the writer is still connected to what is now a replica."""
    name = make_url(migrated).database
    with engine_of(migrated, isolation_level="AUTOCOMMIT").connect() as admin:
        admin.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        try:
            with pytest.raises(StorageUnavailable, match="read-only"):
                writer.write_news([news_row()])
        finally:
            admin.execute(text("SET default_transaction_read_only = off"))
            admin.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
    end_connections(database)
    assert writer.write_news([news_row()]) == Written(1)


def test_an_unreachable_server() -> None:
    unreachable = Writer("postgresql://writer:hush@127.0.0.1:1/earlybell")
    with unreachable, pytest.raises(StorageUnavailable, match=r"writer@127\.0\.0\.1:1/earlybell: .*refused") as caught:
        unreachable.write_news([news_row()])
    assert "hush" not in str(caught.value)


def test_a_database_without_the_tables(empty_database: Callable[[], str]) -> None:
    with Writer(empty_database()) as writer:
        for write, row in ((writer.write_news, news_row()), (writer.write_signals, signal_row())):
            with pytest.raises(SchemaMismatch, match="earlybell db upgrade"):
                write([row])


def test_a_user_who_may_not_write(migrated: str) -> None:
    reader = Writer(f"{migrated}?options=-c%20role%3Dearlybell_reader")
    with reader, pytest.raises(StorageError, match="permission denied for table news") as caught:
        reader.write_news([news_row()])
    assert not isinstance(caught.value, StorageUnavailable | SchemaMismatch)
