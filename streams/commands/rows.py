"""Reads the rows of a file as news items: maps columns to fields, parses times, and derives missing ids.

Files are JSONL, CSV or TSV, plain or compressed (.gz, .xz, .bz2); ``-`` is the standard input. This module knows
nothing of Kafka.
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

#: The names that feeds give our fields; of several in one file, the first listed here that has a value is taken.
COMMON_NAMES: Mapping[str, tuple[str, ...]] = {
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
#: Rows that are read before a column is declared missing: in JSONL, the first row need not have them all.
LOOK_AHEAD_ROWS = 100
#: A longer line is no news, and a small archive may hold one that is larger than the memory.
MAX_LINE_BYTES = 16 * 1_048_576
#: The size of an epoch time tells its unit: seconds until the year 5138, then milli-, micro- and nanoseconds.
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


#: Raised when a damaged file is read.
DAMAGE_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)


class BadRow(ValueError):
    """A row that is not a valid news item. Its text is the reason."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a file and its line number, or the reason why it cannot be read."""

    number: int
    row: Row | BadRow


@dataclass(frozen=True, slots=True)
class Columns:
    """Maps the columns of a file to the fields of a news item.

    Attributes
    ----------
    given
        field → column, as given by the user; for the other fields the common names are tried in order.
    timezone
        The zone of times without an offset. If it is None such a time is refused, since a wrong guess would let a
        backtest see news hours early.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    timezone: tzinfo | None = None
    _names: tuple[tuple[str, tuple[str, ...]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = {name: (self.given[name],) if name in self.given else common for name, common in COMMON_NAMES.items()}
        object.__setattr__(self, "_names", tuple(names.items()))

    @classmethod
    def parse(cls, pairs: Iterable[str], timezone: str | None = None) -> Columns:
        """Build the mapping from ``field=column`` pairs and the name of a time zone.

        Raises
        ------
        FileError
            A pair is malformed, news has no such field, or the time zone is unknown.
        """
        given = {}
        for pair in pairs:
            name, equals, column = pair.partition("=")
            if not (equals and column) or name not in COMMON_NAMES:
                raise FileError(f"--map {pair}: use field=column, where field is one of {', '.join(COMMON_NAMES)}")
            given[name] = column
        try:
            zone = ZoneInfo(timezone) if timezone else None
        except (KeyError, ValueError, OSError):
            raise FileError(f"--timezone {timezone}: unknown; use a name such as UTC or America/New_York") from None
        return cls(given, zone)

    def check(self, rows: Iterable[Row]) -> None:
        """Check that at least one of the rows has each given column and each required field.

        Raises
        ------
        FileError
            A column is missing; the text names it, and the columns that the file has.
        """
        present = list(dict.fromkeys(chain.from_iterable(rows)))
        listed = f"the file has {', '.join(shorten(column, 40, placeholder='…') for column in present[:20])}"
        for name, column in self.given.items():
            if column not in present:
                raise FileError(f"no column {column!r} for {name}: {listed}")
        for name, names in self._names:
            if name in REQUIRED and not any(column in present for column in names):
                raise FileError(
                    f"no column for {name}: {listed}; name it with --map {name}=COLUMN, "
                    "or give its number, from 1, if the file has no header"
                )

    def item(self, row: Row) -> NewsItem:
        """Return the news item in a row.

        Raises
        ------
        BadRow
            The row violates the contract of the news topic; the text is the reason.
        """
        fields: dict[str, Any] = {}
        for name, columns in self._names:
            for column in columns:
                value = row.get(column)
                if value is not None and value != "":
                    fields[name] = value
                    break
        for name in REQUIRED:
            if name not in fields:
                raise BadRow(f"no {name}")
        fields["published_at"] = parse_time(fields["published_at"], self.timezone)
        if "symbols" in fields:
            fields["symbols"] = parse_symbols(fields["symbols"])
        if "revision" in fields:
            fields["revision"] = _integer(fields["revision"])
        for name in ("headline", "body", "source", "language", "url"):
            if name in fields:
                fields[name] = _text(fields[name], name)
        fields["id"] = str(fields["id"]) if "id" in fields else derived_id(fields)
        try:
            # Through the contract's own decoder, so that the scoring role accepts whatever is sent.
            return decode_news(msgspec.json.encode(fields))
        except UnicodeEncodeError as error:
            raise BadRow("not UTF-8, or a lone surrogate") from error
        except BadNews as error:
            raise BadRow(str(error)) from error


def derived_id(fields: Mapping[str, Any]) -> str:
    """Derive the id of a story that has none: from its url, or else from source, headline and time.

    The same story has the same id in every replay, so that a second replay adds nothing.
    """
    url = fields.get("url")
    parts = [url] if url else [fields.get("source"), fields["headline"], fields["published_at"].astimezone(UTC)]
    try:
        digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
    except UnicodeEncodeError as error:
        raise BadRow("not UTF-8, or a lone surrogate") from error
    return f"{'url' if url else 'story'}:{digest}"


def parse_time(value: Any, timezone: tzinfo | None = None) -> datetime:
    """Parse a time in RFC 3339, ISO 8601 or RFC 2822, or as an epoch time in s, ms, µs or ns.

    Raises
    ------
    BadRow
        The value is not a time, or it has no offset and no time zone was given.
    """
    try:
        if isinstance(value, str):
            text = value.strip()
            digits = text.removeprefix("-").replace(".", "", 1)
            if not digits.isdecimal() or (len(text) == _DAY_DIGITS and text.isdecimal()):
                return _with_offset(_parse_text(text), value, timezone)
            value = float(text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadRow(f"not a time: {value!r}")
        unit = next(unit for limit, unit in EPOCH_UNITS if abs(value) < limit)
        return datetime.fromtimestamp(value / unit, UTC)
    except (ValueError, OverflowError, OSError, StopIteration) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow(f"not a time: {value!r}") from error


def _parse_text(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)


def _with_offset(time: datetime, value: str, timezone: tzinfo | None) -> datetime:
    if time.tzinfo is not None:
        return time
    if timezone is None:
        raise BadRow(f"time without an offset: {value!r}; give its zone, such as --timezone America/New_York")
    return time.replace(tzinfo=timezone)


def parse_symbols(value: Any) -> list[str]:
    """Return the ticker symbols in a list, or in a text that separates them by comma, semicolon, bar or space."""
    if isinstance(value, str):
        parts: Iterable[Any] = re.split(r"[,;|\s]+", value.strip("[]() "))
    elif isinstance(value, list):
        parts = value
    else:
        raise BadRow(f"symbols are neither a list nor text: {value!r}")
    symbols = []
    for part in parts:
        symbol = part
        if isinstance(part, dict):  # some feeds nest them: [{"ticker": ...}]
            symbol = next((part[name] for name in COMMON_NAMES["symbols"] if name in part), None)
        if not isinstance(symbol, str):
            raise BadRow(f"not a symbol: {part!r}")
        symbols.append(symbol.strip(" '\"").removeprefix("$"))
    return list(dict.fromkeys(filter(None, symbols)))


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
        raise BadRow(f"{name} is not text: {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open file: its lines, decompressed, and the position in the file as stored."""

    lines: IO[bytes]
    stored: IO[bytes]
    size: int | None  # bytes as stored; None for a pipe

    def position(self) -> int:
        """Return the number of stored bytes read so far."""
        return self.stored.tell() if self.size is not None else 0


