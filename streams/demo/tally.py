"""Counts what the demo has seen so far, and compares it with what the sample feed should produce.

Knows nothing of the screen, and of Kafka only what a message looks like.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from earlybell.streams.commands.readable import summary
from earlybell.streams.dead_letters import OFFSET, PARTITION, REASON
from earlybell.streams.demo import sample
from earlybell.streams.records import BadNews, SentimentSignal, decode_news, decode_signal

#: Signals that are kept for the screen.
LATEST_SIGNALS = 12
#: The ids of the headlines that are published at full speed begin with this.
BURST = "burst-"
_RATE_WINDOW_S = 3.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the origin of the message, how it reads, and the reason."""

    partition: int
    offset: int
    message: str
    reason: str


@dataclass(frozen=True, slots=True)
class Correction:
    """A story whose headline was corrected: both headlines and both scores."""

    before: str
    before_score: float
    after: str
    after_score: float

    @property
    def change(self) -> float:
        """How far the score moved."""
        return abs(self.after_score - self.before_score)


@dataclass(slots=True)
class Latencies:
    """How long each signal took, from the news on its topic to the signal on its own."""

    milliseconds: list[float] = field(default_factory=list)
    first_ms: float = float("inf")  # epoch: when the first news was on its topic
    last_ms: float = 0.0  # epoch: when the last signal was on its own

    def add(self, ingested_ms: float, broker_ms: float) -> None:
        """Count a signal, with the broker's times of the news and of the signal (epoch milliseconds)."""
        self.milliseconds.append(broker_ms - ingested_ms)
        self.first_ms, self.last_ms = min(self.first_ms, ingested_ms), max(self.last_ms, broker_ms)

    def __len__(self) -> int:
        return len(self.milliseconds)

    def percentile(self, share: float) -> float:
        """Return the latency in milliseconds that this share of the signals did not exceed; NaN before the first."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def per_second(self) -> float:
        """Return the signals per second from the first news to the last signal."""
        return 1000 * len(self) / max(self.last_ms - self.first_ms, 1.0) if self.milliseconds else 0.0


def headlines() -> dict[tuple[str, int], str]:
    """Return the headline of every story of the sample, by (id, revision)."""
    stories = {}
    for line in sample.FEED.read_bytes().splitlines():
        try:
            item = decode_news(line)
        except BadNews:
            continue
        stories[item.id, item.revision] = item.headline
    return stories


@dataclass(slots=True)
class Tally:
    """Counts, the latest signals, corrections, all dead letters, and the latency of every signal."""

    published: int = 0  # of the sample feed
    burst_published: int = 0  # of the headlines at full speed
    news_rows: int = 0
    signal_rows: int = 0
    messages: int = 0  # on the sentiment topic; a duplicate is scored again and has the same signal_id
    signal_ids: set[str] = field(default_factory=set)
    depths: Counter[int] = field(default_factory=Counter)
    depth_limit: int = 0
    quiet: Latencies = field(default_factory=Latencies)  # of the sample feed
    burst: Latencies = field(default_factory=Latencies)  # of the headlines at full speed
    latest: deque[SentimentSignal] = field(default_factory=lambda: deque(maxlen=LATEST_SIGNALS))
    corrections: list[Correction] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    headlines: Mapping[tuple[str, int], str] = field(default_factory=headlines)
    _scores: dict[tuple[str, int], float] = field(default_factory=dict)
    _arrivals: deque[float] = field(default_factory=deque)

    def add_signal(self, value: bytes, broker_ms: int) -> None:
        """Count a message of the sentiment topic, with the broker's timestamp (epoch milliseconds)."""
        signal = decode_signal(value)
        self._arrivals.append(time.monotonic())
        latencies = self.burst if signal.news_id.startswith(BURST) else self.quiet
        if signal.ingested_at is not None:
            latencies.add(signal.ingested_at.timestamp() * 1000, broker_ms)
        if latencies is self.burst:
            return
        self.messages += 1
        if signal.signal_id in self.signal_ids:
            return
        self.signal_ids.add(signal.signal_id)
        self.depths[signal.exit_depth] += 1
        self.depth_limit = signal.depth_limit
        self.latest.append(signal)
        self._scores[signal.news_id, signal.revision] = signal.score
        earlier = (signal.news_id, signal.revision - 1)
        if earlier in self._scores:
            self.corrections.append(
                Correction(self.headlines[earlier], self._scores[earlier], self.headline(signal), signal.score)
            )

    def add_letter(self, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        """Count a message of the dead-letter topic."""
        texts = {name: text.decode(errors="replace") for name, text in headers}
        origin = int(texts[PARTITION[0]]), int(texts[OFFSET[0]])
        self.letters.append(Letter(*origin, summary(value), texts[REASON[0]]))

    def scored_headlines(self) -> list[str]:
        """Return the headlines that have a signal: one in a foreign language, for example, has none."""
        return [self.headlines[story] for story in self._scores]

    def headline(self, signal: SentimentSignal) -> str:
        """Return the headline of a signal's story."""
        return self.headlines.get((signal.news_id, signal.revision), signal.news_id)

    def per_second(self) -> float:
        """Return the signals per second over the last few seconds."""
        now = time.monotonic()
        while self._arrivals and now - self._arrivals[0] > _RATE_WINDOW_S:
            self._arrivals.popleft()
        return len(self._arrivals) / _RATE_WINDOW_S

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
