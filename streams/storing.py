"""The storing role: news and signals → Postgres; what cannot be stored → dead letters.

The order of work: commit in Postgres, send the dead letters, then acknowledge. After a crash in between the same rows
are written again, and their primary keys discard them. News that cannot be read is counted and skipped: the scoring
role has already sent its dead letter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from earlybell.streams import dead_letters, metrics
from earlybell.streams.producer import Outgoing
from earlybell.streams.records import BadNews, SentimentSignal, broker_time, decode_news, decode_signal
from earlybell.streams.settings import Settings
from earlybell.streams.transport import Chunk
from earlybell.streams.windows import Limits, Windows

if TYPE_CHECKING:
    from earlybell.storage.writer import Writer, Written

log = structlog.get_logger(__name__)

Row = tuple[Any, ...]  # values in the order of the table's columns
#: The columns of the table ``signals`` are a signal's fields, with ``available_at`` before this one.
_AFTER_AVAILABLE_AT = SentimentSignal.__struct_fields__.index("queue_ms")

SendAll = Callable[[str, Sequence[Outgoing]], Awaitable[None]]


@dataclass(slots=True)
class Batch:
    """What becomes of a window: each message has a row or a dead letter, or is skipped."""

    rows: list[Row] = field(default_factory=list)
    origins: list[Any] = field(default_factory=list)  # the message of each row
    letters: list[Outgoing] = field(default_factory=list)
    stored: bool = False  # a retry after a failure with the letters does not write the rows again


class Storing:
    """Writes the messages of one topic into one table.

    Parameters
    ----------
    settings
        Limits of a transaction, and the topic of the dead letters.
    table
        The table's name, for the metrics.
    row
        Returns the row of a message, or None to skip it; raises if it has none.
    write
        Writes rows in one transaction. It is called in a thread, one call at a time.
    send_all
        Sends messages to a topic and returns when the broker has them all (`streams.transport.Producer.send_all`).
    """

    def __init__(
        self,
        settings: Settings,
        table: str,
        row: Callable[[Any], Row | None],
        write: Callable[[Sequence[Row]], Written],
        send_all: SendAll,
    ) -> None:
        self._dead_topic = settings.dead_topic
        self._table = table
        self._row, self._write, self._send_all = row, write, send_all
        self.windows = Windows[Any, Batch](
            self._rows,
            self._store,
            limits=Limits(settings.store_rows, settings.store_rows, settings.store_delay_ms / 1000),
            in_flight=2,
        )
        self.new = self.known = self.skipped = self.letters = 0

    async def take(self, chunk: Chunk) -> None:
        """Add a chunk; waits while the rows of a full transaction are waiting already."""
        await self.windows.add(chunk, [(record, 1) for record in chunk.records])

    async def _rows(self, records: Sequence[Any]) -> Batch:
        batch = Batch()
        for record in records:
            try:
                row = self._row(record)
            except Exception as fault:
                # A retry would fail in the same way, and the other messages must not wait for it.
                kind = type(fault).__name__
                batch.letters.append(dead_letters.letter(record, stage="decode", kind=kind, reason=str(fault)))
                continue
            if row is None:
                self.skipped += 1
            else:
                batch.rows.append(row)
                batch.origins.append(record)
        return batch

    async def _store(self, records: Sequence[Any], batch: Batch) -> None:
        if batch.rows and not batch.stored:
            with metrics.STORE_SECONDS.time():
                written = await asyncio.to_thread(self._write, batch.rows)
            batch.stored = True
            batch.letters += [
                dead_letters.letter(
                    batch.origins[refused.index], stage="store", kind="RowRefused", reason=refused.reason
                )
                for refused in written.refused
            ]
            self.new += written.new
            known = len(batch.rows) - written.new - len(written.refused)
            self.known += known
            for outcome, rows in (("new", written.new), ("known", known), ("refused", len(written.refused))):
                metrics.ROWS.labels(table=self._table, outcome=outcome).inc(rows)
        if batch.letters:
            await dead_letters.send(batch.letters, self._dead_topic, self._send_all)
            self.letters += len(batch.letters)


def storing_news(settings: Settings, writer: Writer, send_all: SendAll) -> Storing:
    """Store news in the table ``news``."""
    return Storing(settings, "news", news_row, writer.write_news, send_all)


def storing_signals(settings: Settings, writer: Writer, send_all: SendAll) -> Storing:
    """Store signals in the table ``signals``."""
    return Storing(settings, "signals", SignalRows(), writer.write_signals, send_all)


def news_row(record: Any) -> Row | None:
    """Return the row of a message of the news topic, or None if the scoring role has sent its dead letter."""
    try:
        item, ingested_at = decode_news(record.value), broker_time(record)
    except BadNews as fault:
        log.debug("message_skipped", partition=record.partition, offset=record.offset, reason=str(fault))
        return None
    return (
        item.id,
        item.revision,
        item.headline,
        item.body,
        item.source,
        item.symbols or [],
        item.language,
        item.url,
        item.published_at,
        ingested_at,
        record.topic,
        record.partition,
        record.offset,
    )


class SignalRows:
    """Returns the row of each message of the sentiment topic: the signal, and when it became available.

    A signal is available from the broker's time on (LogAppendTime). Clocks are wrong at times, and a backtest must not
    see the future for it: the time is never before the answer (``scored_at``, by the worker's clock), and where the
    broker's clock steps back, it stands still, since later offsets of a partition cannot be available earlier.
    """

    def __init__(self) -> None:
        self._latest: dict[int, tuple[int, datetime]] = {}  # partition -> its last offset, and the latest time

    def __call__(self, record: Any) -> Row:
        """Return the row of a message.

        Raises
        ------
        BadNews, msgspec.MsgspecError
            The message is not a signal, or has its producer's time.
        """
        appended_at = self._never_backwards(record)
        if record.value is None:
            raise BadNews("tombstone: the message has no value")
        signal = decode_signal(record.value)
        fields = msgspec.structs.astuple(signal)
        available_at = max(appended_at, signal.scored_at)
        return (*fields[:_AFTER_AVAILABLE_AT], available_at, *fields[_AFTER_AVAILABLE_AT:])

    def _never_backwards(self, record: Any) -> datetime:
        appended_at = broker_time(record)
        if (before := self._latest.get(record.partition)) is not None:
            last_offset, latest = before
            if record.offset > last_offset:  # else the partition is read again
                appended_at = max(appended_at, latest)
        self._latest[record.partition] = record.offset, appended_at
        return appended_at
