"""Rows of files as news: columns, times, ids, formats, and the errors of unusable files."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.streams.commands.formats import NewsFormat
from earlybell.streams.commands.rows import (
    BadRow,
    Columns,
    Line,
    format_of,
    open_file,
    parse_symbols,
    parse_time,
    read,
)
from earlybell.streams.exceptions import FileError
from earlybell.streams.records import decode_news, encode

GOOD: dict[str, Any] = {"title": "Zephyr Rail lifts outlook", "date": "2026-03-02T09:00:00Z"}


def lines_of(path: Path, columns: Columns | None = None, file_format: NewsFormat | None = None) -> list[Line]:
    return list(read(open_file(str(path)), file_format or format_of(str(path)), columns or Columns()))


def reason(row: dict[str, Any], columns: Columns | None = None) -> str:
    with pytest.raises(BadRow) as caught:
        (columns or Columns()).item(row)
    return str(caught.value)


class TestTimes:
    @pytest.mark.parametrize(
        "value",
        [
            "2026-03-02T09:00:00Z",
            "2026-03-02T10:00:00+01:00",
            "2026-03-02 09:00:00+00:00",
            "Mon, 02 Mar 2026 09:00:00 GMT",
            1772442000,
            1772442000.0,
            "1772442000",
            1772442000_000,
            "1772442000000",
            1772442000_000_000,
            1772442000_000_000_000,
        ],
    )
    def test_every_notation_of_one_time(self, value: Any) -> None:
        assert parse_time(value) == datetime(2026, 3, 2, 9, tzinfo=UTC)

    def test_a_time_without_offset_needs_a_zone_and_the_reason_says_so(self) -> None:
        with pytest.raises(BadRow, match=r"without an offset.*--timezone"):
            parse_time("2026-03-02T09:00:00")
        assert parse_time("2026-03-02T09:00:00", ZoneInfo("America/New_York")) == datetime(2026, 3, 2, 14, tzinfo=UTC)

    def test_the_zone_knows_summer_time(self) -> None:
        zone = ZoneInfo("America/New_York")
        assert parse_time("2026-07-01 09:00", zone).utcoffset() == timedelta(hours=-4)
        assert parse_time("2026-01-02 09:00", zone).utcoffset() == timedelta(hours=-5)

    def test_eight_digits_are_a_day(self) -> None:
        assert parse_time("20260302", UTC) == datetime(2026, 3, 2, tzinfo=UTC)

    @pytest.mark.parametrize(
        "value", ["", "soon", "2026-13-40T00:00:00Z", float("nan"), float("inf"), 1e300, True, [], {}]
    )
    def test_values_that_are_not_times(self, value: Any) -> None:
        with pytest.raises(BadRow, match="not a time"):
            parse_time(value)

    @given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
    def test_epochs_in_every_unit_give_the_second_back(self, time: datetime) -> None:
        time = time.replace(microsecond=0)
        seconds = int(time.timestamp())
        assert {parse_time(seconds * unit) for unit in (1, 10**3, 10**6, 10**9)} == {time}


class TestItems:
    def test_common_names_are_recognised(self) -> None:
        item = Columns().item(
            {
                "uuid": 17,
                "title": "Zephyr Rail lifts outlook",
                "published": "2026-03-02T09:00:00Z",
                "summary": "More of it.",
                "publisher": "The Wire",
                "tickers": ["ZRL", "$ZRL", "QQX"],
                "lang": "en",
                "link": "https://example.test/1",
                "revision": "2",
                "sentiment": "unknown fields are ignored",
            }
        )
        assert (item.id, item.body, item.source, item.symbols) == ("17", "More of it.", "The Wire", ["ZRL", "QQX"])
        assert (item.language, item.url, item.revision) == ("en", "https://example.test/1", 2)

    def test_an_encoded_item_round_trips(self) -> None:
        item = Columns().item({**GOOD, "tickers": "ZRL QQX", "body": "b", "revision": 3})
        assert Columns().item(json.loads(encode(item))) == item

    def test_a_given_column_wins_over_the_common_ones(self) -> None:
        columns = Columns.parse(["headline=lead", "published_at=day"], "UTC")
        item = columns.item({**GOOD, "lead": "Another", "day": "2026-03-03"})
        assert (item.headline, item.published_at) == ("Another", datetime(2026, 3, 3, tzinfo=UTC))

    def test_an_empty_column_falls_back_to_the_next_name(self) -> None:
        assert Columns().item({**GOOD, "headline": "", "body": None, "content": "c"}).body == "c"

    def test_the_id_comes_from_the_url_alone(self) -> None:
        original = Columns().item({**GOOD, "url": "https://example.test/1"})
        same = Columns().item({**GOOD, "title": "Corrected", "url": "https://example.test/1"})
        other = Columns().item({**GOOD, "url": "https://example.test/2"})
        assert original.id == same.id != other.id
        assert original.id.startswith("url:")

    def test_id_from_source_headline_and_time_where_there_is_no_url(self) -> None:
        base = {**GOOD, "source": "A"}
        ids = [
            Columns().item({**base, **change}).id
            for change in ({}, {"source": "B"}, {"title": "x"}, {"date": "2026-03-02T09:00:01Z"})
        ]
        assert len(set(ids)) == 4
        assert Columns().item({**base, "date": "2026-03-02T10:00:00+01:00"}).id == ids[0], "the zone does not matter"
        assert ids[0] == "story:37254448dac7af270a28007405a6c5ef", "ids must not change between releases"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"title": ""}, "no headline"),
            ({"title": "   "}, "headline is blank"),
            ({"title": "x" * 4097}, "4096"),
            ({"title": 3}, "headline is not text"),
            ({"title": "\ud83d"}, "lone surrogate"),
            ({"date": None}, "no published_at"),
            ({"tickers": 5}, "symbols are neither"),
            ({"tickers": [1]}, "not a symbol"),
            ({"revision": 0}, ">= 1"),
            ({"revision": 1.5}, "whole number"),
            ({"revision": "two"}, "whole number"),
            ({"id": "x" * 257}, "256"),
        ],
    )
    def test_bad_rows_give_the_reason(self, change: dict[str, Any], message: str) -> None:
        assert message in reason({**GOOD, **change})

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("AAA,BBB", ["AAA", "BBB"]),
            ("$AAA; BBB | AAA", ["AAA", "BBB"]),
            ("['AAA', 'BRK.B']", ["AAA", "BRK.B"]),
            ([{"ticker": "AAA"}], ["AAA"]),
            ([], []),
        ],
    )
    def test_symbols(self, value: Any, expected: list[str]) -> None:
        assert parse_symbols(value) == expected


class TestFiles:
    @pytest.mark.parametrize("opener", [None, gzip.open, lzma.open, bz2.open])
    def test_jsonl_plain_and_compressed(self, tmp_path: Path, opener: Any) -> None:
        suffix = {None: "", gzip.open: ".gz", lzma.open: ".xz", bz2.open: ".bz2"}[opener]
        path = tmp_path / f"news.jsonl{suffix}"
        text = json.dumps(GOOD) + "\n\n" + json.dumps(GOOD)
        (opener or open)(path, "wb").write(text.encode())
        assert [line.number for line in lines_of(path)] == [1, 3]

    def test_broken_lines_have_their_number_and_reason(self, tmp_path: Path) -> None:
        path = tmp_path / "news.jsonl"
        path.write_bytes(json.dumps(GOOD).encode() + b'\n{"title": \n[1]\n{"title": "\xff"}\n' + b"[" * 100_000)
        lines = lines_of(path)
        assert [line.number for line in lines] == [1, 2, 3, 4, 5]
        assert [str(line.row).split(":")[0] for line in lines[1:4]] == ["not JSON", "not a JSON object", "not UTF-8"]
        assert isinstance(lines[4].row, BadRow)

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_csv_with_quotes_and_line_breaks(self, tmp_path: Path, delimiter: str) -> None:
        path = tmp_path / "news.csv"
        path.write_text(
            f'\ufefftitle{delimiter}date\n"Rail, ""fast""\nand long"{delimiter}2026-03-02T09:00Z\n', "utf-8"
        )
        [line] = lines_of(path)
        assert not isinstance(line.row, BadRow)
        assert Columns().item(line.row).headline == 'Rail, "fast"\nand long'

    def test_tsv_has_no_quotes_and_may_have_no_header(self, tmp_path: Path) -> None:
        path = tmp_path / "wire.tsv"
        path.write_text('2026-03-02T09:00Z\t"Rail" is late\n2026-03-02T09:01Z\tan unclosed "quote\n', "utf-8")
        columns = Columns.parse(["published_at=1", "headline=2"])
        items = [columns.item(line.row) for line in lines_of(path, columns) if not isinstance(line.row, BadRow)]
        assert [item.headline for item in items] == ['"Rail" is late', 'an unclosed "quote']

    def test_a_surplus_cell_and_bytes_that_are_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "news.csv"
        path.write_bytes(b"title,date\na,b,c\n\xff,2026-03-02T09:00Z\n")
        many, latin = lines_of(path)
        assert "3 cells for 2 columns" in str(many.row)
        assert not isinstance(latin.row, BadRow)
        assert "not UTF-8" in reason(dict(latin.row))

    def test_a_missing_column_is_reported_with_those_present(self, tmp_path: Path) -> None:
        path = tmp_path / "news.csv"
        path.write_text("lead,date\nx,2026-03-02T09:00Z\n")
        with pytest.raises(FileError, match="no column for headline: the file has lead, date; name it with --map"):
            lines_of(path)
        with pytest.raises(FileError, match="no column 'kicker' for headline"):
            lines_of(path, Columns.parse(["headline=kicker"]))

    def test_missing_file_unknown_format_and_damaged_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="no such file"):
            open_file(str(tmp_path / "absent.csv"))
        with pytest.raises(FileError, match="--format"):
            format_of("news.parquet")
        (tmp_path / "news.jsonl.gz").write_bytes(b"not gzip at all")
        with pytest.raises(FileError, match="cannot read"):
            lines_of(tmp_path / "news.jsonl.gz")

    @pytest.mark.parametrize("pair", ["headline", "=x", "headline=", "mood=x"])
    def test_a_malformed_map(self, pair: str) -> None:
        with pytest.raises(FileError, match="field=column"):
            Columns.parse([pair])

    def test_an_unknown_zone(self) -> None:
        with pytest.raises(FileError, match="America/New_York"):
            Columns.parse([], "Mars/Olympus")


@pytest.mark.parametrize(
    ("name", "given_columns", "rows", "distinct"),
    [
        ("replay/headlines_2026.jsonl", [], 14_226, 14_226),
        ("replay/wire_2012-12-17_to_19.tsv.xz", ["published_at=1", "headline=2"], 13_504, 10_865),
    ],
)
def test_real_feeds_need_at_most_a_map(name: str, given_columns: list[str], rows: int, distinct: int) -> None:
    data = Path(os.environ.get("EARLYBELL_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not (data / name).exists():
        pytest.skip(f"{name} is not in {data}; set EARLYBELL_DATA")
    columns = Columns.parse(given_columns)
    items = [columns.item(line.row) for line in lines_of(data / name, columns) if not isinstance(line.row, BadRow)]
    assert (len(items), len({item.id for item in items})) == (rows, distinct)
    assert decode_news(encode(items[0])) == items[0]
