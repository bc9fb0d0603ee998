"""`earlybell score`: texts in, signals out, in the order in which they came. No Kafka, no Postgres.

One text a line, or news items as JSONL, from a file or a pipe. What is there is scored at once: a line that is typed
is answered before the next is read, and a file runs in windows that keep every worker of the pool busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Protocol, cast

import msgspec

from earlybell.inference.pool import pool as pools
from earlybell.inference.pool.pool import Pool, WindowResult
from earlybell.inference.predictions import ModelDescription
from earlybell.streams.commands.formats import TextFormat
from earlybell.streams.commands.rows import DAMAGED, USUAL_NAMES, BadRow, Columns, open_file
from earlybell.streams.exceptions import FileError
from earlybell.streams.model import scorer
from earlybell.streams.records import MAX_MESSAGE_BYTES, NewsItem, encode, text_id
from earlybell.streams.settings import Settings
from earlybell.streams.signals import build_signal, unsupported_language
from earlybell.streams.token_budget import estimate_tokens

READ_BYTES = 64 * 1024
#: Stands in for the time of a text that came without one; it never leaves this module.
UNTIMED = datetime(1970, 1, 1, tzinfo=UTC)


class Scores(Protocol):
    """What is needed of a `Pool`."""

    @property
    def capacity(self) -> int:
        """Windows that may be in flight at once."""
        ...

    @property
    def description(self) -> ModelDescription:
        """The model that answers."""
        ...

    async def score(self, texts: Sequence[str]) -> WindowResult:
        """Score one window."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the input that is to be scored."""

    line: int
    item: NewsItem
    timed: bool


@dataclass(slots=True)
class Window:
    """Lines that are scored together, those that will not be, and the answer to come."""

    entries: list[Entry]
    faults: list[tuple[int, str]]
    answer: asyncio.Task[WindowResult] | None = None


def score_file(settings: Settings, path: str, text_format: TextFormat) -> None:
    """Score a file, or the standard input for ``-``: JSON lines on the standard output.

    A line that cannot be scored is reported on the standard error with its number, and the count at the end.

    Raises
    ------
    FileError
        The file is not there, or cannot be read.
    PoolError
        The model cannot be loaded, or a device is not there.
    """
    file = open_file(path)
    out = sys.stdout.buffer
    faults = 0

    def write(lines: Sequence[bytes]) -> None:
        out.writelines(lines)
        out.flush()

    def fault(line: int, reason: str) -> None:
        nonlocal faults
        faults += 1
        print(f"line {line}: {reason}", file=sys.stderr)

    async def main() -> None:
        async with Pool(scorer(settings), pools.devices(settings.devices)) as pool:
            await score_stream(file.lines, text_format, pool, settings, write=write, fault=fault)

    asyncio.run(main())
    if faults:
        print(f"{faults} lines were not scored", file=sys.stderr)


async def score_stream(
    stream: IO[bytes],
    text_format: TextFormat,
    pool: Scores,
    settings: Settings,
    *,
    write: Callable[[Sequence[bytes]], None],
    fault: Callable[[int, str], None],
) -> None:
    """Score what a stream holds, until it ends.

    Parameters
    ----------
    stream
        Is read by a thread, as much as is there at a time.
    pool
        Started.
    write
        Is given the encoded signals of a window, a line each, in the input's order.
    fault
        Is given the number of a line that cannot be scored, and the reason.
    """
    windows: asyncio.Queue[Window | None] = asyncio.Queue(pool.capacity + 1)

    async def answer() -> None:
        while (window := await windows.get()) is not None:
            for line, reason in await _settle(window, pool.description, write):
                fault(line, reason)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(answer())
            lines = Lines(text_format)
            async for chunk in _chunks(stream):
                for window in _cut(lines.entries(chunk), settings, pool.description.languages):
                    if window.entries:
                        window.answer = tasks.create_task(pool.score([entry.item.text for entry in window.entries]))
                    await windows.put(window)
            await windows.put(None)
    except ExceptionGroup as failed:
        # The first failure ends it all; the others follow from it.
        raise failed.exceptions[0] from None


