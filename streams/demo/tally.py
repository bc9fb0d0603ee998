"""Counts what the demo has seen so far, and compares it with what the sample feed should produce.

Knows nothing of the screen, and of Kafka only what a message looks like.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from earlybell.streams.dead_letters import OFFSET, PARTITION, REASON
from earlybell.streams.demo import sample
from earlybell.streams.records import SentimentSignal, decode_signal

#: Signals that are kept for the screen.
LATEST_SIGNALS = 8
_RATE_WINDOW_S = 3.0


class _Intended(msgspec.Struct):
    id: str
    headline: str
    intended: str
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the origin of the message, how it begins, and the reason."""

    partition: int
    offset: int
    value: str
    reason: str


def intended() -> dict[tuple[str, int], tuple[str, str]]:
    """Return the headline and intended label of every story of the sample, by (id, revision)."""
    decode: Any = msgspec.json.Decoder(_Intended).decode
    stories = {}
    for line in sample.FEED.read_bytes().splitlines():
        try:
            story = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        stories[story.id, story.revision] = (story.headline.replace("\0", ""), story.intended)
    return stories


@dataclass(slots=True)
class Tally:
    """Counts, the latest signals, all dead letters, and the latency of every signal."""

    published: int = 0
    news_rows: int = 0
    signal_rows: int = 0
    messages: int = 0  # on the sentiment topic; a duplicate is scored again and has the same signal_id
    signal_ids: set[str] = field(default_factory=set)
    depths: Counter[int] = field(default_factory=Counter)
    depth_limit: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    as_intended: int = 0
    latencies_ms: list[float] = field(default_factory=list)  # from the news on its topic to the signal on its own
    latest: deque[SentimentSignal] = field(default_factory=lambda: deque(maxlen=LATEST_SIGNALS))
    letters: list[Letter] = field(default_factory=list)
    headlines: Mapping[tuple[str, int], tuple[str, str]] = field(default_factory=intended)
    _arrivals: deque[float] = field(default_factory=deque)

    def add_signal(self, value: bytes, broker_ms: int) -> None:
        """Count a message of the sentiment topic, with the broker's timestamp (epoch milliseconds)."""
        signal = decode_signal(value)
        self.messages += 1
        self._arrivals.append(time.monotonic())
        if signal.ingested_at is not None:
            self.latencies_ms.append(broker_ms - signal.ingested_at.timestamp() * 1000)
        if signal.signal_id in self.signal_ids:
            return
        self.signal_ids.add(signal.signal_id)
        self.depths[signal.exit_depth] += 1
        self.depth_limit = signal.depth_limit
        self.labels[signal.label] += 1
        self.latest.append(signal)
        self.as_intended += self.headline(signal)[1] == signal.label

    def add_letter(self, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        """Count a message of the dead-letter topic."""
        texts = {name: text.decode(errors="replace") for name, text in headers}
        beginning = "(no value)" if value is None else value[:80].decode(errors="replace")
        self.letters.append(Letter(int(texts[PARTITION[0]]), int(texts[OFFSET[0]]), beginning, texts[REASON[0]]))

    def headline(self, signal: SentimentSignal) -> tuple[str, str]:
        """Return the headline of a signal's story, and the label that its writer intended."""
        return self.headlines.get((signal.news_id, signal.revision), (signal.news_id, ""))

    def per_second(self) -> float:
        """Return the signals per second over the last few seconds."""
        now = time.monotonic()
        while self._arrivals and now - self._arrivals[0] > _RATE_WINDOW_S:
            self._arrivals.popleft()
        return len(self._arrivals) / _RATE_WINDOW_S

    def percentile(self, share: float) -> float:
        """Return the latency in milliseconds that this share of the signals did not exceed; NaN before the first."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return the actual and the expected count of everything, by name."""
        return {
            "messages published": (self.published, sample.MESSAGES),
            "signals on the topic": (self.messages, sample.SIGNALS + sample.DUPLICATES),
            "distinct signals": (len(self.signal_ids), sample.SIGNALS),
            "dead letters": (len(self.letters), len(sample.BROKEN)),
            "rows in news": (self.news_rows, sample.NEWS),
            "rows in signals": (self.signal_rows, sample.SIGNALS),
        }

    def complete(self) -> bool:
        """Return whether everything expected has arrived."""
        return all(actual >= expected for actual, expected in self.counts().values())

    def differences(self) -> list[str]:
        """Return how the counts and reasons differ from what the sample should produce."""
        differences = [
            f"{name}: {actual}, not {expected}"
            for name, (actual, expected) in self.counts().items()
            if actual != expected
        ]
        missing = Counter(sample.BROKEN.values())
        for letter in self.letters:
            # The most specific reason first: that of a surrogate contains "not JSON" too.
            matching = (reason for reason in sorted(missing, key=len, reverse=True) if reason in letter.reason)
            match = next((reason for reason in matching if missing[reason]), None)
            if match is None:
                differences.append(f"an unexpected dead letter: {letter.reason}")
            else:
                missing[match] -= 1
        return differences
