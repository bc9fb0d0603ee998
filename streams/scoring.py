"""The role `scoring`: news → window → pool → signals, and what cannot be scored → dead letters.

The order of work for a window: score; signals and dead letters acknowledged by the broker; only then is the news
acknowledged. A crash in between scores again, and the signals have the same ids.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog

from earlybell.inference.pool.pool import Pool
from earlybell.inference.predictions import ModelDescription, Predictions
from earlybell.streams import dead_letters
from earlybell.streams.records import (
    NEGATIVE,
    POSITIVE,
    BadNews,
    NewsItem,
    SentimentSignal,
    decode_news,
    encode,
    signal_id,
)
from earlybell.streams.settings import Settings
from earlybell.streams.transport import Chunk, Outgoing
from earlybell.streams.windows import Limits, Windows

log = structlog.get_logger(__name__)

#: Characters of English headline per WordPiece token, roughly: a window's tokens are counted before it is tokenised.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the news topic, decoded, and when it was fetched."""

    record: Any  # aiokafka.ConsumerRecord
    news: NewsItem | BadNews
    fetched: float  # of time.monotonic()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a window: each message is in one of the two."""

    signals: list[Outgoing]
    letters: list[Outgoing]


class Scoring:
    """Joins the news agent, the pool and the two topics that leave this role.

    Parameters
    ----------
    settings
        Topics and limits.
    pool
        Started.
    send_all
        Sends messages to a topic and returns when the broker has them all (`streams.transport.Producer.send_all`).
    clock
        The time of day; a test brings its own.
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
            # One window more than the pool holds: it is cut and decoded while the others run.
            in_flight=pool.capacity + 1,
        )
        self.signals = self.letters = 0

    async def take(self, chunk: Chunk) -> None:
        """Take in a chunk of the news topic; waits while a whole window is waiting already."""
        fetched = time.monotonic()
        received = [Received(record, _decoded(record), fetched) for record in chunk.records]
        await self.windows.add(chunk, [(one, _tokens(one)) for one in received])

    async def _score(self, window: Sequence[Received]) -> Outcome:
        languages = self._pool.description.languages
        letters: list[Outgoing] = []
        scorable: list[tuple[Received, NewsItem]] = []
        for one in window:
            news = one.news
            match news:
                case NewsItem(language=str(language)) if language.lower().split("-")[0] not in languages:
                    reason = f"language {language!r} is none that the model reads: {', '.join(languages)}"
                    letters.append(dead_letters.letter(one.record, stage="language", kind="BadNews", reason=reason))
                case NewsItem() as item:
                    scorable.append((one, item))
                case BadNews() as fault:
                    letters.append(dead_letters.letter(one.record, stage="decode", kind="BadNews", reason=str(fault)))
        if not scorable:
            return Outcome([], letters)
        asked = time.monotonic()
        result = await self._pool.score([item.text for _, item in scorable])
        scored_at = self._clock()
        started = asked + result.queue_s
        signals = []
        rows = iter(range(len(result.predictions)))
        for place, (one, item) in enumerate(scorable):
            if (why := result.faults.get(place)) is not None:
                letters.append(dead_letters.letter(one.record, stage="inference", kind="InferenceFault", reason=why))
                continue
            try:
                made = signal(
                    item,
                    result.predictions,
                    next(rows),
                    result.description,
                    scored_at=scored_at,
                    queue_ms=(started - one.fetched) * 1000,
                    inference_ms=result.inference_s * 1000,
                    record=one.record,
                )
                signals.append(Outgoing(item.id.encode(), encode(made)))
            except Exception as error:
                # Nothing here waits for anything, so a second try would end the same way: it is the message's fault,
                # whatever it is, and must not hold up the others.
                log.exception("not_a_signal", news_id=item.id, revision=item.revision)
                kind = type(error).__name__
                letters.append(dead_letters.letter(one.record, stage="signal", kind=kind, reason=str(error)))
        return Outcome(signals, letters)

    async def _publish(self, window: Sequence[Received], outcome: Outcome) -> None:
        if outcome.signals:
            await self._send_all(self._settings.sentiment_topic, outcome.signals)
        if outcome.letters:
            await dead_letters.send(outcome.letters, self._settings.dead_topic, self._send_all)
        self.signals += len(outcome.signals)
        self.letters += len(outcome.letters)
        log.debug("window_settled", messages=len(window), signals=len(outcome.signals), letters=len(outcome.letters))


def signal(
    item: NewsItem,
    predictions: Predictions,
    row: int,
    model: ModelDescription,
    *,
    scored_at: datetime,
    queue_ms: float | None = None,
    inference_ms: float = 0.0,
    record: Any = None,
    timed: bool = True,
) -> SentimentSignal:
    """The signal of one answer.

    Parameters
    ----------
    item
        What was scored.
    predictions, row
        The window's answers, and which of them is this one's.
    model
        Who answered.
    scored_at, queue_ms, inference_ms
        When the window was answered; milliseconds from the fetch to the start of inference, and of inference.
    record
        The Kafka message that the news came in; None for a text that was scored without Kafka.
    timed
        False where ``item.published_at`` was made up, because the text came without one.

    Raises
    ------
    ValueError
        The answer is not a number.
    """
    if not np.isfinite(predictions.probabilities[row]).all():
        raise ValueError("the model's answer is not a number")
    # float32 softmax may sum to 1 + 1e-7, and so may its largest part exceed 1.
    probabilities = [min(1.0, max(0.0, p)) for p in predictions.probabilities[row].tolist()]
    by_label = dict(zip(model.labels, probabilities, strict=True))
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    predicted_depth = float(predictions.predicted_depth[row])
    return SentimentSignal(
        signal_id=signal_id(item.id, item.revision, model.model_revision, model.policy),
        news_id=item.id,
        revision=item.revision,
        symbols=item.symbols or [],
        source=item.source,
        label=model.labels[best],
        score=by_label.get(POSITIVE, 0.0) - by_label.get(NEGATIVE, 0.0),
        probabilities=by_label,
        confidence=probabilities[best],
        published_at=item.published_at if timed else None,
        ingested_at=broker_time(record) if record is not None else None,
        scored_at=scored_at,
        queue_ms=queue_ms,
        inference_ms=inference_ms,
        model=model.model,
        model_revision=model.model_revision,
        policy=model.policy,
        dial=model.dial,
        precision=model.precision,
        exit_depth=int(predictions.exit_depth[row]),
        predicted_depth=None if math.isnan(predicted_depth) else predicted_depth,
        depth_limit=model.depth_limit,
        tokens=int(predictions.tokens[row]),
        tokens_kept=int(predictions.tokens_kept[row]),
        topic=record.topic if record is not None else None,
        partition=record.partition if record is not None else None,
        offset=record.offset if record is not None else None,
    )


def broker_time(record: Any) -> datetime:
    """The message's timestamp, which on the topics that we create is the broker's clock (LogAppendTime).

    Raises
    ------
    BadNews
        It is no time: on a topic that others made, producers may say what they like.
    """
    try:
        return datetime.fromtimestamp(record.timestamp / 1000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise BadNews(f"the message's timestamp {record.timestamp} is no time: {error}") from error


def _decoded(record: Any) -> NewsItem | BadNews:
    try:
        broker_time(record)
        return decode_news(record.value)
    except BadNews as fault:
        return fault


def _tokens(received: Received) -> int:
    return 2 + len(received.news.text) // CHARACTERS_PER_TOKEN if isinstance(received.news, NewsItem) else 1
