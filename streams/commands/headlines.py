"""Finds the headlines of signals on the news topic: each signal names the message that it answers.

So a signal stays small, and a headline, which may not be passed on freely, stays on its own topic. A story whose
message has been deleted by retention has no headline any more.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

from kafka import TopicPartition

from earlybell.streams.brokers import open_consumer
from earlybell.streams.records import BadNews, SentimentSignal, decode_news
from earlybell.streams.settings import Settings

#: A headline is worth waiting for, but not for long: a signal without one is printed all the same.
PATIENCE_S = 2.0
_POLL_MS = 100


class Headlines:
    """Reads headlines from the news topic."""

    def __init__(self, settings: Settings) -> None:
        """Open a consumer.

        Raises
        ------
        BrokerError
            No broker answers.
        """
        self._topics = settings.news_topics
        # The offset of a deleted message leads to the oldest that is left.
        self._consumer = open_consumer(settings, auto_offset_reset="earliest")

    def find(self, signals: Iterable[SentimentSignal]) -> dict[str, str]:
        """Return the headlines of these signals by signal_id; those that cannot be found are left out."""
        wanted: dict[TopicPartition, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for signal in signals:
            if signal.topic in self._topics and signal.partition is not None and signal.offset is not None:
                wanted[TopicPartition(signal.topic, signal.partition)][signal.offset].append(signal.signal_id)
        if not wanted:
            return {}
        self._consumer.assign(list(wanted))
        self._consumer.resume(*wanted)
        for partition, offsets in wanted.items():
            self._consumer.seek(partition, min(offsets))
        headlines: dict[str, str] = {}
        started = time.monotonic()
        while wanted and time.monotonic() - started < PATIENCE_S:
            for partition, records in self._consumer.poll(timeout_ms=_POLL_MS).items():
                for record in records:
                    ids = wanted.get(partition, {}).pop(record.offset, ())
                    if ids and (headline := _headline(record.value)) is not None:
                        headlines.update(dict.fromkeys(ids, headline))
                passed = [offset for offset in wanted.get(partition, ()) if offset <= records[-1].offset]
                for offset in passed:
                    del wanted[partition][offset]
                if partition in wanted and not wanted[partition]:
                    del wanted[partition]
                    self._consumer.pause(partition)
        return headlines

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


def _headline(value: bytes | None) -> str | None:
    try:
        return decode_news(value).headline
    except BadNews:
        return None
