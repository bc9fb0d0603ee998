"""Rows of a file as news items: which column is which, what a time is, and an id for a story that has none.

Knows nothing of Kafka. JSONL, CSV and TSV, plain or as .gz, .xz or .bz2; ``-`` is the standard input.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from email.utils import parsedate_to_datetime
from itertools import chain, islice
from pathlib import Path
from textwrap import shorten
from typing import IO, Any, cast
from zoneinfo import ZoneInfo

import msgspec

from earlybell.streams.commands.formats import NewsFormat
from earlybell.streams.exceptions import FileError
from earlybell.streams.records import BadNews, NewsItem, decode_news

Row = Mapping[str, Any]

#: What feeds call the fields, in the order in which a column is chosen where a file has several.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "uuid", "guid", "news_id", "article_id"),
    "headline": ("headline", "title", "text"),
    "published_at": (
        *("published_at", "publishedAt", "published", "pubDate", "date", "datetime"),
        *("timestamp", "created_at", "time", "ts"),
    ),
    "body": ("body", "content", "summary", "description"),
    "source": ("source", "publisher"),
    "symbols": ("symbols", "tickers", "symbol", "ticker", "related"),
    "language": ("language", "lang"),
    "url": ("url", "link"),
    "revision": ("revision",),
}
REQUIRED = ("headline", "published_at")
#: So many rows are looked at before a column is declared missing: in JSONL a first row need not have them all.
LOOK_AHEAD = 100
#: Digits of an epoch tell its unit: seconds until the year 5138, then milli-, micro- and nanoseconds.
EPOCH_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (float("inf"), 1e9))
_DAY_DIGITS = 8  # 20240417 is a day, not an epoch
_OPENERS: Mapping[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_SUFFIXES: Mapping[str, NewsFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
}


#: What reading a file raises when it is damaged.
DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error)


class BadRow(ValueError):
    """One row that cannot become a news item: its text is the reason."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a file: where it stands and what it holds, or why it holds nothing."""

    number: int
    row: Row | BadRow


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a file is which field of a news item.

    Attributes
    ----------
    given
        field → column, as the user said; for the other fields the usual names are tried in their order.
    timezone
        Of times that have no offset; without it such a time is refused, since a guess would let a backtest
        see news hours early.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    timezone: tzinfo | None = None
    _names: tuple[tuple[str, tuple[str, ...]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = {name: (self.given[name],) if name in self.given else usual for name, usual in USUAL_NAMES.items()}
        object.__setattr__(self, "_names", tuple(names.items()))

    @classmethod
    def parse(cls, pairs: Iterable[str], timezone: str | None = None) -> Columns:
        """From ``field=column`` pairs and the name of a time zone.

        Raises
        ------
        FileError
            A pair that is none, a field that news does not have, an unknown time zone.
        """
        given = {}
        for pair in pairs:
            name, equals, column = pair.partition("=")
            if not (equals and column) or name not in USUAL_NAMES:
                raise FileError(f"--map {pair}: say field=column, where field is one of {', '.join(USUAL_NAMES)}")
            given[name] = column
        try:
            zone = ZoneInfo(timezone) if timezone else None
        except (KeyError, ValueError, OSError):
            raise FileError(f"--timezone {timezone}: unknown; say one such as UTC or America/New_York") from None
        return cls(given, zone)

    def check(self, rows: Iterable[Row]) -> None:
        """See that every given column and every required field is in one of the rows.

        Raises
        ------
        FileError
            Naming the column that is missing and those that there are.
        """
        found = list(dict.fromkeys(chain.from_iterable(rows)))
        there = f"the file has {', '.join(shorten(column, 40, placeholder='…') for column in found[:20])}"
        for name, column in self.given.items():
            if column not in found:
                raise FileError(f"no column {column!r} for {name}: {there}")
        for name, names in self._names:
            if name in REQUIRED and not any(column in found for column in names):
                raise FileError(
                    f"no column for {name}: {there}; say which with --map {name}=COLUMN, "
                    "or its number (from 1) where the first line is no header"
                )

    def item(self, row: Row) -> NewsItem:
        """The news item that a row holds.

        Raises
        ------
        BadRow
            With the reason, where the row is against the contract of the news topic.
        """
        found: dict[str, Any] = {}
        for name, columns in self._names:
            for column in columns:
                value = row.get(column)
                if value is not None and value != "":
                    found[name] = value
                    break
        for name in REQUIRED:
            if name not in found:
                raise BadRow(f"no {name}")
        found["published_at"] = moment(found["published_at"], self.timezone)
        if "symbols" in found:
            found["symbols"] = symbols(found["symbols"])
        if "revision" in found:
            found["revision"] = _integer(found["revision"])
        for name in ("headline", "body", "source", "language", "url"):
            if name in found:
                found[name] = _text(found[name], name)
        found["id"] = str(found["id"]) if "id" in found else derived_id(found)
        try:
            # Through the contract's own decoder: what is sent is what the scoring role will accept.
            return decode_news(msgspec.json.encode(found))
        except UnicodeEncodeError as error:
            raise BadRow("not UTF-8, or a lone surrogate") from error
        except BadNews as error:
            raise BadRow(str(error)) from error


def derived_id(found: Mapping[str, Any]) -> str:
    """The id of a story that came without one: from its url, else from source, headline and time.

    The same story gets the same id in every replay, so that a second one adds nothing.
    """
    url = found.get("url")
    parts = [url] if url else [found.get("source"), found["headline"], found["published_at"].astimezone(UTC)]
    try:
        digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
    except UnicodeEncodeError as error:
        raise BadRow("not UTF-8, or a lone surrogate") from error
    return f"{'url' if url else 'story'}:{digest}"


def moment(value: Any, timezone: tzinfo | None = None) -> datetime:
    """A time as files write it: RFC 3339 or ISO 8601, RFC 2822, or an epoch in s, ms, µs or ns.

    Raises
    ------
    BadRow
        Not a time, or one without an offset where no time zone was given.
    """
    try:
        if isinstance(value, str):
            text = value.strip()
            digits = text.removeprefix("-").replace(".", "", 1)
            if not digits.isdecimal() or (len(text) == _DAY_DIGITS and text.isdecimal()):
                return _with_offset(_written(text), value, timezone)
            value = float(text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadRow(f"not a time: {value!r}")
        unit = next(unit for limit, unit in EPOCH_UNITS if abs(value) < limit)
        return datetime.fromtimestamp(value / unit, UTC)
    except (ValueError, OverflowError, OSError, StopIteration) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow(f"not a time: {value!r}") from error


def _written(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)


def _with_offset(time: datetime, value: str, timezone: tzinfo | None) -> datetime:
    if time.tzinfo is not None:
        return time
    if timezone is None:
        raise BadRow(f"time without an offset: {value!r}; say its zone, such as --timezone America/New_York")
    return time.replace(tzinfo=timezone)


def symbols(value: Any) -> list[str]:
    """Ticker symbols from a list of them, or from a text that separates them by comma, semicolon, bar or space."""
    if isinstance(value, str):
        parts: Iterable[Any] = re.split(r"[,;|\s]+", value.strip("[]() "))
    elif isinstance(value, list):
        parts = value
    else:
        raise BadRow(f"symbols are neither a list nor a text: {value!r}")
    found = []
    for part in parts:
        symbol = part
        if isinstance(part, dict):  # some feeds nest them: [{"ticker": ...}]
            symbol = next((part[name] for name in USUAL_NAMES["symbols"] if name in part), None)
        if not isinstance(symbol, str):
            raise BadRow(f"not a symbol: {part!r}")
        found.append(symbol.strip(" '\"").removeprefix("$"))
    return list(dict.fromkeys(filter(None, found)))


def _integer(value: Any) -> int:
    try:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRow(f"revision is not a whole number: {value!r}") from error


def _text(value: Any, name: str) -> str:
    if isinstance(value, dict):  # some feeds nest it: {"source": {"name": ...}}
        value = value.get("name")
    if not isinstance(value, str):
        raise BadRow(f"{name} is not a text: {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file being read: its bytes, and how far into it (as stored, maybe compressed) one is."""

    lines: IO[bytes]
    stored: IO[bytes]
    size: int | None  # bytes as stored; None where it is a pipe

    def position(self) -> int:
        """Bytes read so far, as stored."""
        return self.stored.tell() if self.size is not None else 0


def open_file(path: str) -> OpenFile:
    """Open a file, or the standard input for ``-``.

    Raises
    ------
    FileError
        It is not there, or may not be read.
    """
    if path == "-":
        # Our own buffer: a thread that still waits for input must not hold the interpreter's at exit.
        stdin = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
        return OpenFile(stdin, stdin, None)
    try:
        stored = Path(path).open("rb")  # noqa: SIM115  (the caller reads on; it lives as long as the command)
    except OSError as error:
        raise FileError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    opener = _OPENERS.get(Path(path).suffix.lower())
    size = Path(path).stat().st_size if Path(path).is_file() else None
    return OpenFile(cast("IO[bytes]", opener(stored)) if opener else stored, stored, size)


def format_of(path: str) -> NewsFormat:
    """What a file's name says of its format.

    Raises
    ------
    FileError
        It says nothing.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() not in _OPENERS]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise FileError(f"{path}: its name does not tell the format; say --format jsonl, csv or tsv")


def read(file: OpenFile, file_format: NewsFormat, columns: Columns) -> Iterator[Line]:
    """The rows of an open file, in order, after a look at whether the columns are there.

    Raises
    ------
    FileError
        A column is missing, or the file cannot be decompressed.
    """
    lines = read_jsonl(file.lines) if file_format == "jsonl" else _read_table(file.lines, file_format, columns)
    try:
        first = list(islice(lines, LOOK_AHEAD))
        rows = [line.row for line in first if not isinstance(line.row, BadRow)]
        if rows:
            columns.check(rows)
        yield from first
        yield from lines
    except DAMAGED as error:
        raise FileError(f"cannot read the file: {error}") from error


def read_jsonl(lines: Iterable[bytes]) -> Iterator[Line]:
    """One JSON object a line; blank lines are passed over."""
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            row = decode(line)
        except UnicodeDecodeError:
            yield Line(number, BadRow("not UTF-8"))
        except (msgspec.DecodeError, RecursionError) as error:
            yield Line(number, BadRow(f"not JSON: {error}"))
        else:
            yield Line(number, row if isinstance(row, dict) else BadRow("not a JSON object"))


def _read_table(lines: IO[bytes], file_format: NewsFormat, columns: Columns) -> Iterator[Line]:
    csv.field_size_limit(2**24)
    text = io.TextIOWrapper(cast("Any", lines), "utf-8-sig", errors="surrogateescape", newline="")
    head = text.readline()
    table = chain([head], text) if head else iter(())
    if file_format == "tsv":
        # text/tab-separated-values has no quotes: a quotation mark in a headline is one.
        reader = csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(table, delimiter=max(",;\t|", key=head.count))
    names = next(reader, [])
    by_number = [column for column in columns.given.values() if column.isdecimal() and column not in names]
    if by_number:
        # Columns that are named by their number: the file has no header, and its first line is news.
        reader = chain([names], reader)  # type: ignore[assignment]
        names = [str(number) for number in range(1, len(names) + 1)]
    number = 0
    try:
        for number, cells in enumerate(reader, 1 if by_number else 2):
            if not cells:
                continue
            if len(cells) > len(names):
                yield Line(number, BadRow(f"{len(cells)} cells under {len(names)} columns"))
            else:
                yield Line(number, dict(zip(names, cells, strict=False)))
    except csv.Error as error:
        raise FileError(f"line {number + 1}: {error}") from error