def open_file(path: str) -> OpenFile:
    """Open a file, or the standard input for ``-``.

    Raises
    ------
    FileError
        It does not exist, or may not be read.
    """
    if path == "-":
        # Our own buffer: a thread that is still waiting for input must not hold the interpreter's at exit.
        stdin = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
        return OpenFile(stdin, stdin, None)
    try:
        stored = Path(path).open("rb")  # noqa: SIM115  (open for as long as the command runs)
    except OSError as error:
        raise FileError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    opener = _OPENERS.get(Path(path).suffix.lower())
    size = Path(path).stat().st_size if Path(path).is_file() else None
    return OpenFile(cast("IO[bytes]", opener(stored)) if opener else stored, stored, size)


def format_of(path: str) -> NewsFormat:
    """Return the format that a file's name indicates.

    Raises
    ------
    FileError
        The name indicates none.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() not in _OPENERS]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise FileError(f"{path}: cannot tell the format from the name; use --format jsonl, csv or tsv")


def read(file: OpenFile, file_format: NewsFormat, columns: Columns) -> Iterator[Line]:
    """Yield the rows of an open file in order, after checking that it has the columns.

    Raises
    ------
    FileError
        A column is missing, or the file cannot be read or decompressed.
    """
    lines = _read_jsonl(file.lines) if file_format == "jsonl" else _read_table(file.lines, file_format, columns)
    try:
        first = list(islice(lines, LOOK_AHEAD_ROWS))
        rows = [line.row for line in first if not isinstance(line.row, BadRow)]
        if rows:
            columns.check(rows)
        yield from first
        yield from lines
    except DAMAGE_ERRORS as error:
        raise FileError(f"cannot read the file: {error}") from error


def bounded_lines(lines: IO[bytes]) -> Iterator[bytes | None]:
    """Yield the lines of a file, and None in place of one that is longer than `MAX_LINE_BYTES`."""
    while line := lines.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = lines.readline(MAX_LINE_BYTES)
        yield None


def _read_jsonl(lines: IO[bytes]) -> Iterator[Line]:
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(bounded_lines(lines), 1):
        if line is None:
            yield Line(number, BadRow(f"longer than {MAX_LINE_BYTES} bytes"))
            continue
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


def _text_lines(text: io.TextIOWrapper) -> Iterator[str]:
    number = 1
    while line := text.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise FileError(f"line {number}: longer than {MAX_LINE_BYTES} characters")
        yield line
        number += 1


def _read_table(lines: IO[bytes], file_format: NewsFormat, columns: Columns) -> Iterator[Line]:
    csv.field_size_limit(MAX_LINE_BYTES)
    text = _text_lines(io.TextIOWrapper(cast("Any", lines), "utf-8-sig", errors="surrogateescape", newline=""))
    head = next(text, "")
    table = chain([head], text) if head else iter(())
    if file_format == "tsv":
        # text/tab-separated-values has no quoting: a quotation mark belongs to the headline.
        reader = csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(table, delimiter=max(",;\t|", key=head.count))
    names = next(reader, [])
    by_number = [column for column in columns.given.values() if column.isdecimal() and column not in names]
    if by_number:
        # Columns are given by number, so the file has no header and its first line is news.
        reader = chain([names], reader)  # type: ignore[assignment]
        names = [str(number) for number in range(1, len(names) + 1)]
    number = 0
    try:
        for number, cells in enumerate(reader, 1 if by_number else 2):
            if not cells:
                continue
            if len(cells) > len(names):
                yield Line(number, BadRow(f"{len(cells)} cells for {len(names)} columns"))
            else:
                yield Line(number, dict(zip(names, cells, strict=False)))
    except csv.Error as error:
        raise FileError(f"line {number + 1}: {error}") from error
