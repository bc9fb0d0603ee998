"""Messages that are small on the wire and huge in memory: dead letters without their value, and the stream goes on."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
from faust.types import TP
from kafka import KafkaProducer

from earlybell.inference.pool.pool import Pool
from earlybell.streams import app, dead_letters
from earlybell.streams.brokers import client_options
from earlybell.streams.offsets import OffsetBook, Ticket
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.integration.whole_pipeline import messages, running
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import committed, ends, publish, until

MIB = 1_048_576


def story(number: int) -> bytes:
    return json.dumps({"id": f"s{number}", "headline": "Acme", "published_at": "2026-01-05T09:30:00Z"}).encode()


async def test_huge_messages_become_letters_without_their_value(settings: Settings) -> None:
    with closing(
        KafkaProducer(**client_options(settings), compression_type="zstd", max_request_size=200 * MIB)
    ) as producer:
        sent: list[tuple[bytes, list[tuple[str, bytes]]]] = [
            (story(0), []),
            (b"x" * 110 * MIB, []),  # its batch is not even decompressed
            (b"x" * 10 * MIB, [("trace", b"42")]),
            (b"{}", [("trace", b"y" * 5 * MIB)]),
            (b"x" * MIB + b"x", [("trace", b"43")]),
            (story(1), []),
        ]
        for value, headers in sent:
            producer.send(settings.news_topic, value, headers=headers, key=b"k", partition=0).get(PATIENCE_S)
    async with Pool(ConstantScorer, ["cpu"]) as pool:
        scoring = app.scoring_pipeline(settings, pool)
        async with running(scoring):
            await until(lambda: committed(settings) == ends(settings))
    assert len(messages(settings, settings.sentiment_topic)) == 2
    dead = messages(settings, settings.dead_topic)
    letters = {int(dict(letter.headers)[dead_letters.OFFSET[0]]): letter for letter in dead}
    assert sorted(letters) == [1, 2, 3, 4]
    notes = {offset: dict(letter.headers) for offset, letter in letters.items()}
    assert notes[1][dead_letters.VALUE_OMITTED] == b"unknown"
    assert notes[1][dead_letters.END_OFFSET] == b"2"
    assert "larger than" in notes[1][dead_letters.REASON[0]].decode()
    assert (letters[2].key, letters[2].value) == (b"k", None)
    assert notes[2][dead_letters.VALUE_OMITTED] == str(10 * MIB).encode()
    assert notes[2]["trace"] == b"42"
    assert (letters[3].key, letters[3].value) == (None, None)
    assert "trace" not in notes[3]
    assert notes[3][dead_letters.VALUE_OMITTED] == b"2"
    assert letters[4].value == b"x" * MIB + b"x"
    assert notes[4]["trace"] == b"43"


@pytest.mark.parametrize("budget", [1, 3 * MIB])
async def test_large_messages_are_fetched_a_few_at_a_time(
    settings: Settings, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back-pressure counts bytes: 24 messages of 1 MiB never wait for a slow pool together."""
    most = 0
    hand_out = OffsetBook.hand_out

    def watched(book: OffsetBook[TP], *arguments: Any) -> Ticket:
        nonlocal most
        ticket = hand_out(book, *arguments)
        most = max(most, sum(book.unsafe_bytes().values()))
        return ticket

    monkeypatch.setattr(OffsetBook, "hand_out", watched)
    large = [b"x" * (MIB - 1_000)] * 24
    publish(settings, large)
    small = settings.model_copy(update={"fetched_bytes": budget})
    async with Pool(ConstantScorer, ["cpu"]) as pool, running(app.scoring_pipeline(small, pool)):
        await until(lambda: committed(settings) == ends(settings))
    assert 0 < most <= budget + 4 * MIB  # at most one message of each partition more
    assert len(messages(settings, settings.dead_topic)) == 24
