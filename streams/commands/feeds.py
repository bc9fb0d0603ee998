"""Replay a file as a feed: its rows become messages of the news topic, at the pace at which the news came out.

Two ways in: rows that are made into news items (whatever their columns are called), or a JSONL file's lines
sent as they are, which is how broken messages get into a sample.
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
from earlybell.streams.commands.rows import BadRow, Columns, OpenFile, read
from earlybell.streams.records import MAX_MESSAGE_BYTES, NewsItem, decode_news, encode
from earlybell.streams.settings import Settings

#: How long the last messages may take to be acknowledged.
FLUSH_TIMEOUT_S = 120.0
#: Key and value of the largest message that the news topic takes: its limit holds for the batch around it as well.
#: We refuse what is larger ourselves, since a broker's refusal ends an idempotent producer and all that it still holds.
LARGEST_BYTES = MAX_MESSAGE_BYTES - 128
#: A pause is taken in pieces of at most this, so that progress is shown and Ctrl-C heard.
_NAP_S = 0.25


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a feed: when it is due in the file's own time, and what it is."""

    line: int
    due: datetime | None
    key: bytes | None
    value: bytes | None


@dataclass(slots=True)
class Report:
    """What became of a replay."""

    sent: int = 0  # handed to the producer
    bad: int = 0  # rows that are no news items, left out
    refused: int = 0  # too large, or not taken by a broker
    reason: str = ""  # of the first that was refused
    seconds: float = 0.0


class Pacer:
    """Holds a message back until it is due, at a multiple of real time; news that is out of order goes at once."""

    def __init__(
        self,
        speed: float | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Pace at ``speed`` times real time; None is as fast as it goes."""
        self._speed = speed
        self._now = now
        self._sleep = sleep
        self._origin: tuple[datetime, float] | None = None

    def wait(self, due: datetime | None) -> Iterator[None]:
        """Sleep until ``due``, yielding before each nap."""
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
    """The messages of a file whose rows are news; ``bad`` is told the line and the reason of each that is not.

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
    """Each line's bytes untouched; an empty line is a message without a value, a tombstone.

    The key is the news id, so that revisions stay in order; a line without one has none (a tombstone, which
    must have a key, is keyed by where it stands).
    """
    for number, line in enumerate(file.lines, 1):
        if limit is not None and number > limit:
            return
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


def replay(
    feed: Iterator[Message],
    producer: KafkaProducer,
    settings: Settings,
    *,
    topic: str,
    pacer: Pacer,
    report: Report,
    progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Send a feed's messages and wait until the brokers have them.

    ``report`` is brought up to date as it goes, so that a replay that is broken off can still say how far it came.

    Raises
    ------
    BrokerError
        The brokers went away, or do not know the topic.
    FileError
        The file is not as it should be.
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
                if len(message.value or b"") + len(message.key or b"") > LARGEST_BYTES:
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
