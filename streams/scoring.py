"""The scoring role: news → window → pool → signals; what cannot be scored → dead letters.

There may be two lanes, each with windows of its own: live news, and backfill, which yields to it (`streams.lanes`).
News that was already old when it was fetched may be skipped, or moved to the backfill topic, so that fresh news is
reached.

The order of work for a window: score; wait until the broker has acknowledged its signals and dead letters; only then
acknowledge the news. After a crash in between the news is scored again, and the signals have the same ids.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import structlog

from earlybell.inference.pool.pool import Pool, WindowResult
from earlybell.streams import dead_letters, metrics
from earlybell.streams.adaptive_dial import AdaptiveDial
from earlybell.streams.lanes import Lane, Turns
from earlybell.streams.producer import MessagesTooLargeError, Outgoing
from earlybell.streams.records import BadNews, NewsItem, broker_time, decode_news, encode
from earlybell.streams.settings import Settings
from earlybell.streams.signals import build_signal, unsupported_language
from earlybell.streams.token_budget import estimate_tokens
from earlybell.streams.transport import Chunk
from earlybell.streams.windows import Limits, Windows

log = structlog.get_logger(__name__)

#: A window of the backfill lane is this part of a live one.
BACKFILL_WINDOW = 8


class Received(NamedTuple):
    """A message of the news topic, decoded, and when it was fetched."""

    record: Any  # streams.fetching.Message or Unreadable
    news: NewsItem | BadNews
    fetched: float  # of time.monotonic()
    expired: bool = False

    @property
    def tokens(self) -> int:
        """The message's weight in a window; a broken one costs the model nothing."""
        return estimate_tokens(self.news.text) if isinstance(self.news, NewsItem) and not self.expired else 1


@dataclass(slots=True)
class Outcome:
    """The outgoing messages of a window: every message that came in has one, in one of the lists."""

    signals: list[Outgoing] = field(default_factory=list)
    scored: list[Any] = field(default_factory=list)  # the message of each signal
    letters: list[Outgoing] = field(default_factory=list)
    deferred: list[Outgoing] = field(default_factory=list)  # news for the backfill topic
    expired: list[Any] = field(default_factory=list)  # the message of each of them
    # A retry does not send again what the broker has.
    signals_sent: bool = False
    deferred_sent: bool = False


