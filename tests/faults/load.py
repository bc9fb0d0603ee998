"""A continuous load of known input, and what of it the broker has acknowledged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from kafka import KafkaProducer
from kafka.errors import KafkaError

from earlybell.streams.brokers import client_options
from earlybell.streams.settings import Settings

Revision = tuple[str, int]

#: Messages in a batch, and the pause between batches. The last of each batch is broken.
BATCH, PAUSE_S = 100, 1.0
CODECS = (None, "gzip", "lz4", "snappy", "zstd")


@dataclass
class Input:
    """What was published and acknowledged: revisions of stories, and messages that no reader can use."""

    revisions: set[Revision] = field(default_factory=set)
    broken: set[bytes] = field(default_factory=set)


class Load:
    """Publishes batches, each until the broker has acknowledged all of it."""

    def __init__(self, settings: Settings) -> None:
        self.given = Input()
        self._settings = settings
        self._over = threading.Event()
        self._number = 0

    @property
    def coming(self) -> Revision:
        """A story that will be published soon."""
        _, revision = message((self._number + 1) * BATCH)
        assert revision is not None
        return revision

    def stop(self) -> None:
        """Make `run` end after its current batch, which needs a broker that answers."""
        self._over.set()

    def run(self) -> None:
        """Publish until told to stop."""
        while not self._over.wait(PAUSE_S):
            number = self._number
            batch = dict(message(n) for n in range(number * BATCH, (number + 1) * BATCH))
            left = dict(batch)
            while left:
                # An unacknowledged message may have been written all the same; ids make the repetition harmless.
                with suppress(KafkaError, OSError):
                    self._publish(left, CODECS[number % len(CODECS)])
            self.given.revisions |= {revision for revision in batch.values() if revision is not None}
            self.given.broken |= {value for value, revision in batch.items() if revision is None}
            self._number += 1

    def _publish(self, left: dict[bytes, Revision | None], codec: str | None) -> None:
        """Send these messages, and take those out that were acknowledged."""
        producer = KafkaProducer(
            **client_options(self._settings), acks="all", compression_type=codec, request_timeout_ms=10_000
        )
        try:
            topic = self._settings.news_topic
            sent = {value: producer.send(topic, key=_key(revision), value=value) for value, revision in left.items()}
            deadline = time.monotonic() + 15.0
            for value, future in sent.items():
                future.get(timeout=max(0.1, deadline - time.monotonic()))
                del left[value]
        finally:
            producer.close(timeout=1.0)


def message(number: int) -> tuple[bytes, Revision | None]:
    """Return a message, and its story and revision if it is a story: every story is corrected once."""
    if number % BATCH == BATCH - 1:
        return b'{"id": "broken-%d"' % number, None
    news_id, revision = f"s{number // 2}", number % 2 + 1
    news = {
        "id": news_id,
        "revision": revision,
        "headline": f"Meridian Freight raises its outlook for quarter {number} after revision {revision}",
        "published_at": "2026-01-05T09:30:00Z",
    }
    return json.dumps(news).encode(), (news_id, revision)


def stories(first: int, end: int) -> Sequence[bytes]:
    """Return stories with one short headline, numbered by their ids."""
    news = ({"id": f"s{n}", "headline": "Acme", "published_at": "2026-01-05T09:30:00Z"} for n in range(first, end))
    return [json.dumps(story).encode() for story in news]


def _key(revision: Revision | None) -> bytes | None:
    return None if revision is None else revision[0].encode()