class Lines:
    """Bytes as they arrive, cut into lines and made into news items."""

    def __init__(self, text_format: TextFormat) -> None:
        """Take every line as a text, as a news item, or all of them as what the first seems to be."""
        self._format = text_format
        self._columns = Columns()
        self._decode = msgspec.json.Decoder(dict[str, object]).decode
        self._left = b""
        self._number = 0

    def entries(self, chunk: bytes) -> Iterator[Entry | tuple[int, str]]:
        """The lines that are complete with this chunk, or why one is none; an empty chunk is the end."""
        lines = (self._left + chunk).split(b"\n")
        # What follows the last line break waits for the rest of its line; at the end there is none to come.
        self._left = lines.pop() if chunk or not lines[-1] else b""
        for line in lines:
            self._number += 1
            if not (stripped := line.strip()):
                continue
            if self._format == "auto":
                self._format = "jsonl" if stripped.startswith(b"{") else "text"
            try:
                item, timed = self._news(stripped) if self._format == "jsonl" else (self._text(stripped), False)
            except BadRow as error:
                yield self._number, str(error)
            else:
                yield Entry(self._number, item, timed)

    def _text(self, line: bytes) -> NewsItem:
        if len(line) > MAX_MESSAGE_BYTES:
            raise BadRow(f"text of {len(line)} bytes; the limit is {MAX_MESSAGE_BYTES}")
        try:
            text = line.decode().replace("\0", "")
        except UnicodeDecodeError as error:
            raise BadRow(f"not UTF-8: {error}") from error
        if not text.strip():
            raise BadRow("nothing but U+0000")
        return NewsItem(id=text_id(text), headline=text, published_at=UNTIMED)

    def _news(self, line: bytes) -> tuple[NewsItem, bool]:
        try:
            row = self._decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRow(f"not a JSON object: {error}") from error
        if any(row.get(name) for name in USUAL_NAMES["published_at"]):
            return self._columns.item(row), True
        item = self._columns.item({**row, "published_at": UNTIMED.isoformat()})
        if not any(row.get(name) for name in (*USUAL_NAMES["id"], *USUAL_NAMES["url"])):
            item = msgspec.structs.replace(item, id=text_id(item.text))
        return item, False


def _cut(entries: Iterator[Entry | tuple[int, str]], settings: Settings, languages: Sequence[str]) -> Iterator[Window]:
    """Windows of the lines that are there, each within the limits of a window of the pipeline."""
    window, tokens = Window([], []), 0
    for entry in entries:
        if isinstance(entry, tuple):
            window.faults.append(entry)
            continue
        if reason := unsupported_language(entry.item, languages):
            window.faults.append((entry.line, reason))
            continue
        window.entries.append(entry)
        tokens += estimate_tokens(entry.item.text)
        if len(window.entries) >= settings.window_texts or tokens >= settings.window_tokens:
            yield window
            window, tokens = Window([], []), 0
    if window.entries or window.faults:
        yield window


async def _settle(
    window: Window, model: ModelDescription, write: Callable[[Sequence[bytes]], None]
) -> list[tuple[int, str]]:
    """Write a window's signals when they are there; gives what could not be scored, in the order of the lines."""
    faults = list(window.faults)
    if window.answer is not None:
        result = await window.answer
        scored_at = datetime.now(UTC)
        lines, row = [], 0
        for place, entry in enumerate(window.entries):
            if reason := result.faults.get(place):
                faults.append((entry.line, reason))
                continue
            signal = build_signal(
                entry.item,
                result.predictions,
                row,
                result.description,
                scored_at=scored_at,
                inference_ms=result.inference_s * 1000,
                timed=entry.timed,
            )
            lines.append(encode(signal) + b"\n")
            row += 1
        write(lines)
    return sorted(faults)


async def _chunks(stream: IO[bytes]) -> AsyncIterator[bytes]:
    """What the stream has, whenever it has something; at last an empty chunk.

    By a thread of its own and not the loop's executor: that is waited for at exit, and a terminal may never speak.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | FileError] = asyncio.Queue(4)
    read = cast("Callable[[int], bytes]", getattr(stream, "read1", stream.read))

    def pump() -> None:
        chunk: bytes | FileError = b" "
        while chunk and not isinstance(chunk, FileError):
            try:
                chunk = read(READ_BYTES)
            except DAMAGED as error:
                chunk = FileError(f"cannot read the file: {error}")
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody reads any more
                asyncio.run_coroutine_threadsafe(queue.put(chunk), loop).result()

    threading.Thread(target=pump, name="read-input", daemon=True).start()
    while True:
        chunk = await queue.get()
        if isinstance(chunk, FileError):
            raise chunk
        yield chunk
        if not chunk:
            return
