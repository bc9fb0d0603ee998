"""`score`: every text is answered, in the order of the input, however the windows finish; also on the shipped model."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.pool.pool import WindowResult
from earlybell.inference.predictions import ModelDescription, Predictions
from earlybell.streams.commands.formats import TextFormat
from earlybell.streams.commands.score import Entry, Lines, score_stream
from earlybell.streams.commands.scored import Scored, printer
from earlybell.streams.exceptions import FileError
from earlybell.streams.records import decode_signal, text_id
from earlybell.streams.settings import Settings

ROOT = Path(__file__).parents[3]
MODEL = ModelDescription(
    "m", "r", ("negative", "neutral", "positive"), ("en",), 6, 128, 0.5, "dial=0.50", "float32", "cpu", "float32"
)


class LastFirst:
    """Scores like a pool whose later windows finish first; a text that contains "poison" is at fault."""

    capacity = 4
    description = MODEL

    def __init__(self) -> None:
        self.windows: list[list[str]] = []
        self.ready: list[asyncio.Event] = []

    async def score(self, texts: Sequence[str]) -> WindowResult:
        """Encode the length of each text as its positive probability, to tell texts apart."""
        self.windows.append(list(texts))
        number, finished = len(self.windows), asyncio.Event()
        self.ready.append(finished)
        # Wait until a later window has finished, or there is none.
        for _ in range(20):
            await asyncio.sleep(0)
            if any(event.is_set() for event in self.ready[number:]):
                break
        finished.set()
        faults = {place: "poison" for place, text in enumerate(texts) if "poison" in text}
        kept = [text for text in texts if "poison" not in text]
        probabilities = np.array([[0.0, 1 - len(text) / 1e4, len(text) / 1e4] for text in kept], np.float32)
        count = len(kept)
        predictions = Predictions(
            probabilities.reshape(count, 3),
            np.ones(count, np.int16),
            np.full(count, np.nan, np.float32),
            np.full(count, 5, np.int32),
            np.full(count, 5, np.int32),
            np.ones(count, np.float32),
        )
        return WindowResult(predictions, [MODEL] * len(predictions), faults, 0.001, 0.002)


def scored(
    data: bytes | io.RawIOBase, text_format: TextFormat = "auto", pool: LastFirst | None = None, **settings: Any
) -> tuple[list[Any], list[tuple[int, str]]]:
    stream: Any = io.BytesIO(data) if isinstance(data, bytes) else data
    rows: list[Scored] = []
    faults: list[tuple[int, str]] = []
    asyncio.run(
        score_stream(
            stream, text_format, pool or LastFirst(), Settings(**settings),
            write=rows.extend, fault=lambda *fault: faults.append(fault),
        )
    )  # fmt: skip
    return [row.signal for row in rows], faults


def test_answers_are_in_order_though_windows_finish_out_of_order() -> None:
    texts = [f"headline {'x' * (number % 97)} {number}" for number in range(1_000)]
    pool = LastFirst()
    signals, faults = scored("\n".join(texts).encode(), pool=pool, window_texts=16)
    assert [signal.news_id for signal in signals] == [text_id(text) for text in texts]
    assert [round(signal.probabilities["positive"] * 1e4) for signal in signals] == [len(text) for text in texts]
    assert faults == []
    assert len(pool.windows) >= 62
    assert max(map(len, pool.windows)) == 16


def test_missing_fields_are_null() -> None:
    [signal], _ = scored(b"Zephyr wins\n")
    assert (signal.published_at, signal.ingested_at, signal.queue_ms) == (None, None, None)
    assert (signal.topic, signal.partition, signal.offset, signal.source) == (None, None, None, None)
    assert (signal.label, signal.policy, signal.revision) == ("neutral", "dial=0.50", 1)
    assert signal.model_revision == "r+float32"
    assert signal.inference_ms == pytest.approx(2.0)


def test_news_items_keep_their_fields() -> None:
    rows = [
        {"id": "a", "headline": "H", "published_at": "2026-03-02T09:00:00Z", "symbols": ["X"], "revision": 2},
        {"id": "b", "headline": "H"},
        {"headline": "no id"},
        {"title": "usual names", "link": "https://x.test/1", "tickers": "X,Y"},
        {"headline": "h", "body": "b"},
    ]
    signals, faults = scored("\n".join(map(json.dumps, rows)).encode())
    assert faults == []
    assert [signal.news_id for signal in signals[:3]] == ["a", "b", text_id("no id")]
    assert signals[0].published_at is not None
    assert (signals[0].revision, signals[0].symbols) == (2, ["X"])
    assert all(signal.published_at is None for signal in signals[1:])
    assert signals[3].news_id.startswith("url:")
    assert signals[3].symbols == ["X", "Y"]
    assert signals[4].news_id == text_id("h\nb")


def test_faulty_lines_are_reported_and_the_others_scored() -> None:
    lines = [
        b'{"headline": "one"}',
        b'{"headline": ',
        b'{"headline": "poison"}',
        b'{"headline": "zwei", "language": "de"}',
        b'{"headline": "three", "language": "en-GB"}',
        b"",
        b'{"body": "no headline"}',
        b'"text"',
        b'{"headline": "\xff"}',
        b'{"headline": "last"}',
    ]
    signals, faults = scored(b"\n".join(lines))
    assert [signal.news_id for signal in signals] == [text_id(text) for text in ("one", "three", "last")]
    assert [line for line, _ in faults] == [2, 3, 4, 7, 8, 9]
    assert "not supported: the model reads en" in faults[2][1]


def test_the_first_line_decides_and_format_forces() -> None:
    assert len(scored(b'Acme\n{"headline": "x"}\n')[0]) == 2, "text, though a later line looks like JSON"
    signals, faults = scored(b'Acme\n{"headline": "x"}\n', "jsonl")
    assert (len(signals), [line for line, _ in faults]) == (1, [1])
    [signal], _ = scored(b'{"headline": "x"}\n', "text")
    assert signal.news_id == text_id('{"headline": "x"}')


def test_bytes_that_are_not_text() -> None:
    signals, faults = scored(b"good\n\xff\xfe\n\0\nnul\0ed\r\n")
    assert [signal.news_id for signal in signals] == [text_id("good"), text_id("nuled")]
    assert [line for line, _ in faults] == [2, 3]


@given(st.lists(st.sampled_from(["", " ", "abc", "käse", "x" * 50, "\0"]), max_size=20), st.data())
def test_lines_are_the_same_however_the_bytes_arrive(texts: list[str], data: st.DataObject) -> None:
    whole = "\n".join(texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    def entries(chunks: list[bytes]) -> list[Entry | tuple[int, str]]:
        lines = Lines("text")
        # An empty chunk in the middle would end the input.
        return [entry for chunk in [*filter(None, chunks), b""] for entry in lines.entries(chunk)]

    assert entries(pieces) == entries([whole])
    parsed = {entry.line: entry.item.text for entry in entries(pieces) if isinstance(entry, Entry)}
    assert parsed == {n: text.strip() for n, text in enumerate(texts, 1) if text.strip(" \0")}


def test_a_typed_line_is_answered_before_the_next_is_read() -> None:
    """The input stays open: if its end were awaited, nothing would be written."""
    reading, writing = os.pipe()
    answered: list[Scored] = []

    def write(rows: Sequence[Scored]) -> None:
        answered.extend(rows)
        if len(answered) < 3:
            os.write(writing, b"another line\n")
        else:
            os.close(writing)

    os.write(writing, b"first line\n")
    with io.FileIO(reading) as stream:
        asyncio.run(score_stream(stream, "text", LastFirst(), Settings(), write=write, fault=lambda *_: None))
    assert len(answered) == 3


def test_a_damaged_file_is_one_error() -> None:
    class Damaged(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    with pytest.raises(FileError, match="cannot read the file: Compressed file ended"):
        scored(Damaged(b""))  # type: ignore[arg-type]


def test_the_command_on_the_shipped_model() -> None:
    texts = "Zephyrline Rail profit surges, outlook raised\n\n\xff\nZephyrline Rail shares plunge on fraud probe\n"
    done = subprocess.run(
        [sys.executable, "-m", "earlybell.streams.cli", "score", "-"],
        input=texts.encode("latin-1"), capture_output=True, timeout=300, check=True, cwd=ROOT,
        env={**os.environ, "EARLYBELL_DEVICES": "cpu"},
    )  # fmt: skip
    signals = [decode_signal(line) for line in done.stdout.splitlines()]
    assert [signal.label for signal in signals] == ["positive", "negative"]
    assert signals[0].score > 0 > signals[1].score
    assert all(sum(signal.probabilities.values()) == pytest.approx(1, abs=1e-4) for signal in signals)
    reported = done.stderr.decode().splitlines()
    assert reported[0].startswith("line 3: not UTF-8")
    assert reported[-1] == "1 line could not be scored, 1 blank line was skipped"
    assert [(line["line"], line["text"]) for line in map(json.loads, done.stdout.splitlines())] == [
        (1, "Zephyrline Rail profit surges, outlook raised"),
        (4, "Zephyrline Rail shares plunge on fraud probe"),
    ]


def test_csv_has_a_header_and_the_lines(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    rows: list[Scored] = []
    asyncio.run(
        score_stream(
            io.BytesIO(b'Acme, "up"\n\nBorealis\n'), "text", LastFirst(), Settings(),
            write=rows.extend, fault=lambda *_: None,
        )
    )  # fmt: skip
    printer("csv").write(rows)
    [first, second] = csv.DictReader(capfdbinary.readouterr().out.decode().splitlines())
    assert (first["line"], first["label"], first["text"]) == ("1", "neutral", 'Acme, "up"')
    assert float(first["neutral"]) == pytest.approx(1 - len(first["text"]) / 1e4, abs=1e-6)
    assert (second["line"], second["text"]) == ("3", "Borealis")
