"""Builds the signal of a scored news item, for the scoring role and for `earlybell score` alike.

Also says which news a model cannot score. Knows nothing of Kafka clients, windows or pools.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from earlybell.inference.predictions import ModelDescription, Prediction
from earlybell.streams.languages import primary_subtag, unreadable
from earlybell.streams.records import (
    BadNews,
    Label,
    NewsItem,
    SentimentSignal,
    broker_time,
    signal_id,
    text_hash,
)


def unsupported_language(item: NewsItem, languages: Sequence[str]) -> str | None:
    """Return the reason why a model that reads `languages` cannot score the item, or None if it can.

    Only the primary subtag counts: a model that reads ``en`` reads ``en-GB``. The language of an item without one is
    looked at when it has been scored: see `build_signal`.
    """
    language = primary_subtag(item.language)
    if language is None or language in languages:
        return None
    return f"language {item.language!r} is not supported: the model reads {', '.join(languages)}"


def build_signal(
    item: NewsItem,
    prediction: Prediction,
    model: ModelDescription,
    *,
    scored_at: datetime,
    queue_ms: float | None = None,
    inference_ms: float = 0.0,
    record: Any = None,
    timed: bool = True,
) -> SentimentSignal:
    """Build the signal of one prediction.

    Parameters
    ----------
    item
        The news item that was scored.
    prediction
        The answer to its text.
    model
        The model that gave it.
    scored_at
        When the window's predictions were complete.
    queue_ms, inference_ms
        Milliseconds from the fetch to the start of inference, and of inference.
    record
        The Kafka message that carried the item; None for a text scored without Kafka.
    timed
        False if ``item.published_at`` is a placeholder, because the text came without a time.

    Raises
    ------
    BadNews
        The item names no language, and the model has no ground to judge its text (`languages.unreadable`).
    ValueError
        The prediction is not a number.
    """
    if primary_subtag(item.language) is None and (reason := unreadable(item.text, prediction.known, model.languages)):
        raise BadNews(reason)
    if not math.isfinite(sum(prediction.probabilities.values())):
        raise ValueError("the model's answer is not a number")
    scored_text = text_hash(item.text)
    return SentimentSignal(
        signal_id=signal_id(item.id, item.revision, scored_text, model.served_revision, model.policy),
        news_id=item.id,
        revision=item.revision,
        symbols=item.symbols or [],
        source=item.source,
        text_hash=scored_text,
        label=cast(Label, prediction.label),
        score=prediction.score,
        probabilities=dict(prediction.probabilities),
        confidence=prediction.confidence,
        published_at=item.published_at if timed else None,
        ingested_at=broker_time(record) if record is not None else None,
        scored_at=scored_at,
        queue_ms=queue_ms,
        inference_ms=inference_ms,
        model=model.model,
        model_revision=model.served_revision,
        policy=model.policy,
        dial=model.dial,
        precision=model.precision,
        exit_depth=prediction.exit_depth,
        predicted_depth=prediction.predicted_depth,
        depth_limit=model.depth_limit,
        tokens=prediction.tokens,
        tokens_kept=prediction.tokens_kept,
        topic=record.topic if record is not None else None,
        partition=record.partition if record is not None else None,
        offset=record.offset if record is not None else None,
    )
