"""Publishes a file as a feed: its rows become messages of the news topic, at a multiple of the pace of the news.

Rows are either converted into news items, whatever their columns are called, or sent unchanged as the lines of a JSONL
file, which is how the sample feed contains broken messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError

from earlybell.streams.brokers import reaching
from earlybell.streams.commands.formats import NewsFormat
from earlybell.streams.commands.rows import MAX_LINE_BYTES, BadRow, Columns, OpenFile, bounded_lines, read
from earlybell.streams.exceptions import FileError
from earlybell.streams.records import MAX_MESSAGE_BYTES, NewsItem, decode_news, encode
from earlybell.streams.settings import Settings

#: How long the last messages may take to be acknowledged.
FLUSH_TIMEOUT_S = 120.0
#: The largest key and value that fit the news topic, whose limit covers the batch around them as well. Larger messages
#: are refused here, since a broker's refusal ends an idempotent producer and fails everything that it still holds.
MAX_KEY_AND_VALUE_BYTES = MAX_MESSAGE_BYTES - 128
#: Pauses are cut into naps of at most this, so that progress is shown and Ctrl-C works.
_NAP_S = 0.25


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a feed, and when it is due in the file's own time."""

    line: int
    due: datetime | None
    key: bytes | None
    value: bytes | None


@dataclass(slots=True)
class Report:
    """The counts of a replay."""

    sent: int = 0  # handed to the producer
    bad: int = 0  # rows that are not valid news, skipped
    refused: int = 0  # too large, or refused by a broker
    reason: str = ""  # of the first refusal
    seconds: float = 0.0


class Pacer:
    """Holds each message back until it is due, at a multiple of real time. Messages out of order go at once."""

    def __init__(
        self,
        speed: float | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Pace at ``speed`` times real time, or without pauses if it is None."""
        self._speed = speed
        self._now = now
        self._sleep = sleep
        self._origin: tuple[datetime, float] | None = None

    def wait(self, due: datetime | None) -> Iterator[None]:
        """Sleep until ``due``, and yield before each nap."""
        if self._speed is None or due is None:
            return
        if self._origin is None:
            self._origin = (due, self._now())
        first, started = self._origin
        at = started + (due - first).total_seconds() / self._speed
        while (left := at - self._now()) > 0:
            yield
            self._sleep(min(left, _NAP_S))


class _Id(msgspec.Struct):
    id: str


_id_decoder = msgspec.json.Decoder(_Id)


def messages(
    file: OpenFile, file_format: NewsFormat, columns: Columns, bad: Callable[[int, str], None], limit: int | None = None
) -> Iterator[Message]:
    """Yield a message for each row that is valid news; call ``bad`` with the line number and reason of the others.

    Raises
    ------
    FileError
        A column is missing, or the file cannot be read.
    """
    for count, line in enumerate(read(file, file_format, columns)):
        if limit is not None and count >= limit:
            return
        try:
            if isinstance(line.row, BadRow):
                raise line.row
            item = columns.item(line.row)
        except BadRow as error:
            bad(line.number, str(error))
        else:
            yield Message(line.number, item.published_at, item.id.encode(), encode(item))


def raw_messages(file: OpenFile, limit: int | None = None) -> Iterator[Message]:
    """Yield each line's bytes unchanged; an empty line is a tombstone, a message without a value.

    The key is the news id, so that revisions stay in order; a line without an id has no key. A tombstone, which must
    have one, is keyed by its line number.

    Raises
    ------
    FileError
        A line is longer than `MAX_LINE_BYTES`.
    """
    for number, line in enumerate(bounded_lines(file.lines), 1):
        if limit is not None and number > limit:
            return
        if line is None:
            raise FileError(f"line {number}: longer than {MAX_LINE_BYTES} bytes")
        value = line.rstrip(b"\r\n")
        if not value:
            yield Message(number, None, f"line:{number}".encode(), None)
            continue
        try:
            key = _id_decoder.decode(value).id.encode()
        except (msgspec.MsgspecError, ValueError, RecursionError):
            key = None
        yield Message(number, _published_at(value), key, value)


def _published_at(value: bytes) -> datetime | None:
    try:
        item: NewsItem = decode_news(value)
    except ValueError:
        return None
    return item.published_at


def publish(
    feed: Iterator[Message],
    producer: KafkaProducer,
    settings: Settings,
    *,
    topic: str,
    pacer: Pacer,
    report: Report,
    progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Send a feed's messages and wait until the brokers have acknowledged them.

    ``report`` is updated throughout, so that it also holds the counts of a replay that is interrupted.

    Raises
    ------
    BrokerError
        The brokers went away, or do not know the topic.
    FileError
        The file cannot be read, or lacks a column.
    """

    def refused(error: BaseException) -> None:
        report.refused += 1
        report.reason = report.reason or str(error)

    started = time.monotonic()
    try:
        with reaching(settings):
            for message in feed:
                for _ in pacer.wait(message.due):
                    progress(report)
                if len(message.value or b"") + len(message.key or b"") > MAX_KEY_AND_VALUE_BYTES:
                    size = len(message.value or b"")
                    refused(ValueError(f"message of {size} bytes; the limit is {MAX_MESSAGE_BYTES}"))
                    continue
                try:
                    producer.send(topic, message.value, message.key).add_errback(refused)
                except KafkaError as error:
                    if error.retriable:
                        raise
                    refused(error)
                report.sent += 1
                if not report.sent % 256:
                    progress(report)
            producer.flush(timeout=FLUSH_TIMEOUT_S)
    finally:
        report.seconds = time.monotonic() - started
        progress(report)
    return report
