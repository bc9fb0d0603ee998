"""Whatever a file contains, reading it as a feed yields news and bad rows, or one line that says what is wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlybell.streams.commands.formats import NewsFormat
from earlybell.streams.commands.rows import MAX_LINE_BYTES, BadRow, Columns, OpenFile, open_file, read
from earlybell.streams.exceptions import FileError
from earlybell.streams.records import NewsItem, decode_news, encode
from tests.streams.hostile import CORPUS, TEXT, messages

COLUMNS = Columns()
FORMATS: list[NewsFormat] = ["jsonl", "csv", "tsv"]


def news_of(file: OpenFile, file_format: NewsFormat) -> tuple[list[NewsItem], list[BadRow]]:
    items: list[NewsItem] = []
    bad: list[BadRow] = []
    for line in read(file, file_format, COLUMNS):
        try:
            if isinstance(line.row, BadRow):
                raise line.row
            items.append(COLUMNS.item(line.row))
        except BadRow as fault:
            assert str(fault)
            bad.append(fault)
    return items, bad


def check(data: bytes, file_format: NewsFormat) -> None:
    try:
        items, _ = news_of(OpenFile(io.BytesIO(data), io.BytesIO(), None), file_format)
    except FileError as error:
        assert "\n" not in str(error)
        return
    for item in items:
        assert decode_news(encode(item)) == item


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("value", CORPUS.values(), ids=CORPUS)
def test_the_corpus(value: bytes, file_format: NewsFormat) -> None:
    check(value, file_format)


@given(st.lists(messages(), max_size=4), st.sampled_from([b"\n", b"\r\n", b"\r", b"\0"]))
def test_lines_that_are_almost_news(lines: list[bytes], end: bytes) -> None:
    check(end.join(lines), "jsonl")


@settings(max_examples=300)
@given(
    st.lists(st.lists(TEXT, max_size=5), max_size=5),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["headline,published_at,symbols", "title,date", "id;headline;date", ""]),
    st.sampled_from(FORMATS),
)
def test_tables_of_any_cells(table: list[list[str]], separator: str, head: str, file_format: NewsFormat) -> None:
    text = "\n".join([head.replace(",", separator), *(separator.join(cells) for cells in table)])
    check(text.encode("utf-8", "surrogatepass"), file_format)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
@given(data=st.data())
def test_damaged_archives(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject) -> None:
    compress: Any = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[suffix]
    archive = bytearray(compress(b'{"id": "h", "headline": "x", "published_at": "2026-01-05T09:30:00Z"}\n' * 20))
    position = data.draw(st.integers(0, len(archive) - 1))
    archive[position : position + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.getbasetemp() / f"damaged.jsonl{suffix}"
    path.write_bytes(archive)
    try:
        news_of(open_file(str(path)), "jsonl")
    except FileError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path, suffix: str, file_format: NewsFormat) -> None:
    opener: Any = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}[suffix]
    path = tmp_path / f"bomb.{file_format}{suffix}"
    with opener(path, "wb") as file:
        for _ in range(150):
            file.write(b"x" * 1_000_000)
        file.write(b"\n")
    tracemalloc.start()
    try:
        items, bad = news_of(open_file(str(path)), file_format)
    except FileError as error:
        items, bad = [], [BadRow(str(error))]
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert items == []
    assert "longer than" in str(bad[0])
    assert peak < 6 * MAX_LINE_BYTES
