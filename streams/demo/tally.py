"""What the demonstration has seen on the topics so far, and whether it is what the sample feed should give.

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

#: So many of the latest are kept for the screen.
LATEST = 8
_RATE_WINDOW_S = 3.0


class _Intended(msgspec.Struct):
    id: str
    headline: str
    intended: str
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter: where the message lay, how it begins, and why it is here."""

    partition: int
    offset: int
    value: str
    reason: str


def intended() -> dict[tuple[str, int], tuple[str, str]]:
    """(id, revision) → headline and intended label, of every story of the sample."""
    decode: Any = msgspec.json.Decoder(_Intended).decode
    found = {}
    for line in sample.FEED.read_bytes().splitlines():
        try:
            story = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        found[story.id, story.revision] = (story.headline.replace("\0", ""), story.intended)
    return found


@dataclass(slots=True)
class Tally:
    """Counts of everything, the latest of each, and the times of all signals."""

    published: int = 0
    news_rows: int = 0
    signal_rows: int = 0
    messages: int = 0  # on the sentiment topic: a duplicate is scored again, and has the same signal_id
    signal_ids: set[str] = field(default_factory=set)
    depths: Counter[int] = field(default_factory=Counter)
    depth_limit: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    as_intended: int = 0
    milliseconds: list[float] = field(default_factory=list)  # from the news on its topic to the signal on its own
    latest: deque[SentimentSignal] = field(default_factory=lambda: deque(maxlen=LATEST))
    letters: list[Letter] = field(default_factory=list)
    headlines: Mapping[tuple[str, int], tuple[str, str]] = field(default_factory=intended)
    _arrivals: deque[float] = field(default_factory=deque)

    def add_signal(self, value: bytes, broker_ms: int) -> None:
        """Take in one message of the sentiment topic, and when the broker took it in (epoch milliseconds)."""
        signal = decode_signal(value)
        self.messages += 1
        self._arrivals.append(time.monotonic())
        if signal.ingested_at is not None:
            self.milliseconds.append(broker_ms - signal.ingested_at.timestamp() * 1000)
        if signal.signal_id in self.signal_ids:
            return
        self.signal_ids.add(signal.signal_id)
        self.depths[signal.exit_depth] += 1
        self.depth_limit = signal.depth_limit
        self.labels[signal.label] += 1
        self.latest.append(signal)
        self.as_intended += self.headline(signal)[1] == signal.label

    def add_letter(self, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        """Take in one message of the dead-letter topic."""
        said = {name: text.decode(errors="replace") for name, text in headers}
        shown = "(no value)" if value is None else value[:80].decode(errors="replace")
        self.letters.append(Letter(int(said[PARTITION[0]]), int(said[OFFSET[0]]), shown, said[REASON[0]]))

    def headline(self, signal: SentimentSignal) -> tuple[str, str]:
        """The headline that a signal is about, and what its writer meant."""
        return self.headlines.get((signal.news_id, signal.revision), (signal.news_id, ""))

    def per_second(self) -> float:
        """Signals a second over the last seconds."""
        now = time.monotonic()
        while self._arrivals and now - self._arrivals[0] > _RATE_WINDOW_S:
            self._arrivals.popleft()
        return len(self._arrivals) / _RATE_WINDOW_S

    def percentile(self, share: float) -> float:
        """Milliseconds from news to signal that this share of the messages stayed below; NaN before the first."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def counts(self) -> dict[str, tuple[int, int]]:
        """What was counted and what the sample should give, by name."""
        return {
            "messages published": (self.published, sample.MESSAGES),
            "signals on the topic": (self.messages, sample.SIGNALS + sample.DUPLICATES),
            "distinct signals": (len(self.signal_ids), sample.SIGNALS),
            "dead letters": (len(self.letters), len(sample.BROKEN)),
            "rows in news": (self.news_rows, sample.NEWS),
            "rows in signals": (self.signal_rows, sample.SIGNALS),
        }

    def complete(self) -> bool:
        """Whether everything that should come has come."""
        return all(found >= wanted for found, wanted in self.counts().values())

    def wrong(self) -> list[str]:
        """What is not as the sample should give it."""
        differing = [
            f"{name}: {found}, not {wanted}" for name, (found, wanted) in self.counts().items() if found != wanted
        ]
        missing = Counter(sample.BROKEN.values())
        for letter in self.letters:
            # The most telling first: what is said of a surrogate is that it is no JSON, too.
            fitting = (reason for reason in sorted(missing, key=len, reverse=True) if reason in letter.reason)
            match = next((reason for reason in fitting if missing[reason]), None)
            if match is None:
                differing.append(f"an unexpected dead letter: {letter.reason}")
            else:
                missing[match] -= 1
        return differing