class Scoring:
    """Connects a lane's news agent, the pool, and the topics of signals and dead letters.

    Parameters
    ----------
    settings
        Topics and limits.
    pool
        A pool that has been started.
    send_all
        Sends messages to a topic and returns when the broker has them all (`streams.transport.Producer.send_all`).
    lane
        Where windows take turns; None: alone, live.
    clock
        Returns the time of day; tests pass their own.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        send_all: Callable[[str, Sequence[Outgoing]], Awaitable[None]],
        lane: Lane | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._send_all = send_all
        self._lane = lane or Turns(pool.capacity).live
        self._dial: AdaptiveDial | None = None
        if settings.latency_objective_ms > 0 and self._lane.live:
            model = pool.description
            self._dial = AdaptiveDial(
                model.curve, model.dial, settings.latency_objective_ms / 1000, settings.most_accuracy_lost
            )
        self._clock = clock
        self.windows = Windows[Received, Outcome](
            self._score,
            self._publish,
            limits=_limits(settings, live=self._lane.live),
            # One window more than the pool holds, so that the next one is decoded while the others run.
            in_flight=pool.capacity + 1,
        )
        self.signals = self.letters = 0

    async def take(self, chunk: Chunk) -> None:
        """Add a chunk of the news topic; waits while a full window is waiting already."""
        fetched = time.monotonic()
        metrics.STORIES.inc(len(chunk))
        messages = [Received(record, _decode(record), fetched, self._expired(record)) for record in chunk.records]
        await self.windows.add(chunk, [(message, message.tokens) for message in messages])

    def _expired(self, record: Any) -> bool:
        """Return whether a message of the live lane had been on its topic for too long when it was fetched."""
        limit_s = self._settings.expire_after_s
        return limit_s > 0 and self._lane.live and self._clock().timestamp() - record.timestamp / 1000 > limit_s

    def _set_aside(self, message: Received, outcome: Outcome) -> bool:
        """Add a message that will not be scored now to the outcome; return False for all others."""
        record, news = message.record, message.news
        if isinstance(news, BadNews):
            outcome.letters.append(dead_letters.letter(record, stage="decode", kind="BadNews", reason=str(news)))
        elif reason := unsupported_language(news, self._pool.description.languages):
            outcome.letters.append(dead_letters.letter(record, stage="language", kind="BadNews", reason=reason))
        elif message.expired and self._settings.expired_news == "defer":
            outcome.deferred.append(Outgoing(record.key, record.value, record.headers))
            outcome.expired.append(record)
        elif message.expired:
            reason = f"older than EARLYBELL_EXPIRE_AFTER_S ({self._settings.expire_after_s:g} s) when it was fetched"
            outcome.letters.append(dead_letters.letter(record, stage="expired", kind="Expired", reason=reason))
        else:
            return False
        return True

    async def _score(self, window: Sequence[Received]) -> Outcome:
        outcome = Outcome()
        scorable: list[tuple[Received, NewsItem]] = []
        for message in window:
            if not self._set_aside(message, outcome):
                assert isinstance(message.news, NewsItem)
                scorable.append((message, message.news))
        if not scorable:
            return outcome
        asked = time.monotonic()
        async with self._lane.turn(len(scorable)):
            waited_s = time.monotonic() - asked
            dial = self._dial.dial if self._dial is not None else None
            result = await self._pool.score([item.text for _, item in scorable], dial)
        scored_at = self._clock()
        _measure(result)
        if self._dial is not None:
            self._dial.observe(scored_at.timestamp() - min(message.record.timestamp for message, _ in scorable) / 1000)
            metrics.DIAL.set(self._dial.dial)
        started = asked + waited_s + result.queue_s
        answers = zip(result.predictions, result.descriptions, strict=True)
        for index, (message, item) in enumerate(scorable):
            if (fault := result.faults.get(index)) is not None:
                outcome.letters.append(
                    dead_letters.letter(message.record, stage="inference", kind="InferenceFault", reason=fault)
                )
                continue
            prediction, model = next(answers)
            try:
                signal = build_signal(
                    item,
                    prediction,
                    model,
                    scored_at=scored_at,
                    queue_ms=(started - message.fetched) * 1000,
                    inference_ms=result.inference_s * 1000,
                    record=message.record,
                )
                outcome.signals.append(Outgoing(item.id.encode(), encode(signal)))
                outcome.scored.append(message.record)
            except BadNews as fault:
                reason = str(fault)
                outcome.letters.append(
                    dead_letters.letter(message.record, stage="language", kind="BadNews", reason=reason)
                )
            except Exception as error:
                # Nothing here depends on anything outside the message, so a retry would fail in the same way.
                # Blame the message rather than hold up the others.
                log.exception("signal_failed", news_id=item.id, revision=item.revision)
                kind = type(error).__name__
                outcome.letters.append(
                    dead_letters.letter(message.record, stage="signal", kind=kind, reason=str(error))
                )
        return outcome

    async def _publish(self, window: Sequence[Received], outcome: Outcome) -> None:
        with metrics.PUBLISH_SECONDS.time():
            if outcome.signals and not outcome.signals_sent:
                topic = self._settings.sentiment_topic
                outcome.letters += await self._send(topic, outcome.signals, outcome.scored, "signal")
                outcome.signals_sent = True
                metrics.SIGNALS.inc(len(outcome.signals))
            if outcome.deferred and not outcome.deferred_sent:
                assert self._settings.backfill_topic is not None  # a rule of the settings
                topic = self._settings.backfill_topic
                outcome.letters += await self._send(topic, outcome.deferred, outcome.expired, "expired")
                outcome.deferred_sent = True
                metrics.DEFERRED.inc(len(outcome.deferred))
            if outcome.letters:
                await dead_letters.send(outcome.letters, self._settings.dead_topic, self._send_all)
        self.signals += len(outcome.signals)
        self.letters += len(outcome.letters)
        log.debug("window_settled", messages=len(window), signals=len(outcome.signals), letters=len(outcome.letters))

    async def _send(
        self, topic: str, outgoing: list[Outgoing], origins: Sequence[Any], stage: str
    ) -> Sequence[Outgoing]:
        """Send messages; take out those that are too large for the topic, and return letters of their origins."""
        try:
            await self._send_all(topic, outgoing)
        except MessagesTooLargeError as error:
            kind = type(error).__name__
            letters = []
            for index in sorted(error.indices, reverse=True):
                size = len(outgoing.pop(index).value or b"")
                reason = f"what becomes of it has {size} bytes, more than topic {topic} takes"
                letters.append(dead_letters.letter(origins[index], stage=stage, kind=kind, reason=reason))
            return letters
        return ()


def _limits(settings: Settings, *, live: bool) -> Limits:
    # A live window may have to wait for one of backfill's, which are therefore small.
    part = 1 if live else BACKFILL_WINDOW
    items, weight = (max(1, limit // part) for limit in (settings.window_texts, settings.window_tokens))
    return Limits(items, weight, settings.window_delay_ms / 1000)


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
