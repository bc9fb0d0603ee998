"""The scoring role: news → window → pool → signals; what cannot be scored → dead letters.

The order of work for a window: score; wait until the broker has acknowledged its signals and dead letters; only then
acknowledge the news. After a crash in between the news is scored again, and the signals have the same ids.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog

from earlybell.inference.pool.pool import Pool, WindowResult
from earlybell.streams import dead_letters, metrics
from earlybell.streams.producer import Outgoing
from earlybell.streams.records import BadNews, NewsItem, broker_time, decode_news, encode
from earlybell.streams.settings import Settings
from earlybell.streams.signals import build_signal, unsupported_language
from earlybell.streams.token_budget import estimate_tokens
from earlybell.streams.transport import Chunk
from earlybell.streams.windows import Limits, Windows

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the news topic, decoded, and when it was fetched."""

    record: Any  # aiokafka.ConsumerRecord, or streams.fetching.Unreadable
    news: NewsItem | BadNews
    fetched: float  # of time.monotonic()

    @property
    def tokens(self) -> int:
        """The message's weight in a window; a broken one costs the model nothing."""
        return estimate_tokens(self.news.text) if isinstance(self.news, NewsItem) else 1


@dataclass(slots=True)
class Outcome:
    """The outgoing messages of a window: every message that came in has one, in either list."""

    signals: list[Outgoing]
    letters: list[Outgoing]
    signals_sent: bool = False  # a retry after a failure with the letters does not send the signals again


class Scoring:
    """Connects the news agent, the pool, and the topics of signals and dead letters.

    Parameters
    ----------
    settings
        Topics and limits.
    pool
        A pool that has been started.
    send_all
        Sends messages to a topic and returns when the broker has them all (`streams.transport.Producer.send_all`).
    clock
        Returns the time of day; tests pass their own.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        send_all: Callable[[str, Sequence[Outgoing]], Awaitable[None]],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._send_all = send_all
        self._clock = clock
        self.windows = Windows[Received, Outcome](
            self._score,
            self._publish,
            limits=Limits(settings.window_texts, settings.window_tokens, settings.window_delay_ms / 1000),
            # One window more than the pool holds, so that the next one is decoded while the others run.
            in_flight=pool.capacity + 1,
        )
        self.signals = self.letters = 0

    async def take(self, chunk: Chunk) -> None:
        """Add a chunk of the news topic; waits while a full window is waiting already."""
        fetched = time.monotonic()
        metrics.STORIES.inc(len(chunk))
        messages = [Received(record, _decode(record), fetched) for record in chunk.records]
        await self.windows.add(chunk, [(message, message.tokens) for message in messages])

    async def _score(self, window: Sequence[Received]) -> Outcome:
        letters: list[Outgoing] = []
        scorable: list[tuple[Received, NewsItem]] = []
        for message in window:
            news = message.news
            if isinstance(news, BadNews):
                letters.append(dead_letters.letter(message.record, stage="decode", kind="BadNews", reason=str(news)))
            elif reason := unsupported_language(news, self._pool.description.languages):
                letters.append(dead_letters.letter(message.record, stage="language", kind="BadNews", reason=reason))
            else:
                scorable.append((message, news))
        if not scorable:
            return Outcome([], letters)
        asked = time.monotonic()
        result = await self._pool.score([item.text for _, item in scorable])
        scored_at = self._clock()
        _measure(result)
        started = asked + result.queue_s
        signals = []
        rows = iter(range(len(result.predictions)))
        for index, (message, item) in enumerate(scorable):
            if (fault := result.faults.get(index)) is not None:
                letters.append(
                    dead_letters.letter(message.record, stage="inference", kind="InferenceFault", reason=fault)
                )
                continue
            row = next(rows)
            try:
                signal = build_signal(
                    item,
                    result.predictions,
                    row,
                    result.descriptions[row],
                    scored_at=scored_at,
                    queue_ms=(started - message.fetched) * 1000,
                    inference_ms=result.inference_s * 1000,
                    record=message.record,
                )
                signals.append(Outgoing(item.id.encode(), encode(signal)))
            except Exception as error:
                # Nothing here depends on anything outside the message, so a retry would fail in the same way.
                # Blame the message rather than hold up the others.
                log.exception("signal_failed", news_id=item.id, revision=item.revision)
                kind = type(error).__name__
                letters.append(dead_letters.letter(message.record, stage="signal", kind=kind, reason=str(error)))
        return Outcome(signals, letters)

    async def _publish(self, window: Sequence[Received], outcome: Outcome) -> None:
        with metrics.PUBLISH_SECONDS.time():
            if outcome.signals and not outcome.signals_sent:
                await self._send_all(self._settings.sentiment_topic, outcome.signals)
                outcome.signals_sent = True
                metrics.SIGNALS.inc(len(outcome.signals))
            if outcome.letters:
                await dead_letters.send(outcome.letters, self._settings.dead_topic, self._send_all)
        self.signals += len(outcome.signals)
        self.letters += len(outcome.letters)
        log.debug("window_settled", messages=len(window), signals=len(outcome.signals), letters=len(outcome.letters))


def _measure(result: WindowResult) -> None:
    predictions = result.predictions
    metrics.WINDOW_TEXTS.observe(len(predictions) + len(result.faults))
    metrics.WINDOW_TOKENS.observe(int(predictions.tokens.sum()))
    metrics.QUEUE_SECONDS.observe(result.queue_s)
    metrics.INFERENCE_SECONDS.observe(result.inference_s)
    for depth, texts in enumerate(np.bincount(predictions.exit_depth)):
        metrics.EXITS.labels(depth=depth).inc(int(texts))
    predicted = np.isfinite(predictions.predicted_depth)
    metrics.PREDICTED_DEPTH.inc(float(predictions.predicted_depth[predicted].sum()))
    metrics.ACTUAL_DEPTH.inc(float(predictions.exit_depth[predicted].sum()))


def _decode(record: Any) -> NewsItem | BadNews:
    try:
        broker_time(record)
        return decode_news(record.value)
    except BadNews as fault:
        return fault
