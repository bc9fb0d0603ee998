"""Builds the signal of a scored news item, for the scoring role and for `earlybell score` alike.

Also says which news a model cannot score. Knows nothing of Kafka clients, windows or pools.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from earlybell.inference.predictions import ModelDescription, Predictions
from earlybell.signal_fields import NEGATIVE, POSITIVE
from earlybell.streams.languages import unreadable
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
    if item.language is None or item.language.lower().split("-")[0] in languages:
        return None
    return f"language {item.language!r} is not supported: the model reads {', '.join(languages)}"


def build_signal(
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
    """Build the signal of one prediction.

    Parameters
    ----------
    item
        The news item that was scored.
    predictions, row
        The predictions of its window, and the item's row in them.
    model
        The model that made them.
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
    known = float(predictions.known[row])
    if item.language is None and (reason := unreadable(item.text, known, model.languages)):
        raise BadNews(reason)
    answer: list[float] = predictions.probabilities[row].tolist()
    if not all(map(math.isfinite, answer)):
        raise ValueError("the model's answer is not a number")
    # A float32 softmax may sum to 1 + 1e-7, so its largest part may exceed 1.
    probabilities = [min(1.0, max(0.0, p)) for p in answer]
    by_label = dict(zip(model.labels, probabilities, strict=True))
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    predicted_depth = float(predictions.predicted_depth[row])
    scored_text = text_hash(item.text)
    return SentimentSignal(
        signal_id=signal_id(item.id, item.revision, scored_text, model.served_revision, model.policy),
        news_id=item.id,
        revision=item.revision,
        symbols=item.symbols or [],
        source=item.source,
        text_hash=scored_text,
        label=cast(Label, model.labels[best]),
        score=by_label.get(POSITIVE, 0.0) - by_label.get(NEGATIVE, 0.0),
        probabilities=by_label,
        confidence=probabilities[best],
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
        exit_depth=int(predictions.exit_depth[row]),
        predicted_depth=None if math.isnan(predicted_depth) else predicted_depth,
        depth_limit=model.depth_limit,
        tokens=int(predictions.tokens[row]),
        tokens_kept=int(predictions.tokens_kept[row]),
        topic=record.topic if record is not None else None,
        partition=record.partition if record is not None else None,
        offset=record.offset if record is not None else None,
    )
