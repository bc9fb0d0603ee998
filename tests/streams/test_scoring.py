"""The scoring role turns every message of a chunk into a signal or a dead letter, whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from earlybell.inference.pool.pool import Pool
from earlybell.inference.predictions import Predictions
from earlybell.streams import dead_letters
from earlybell.streams.fetching import Message
from earlybell.streams.offsets import Ticket
from earlybell.streams.producer import Outgoing
from earlybell.streams.records import BadNews, broker_time, decode_signal, signal_id, text_hash
from earlybell.streams.scoring import Scoring
from earlybell.streams.settings import Settings
from earlybell.streams.transport import Chunk
from tests.benchmarks.constant_scorer import ConstantScorer

NOW = datetime(2026, 1, 5, 9, 30, 1, tzinfo=UTC)


def fetched(
    offset: int,
    value: bytes | None,
    key: bytes | None = b"key",
    headers: tuple[tuple[str, bytes], ...] = (),
    timestamp: int = 1_767_605_400_000,
    timestamp_type: int = 1,
    partition: int = 3,
) -> Message:
    size = len(key or b"") + len(value or b"")
    return Message("news.raw", partition, offset, timestamp, timestamp_type, key, value, headers, size)


class NotANumber(ConstantScorer):
    """Answers NaN to texts that contain the word."""

    def score(self, texts: Sequence[str], dial: float | None = None) -> Predictions:
        predictions = super().score(texts)
        predictions.probabilities[["NaN" in text for text in texts]] = np.nan
        return predictions


class TwoClasses(ConstantScorer):
    """Answers for fewer classes than it names."""

    def score(self, texts: Sequence[str], dial: float | None = None) -> Predictions:
        predictions = super().score(texts)
        return replace(predictions, probabilities=predictions.probabilities[:, :2])


def news(number: int, headline: str = "Acme beats", **more: object) -> bytes:
    return json.dumps(
        {"id": f"n{number}", "headline": headline, "published_at": "2026-01-05T09:30:00Z", **more}
    ).encode()


async def settle(
    records: list[Message], scorer: type[ConstantScorer] = NotANumber
) -> tuple[dict[str, list[Outgoing]], Ticket]:
    sent: dict[str, list[Outgoing]] = {}

    async def send_all(topic: str, messages: Sequence[Outgoing]) -> None:
        sent.setdefault(topic, []).extend(messages)

    ticket = Ticket(records[0].offset, records[-1].offset + 1)
    async with Pool(scorer, ["cpu"]) as pool:
        scoring = Scoring(Settings(), pool, send_all, clock=lambda: NOW)
        scoring.windows.start()
        await scoring.take(Chunk("news.raw", records, [ticket]))
        await scoring.windows.drain(30)
        await scoring.windows.stop()
    return sent, ticket


async def test_every_message_becomes_a_signal_or_a_letter() -> None:
    records = [
        fetched(10, news(0), headers=(("trace", b"42"),)),
        fetched(11, news(1, "This one answers NaN")),
        fetched(12, b"{", headers=(("trace", b"43"),)),
        fetched(13, news(2), timestamp=10**17),
        fetched(15, news(3, language="EN-us")),
        fetched(16, news(4, language="de")),
    ]
    sent, ticket = await settle(records)
    assert ticket.safe
    signals = [decode_signal(message.value or b"") for message in sent["news.sentiment"]]
    assert [signal.news_id for signal in signals] == ["n0", "n3"]
    assert [message.key for message in sent["news.sentiment"]] == [b"n0", b"n3"]
    first = signals[0]
    assert first.scored_at == NOW
    assert first.ingested_at == datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
    assert (first.topic, first.partition, first.offset) == ("news.raw", 3, 10)
    assert first.signal_id == signal_id("n0", 1, text_hash("Acme beats"), first.model_revision, first.policy)
    assert (first.label, first.score, first.predicted_depth) == ("neutral", 0.0, None)
    assert first.queue_ms is not None
    assert first.queue_ms >= 0
    letters = {dict(message.headers)[dead_letters.OFFSET[0]]: dict(message.headers) for message in sent["news.dead"]}
    stages = {offset: headers[dead_letters.STAGE] for offset, headers in letters.items()}
    assert stages == {b"11": b"signal", b"12": b"decode", b"13": b"decode", b"16": b"language"}
    assert letters[b"11"][dead_letters.REASON[0]] == b"the model's answer is not a number"
    assert letters[b"12"]["trace"] == b"43"


async def test_answers_that_do_not_fit_the_classes_stop_nothing() -> None:
    sent, ticket = await settle([fetched(10, news(0)), fetched(11, news(1))], TwoClasses)
    assert ticket.safe
    headers = [dict(letter.headers) for letter in sent["news.dead"]]
    assert [letter[dead_letters.STAGE] for letter in headers] == [b"inference", b"inference"]
    assert all(b"(1, 2) for 1 texts and 3 classes" in letter[dead_letters.REASON[0]] for letter in headers)


def test_a_producers_timestamp_is_the_messages_fault() -> None:
    with pytest.raises(BadNews, match="has its producer's time"):
        broker_time(fetched(0, b"", timestamp_type=0))


@pytest.mark.parametrize("timestamp", [10**17, -(10**17)])
def test_a_timestamp_out_of_range_is_the_messages_fault(timestamp: int) -> None:
    with pytest.raises(BadNews, match="is out of range"):
        broker_time(fetched(0, b"", timestamp=timestamp))


async def test_a_reason_of_any_length_and_kind_fits_a_header() -> None:
    letter = dead_letters.letter(fetched(1, None, None), stage="decode", kind="BadNews", reason="\ud800" + "x" * 10**6)
    reason = dict(letter.headers)[dead_letters.REASON[1]]
    assert reason.startswith(b"\\ud800xx")
    assert len(reason) < 2 * dead_letters.MAX_REASON_CHARACTERS
    assert (letter.key, letter.value) == (None, None)
