"""The storing role: news and signals → Postgres.

The order of work: commit in Postgres, then acknowledge. After a crash in between the same rows are written again, and
their primary keys discard them. Messages that cannot be read are counted and skipped: the scoring role has already
sent their dead letters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from earlybell.storage.writer import Writer, Written
from earlybell.streams.records import BadNews, broker_time, decode_news, decode_signal
from earlybell.streams.settings import Settings
from earlybell.streams.transport import Chunk
from earlybell.streams.windows import Limits, Windows

log = structlog.get_logger(__name__)

Row = Mapping[str, Any]


class Storing:
    """Writes the messages of one topic into one table.

    Parameters
    ----------
    settings
        Limits of a transaction.
    row
        Returns the row of a message; raises if it has none.
    write
        Writes rows in one transaction. It is called in a thread, one call at a time.
    """

    def __init__(
        self, settings: Settings, row: Callable[[Any], Row], write: Callable[[Sequence[Row]], Written]
    ) -> None:
        self._row, self._write = row, write
        self.windows = Windows[Any, list[Row]](
            self._rows,
            self._store,
            limits=Limits(settings.store_rows, settings.store_rows, settings.store_delay_ms / 1000),
            in_flight=2,
        )
        self.new = self.known = self.unreadable = 0

    async def take(self, chunk: Chunk) -> None:
        """Add a chunk; waits while the rows of a full transaction are waiting already."""
        await self.windows.add(chunk, [(record, 1) for record in chunk.records])

    async def _rows(self, records: Sequence[Any]) -> list[Row]:
        rows = []
        for record in records:
            try:
                rows.append(self._row(record))
            except Exception as fault:
                # A retry would fail in the same way, and the other messages must not wait for it.
                self.unreadable += 1
                log.debug(
                    "message_skipped",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    reason=str(fault),
                )
        return rows

    async def _store(self, records: Sequence[Any], rows: list[Row]) -> None:
        if not rows:
            return
        written = await asyncio.to_thread(self._write, rows)
        for refused in written.refused:
            row = rows[refused.index]
            log.error("row_refused", news_id=row["news_id"], revision=row["revision"], reason=refused.reason)
        self.new += written.new
        self.known += len(rows) - written.new - len(written.refused)


def storing_news(settings: Settings, writer: Writer) -> Storing:
    """Store news in the table ``news``."""
    return Storing(settings, news_row, writer.write_news)


def storing_signals(settings: Settings, writer: Writer) -> Storing:
    """Store signals in the table ``signals``."""
    return Storing(settings, signal_row, writer.write_signals)


def news_row(record: Any) -> Row:
    """Return the row of a message of the news topic."""
    item = decode_news(record.value)
    return {
        "news_id": item.id,
        "revision": item.revision,
        "headline": item.headline,
        "body": item.body,
        "source": item.source,
        "symbols": item.symbols or [],
        "language": item.language,
        "url": item.url,
        "published_at": item.published_at,
        "ingested_at": broker_time(record),
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
    }


def signal_row(record: Any) -> Row:
    """Return the row of a message of the sentiment topic: the signal, and when it became available."""
    if record.value is None:
        raise BadNews("tombstone: the message has no value")
    return {**msgspec.structs.asdict(decode_signal(record.value)), "available_at": broker_time(record)}
