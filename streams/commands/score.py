"""`earlybell score`: texts in, signals out, in the same order. No Kafka, no Postgres.

The input is one text per line, or news items as JSONL, from a file or a pipe. Input is scored as soon as it arrives: a
typed line is answered before the next is read, and a file runs in windows that keep every worker of the pool busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol, cast

import msgspec

from earlybell.inference.pool.pool import WindowResult
from earlybell.inference.predictions import ModelDescription
from earlybell.streams.commands.formats import ScoreFormat, TextFormat
from earlybell.streams.commands.lines import Notice
from earlybell.streams.commands.rows import COMMON_NAMES, DAMAGE_ERRORS, BadRow, Columns, OpenFile, open_file
from earlybell.streams.commands.scored import Scored, Summary, printer
from earlybell.streams.exceptions import FileError
from earlybell.streams.model import open_pool
from earlybell.streams.records import MAX_MESSAGE_BYTES, BadNews, NewsItem, text_id
from earlybell.streams.settings import Settings
from earlybell.streams.signals import build_signal, unsupported_language
from earlybell.streams.token_budget import estimate_tokens

READ_BYTES = 64 * 1024
#: A run that takes longer than this shows its progress, this often.
PROGRESS_AFTER_S, PROGRESS_EVERY_S = 1.0, 0.25
#: The placeholder time of a text that came without one; it never leaves this module.
UNTIMED = datetime(1970, 1, 1, tzinfo=UTC)


class WindowScorer(Protocol):
    """The part of a `Pool` that is needed here."""

    @property
    def capacity(self) -> int:
        """The number of windows that may be in flight."""
        ...

    @property
    def description(self) -> ModelDescription:
        """The model that scores."""
        ...

    async def score(self, texts: Sequence[str]) -> WindowResult:
        """Score one window."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the input to be scored."""

    line: int
    item: NewsItem
    timed: bool


@dataclass(slots=True)
class Window:
    """Lines that are scored together, the faulty ones among them, and the pending result."""

    entries: list[Entry]
    faults: list[tuple[int, str]]
    result: asyncio.Task[WindowResult] | None = None


def score_file(settings: Settings, path: str, text_format: TextFormat, output: ScoreFormat | None = None) -> None:
    """Score a file, or the standard input for ``-``, and print each line's signal.

    Lines that cannot be scored are reported on the standard error with their numbers; they and the blank ones are
    counted at the end.

    Raises
    ------
    FileError
        The file does not exist or cannot be read.
    PoolError
        The model cannot be loaded, or a device does not exist.
    """
    if " " in path and not Path(path).exists():
        raise FileError(f"{path}: no such file; for a text, type: echo {shlex.quote(path)} | earlybell score -")
    file = open_file(path)
    out, summary, notice = printer(output), Summary(), Notice()
    # A table that grows shows the progress itself.
    progress = Progress(file, notice, hidden=sys.stdout.isatty() or not sys.stderr.isatty())

    def write(rows: Sequence[Scored]) -> None:
        notice.clear()
        out.write(rows)
        summary.labels.update(row.signal.label for row in rows)
        progress.update(summary.texts)

    def fault(line: int, reason: str) -> None:
        notice.clear()
        summary.faults += 1
        print(f"line {line}: {reason}", file=sys.stderr)

    async def main() -> None:
        if sys.stderr.isatty():
            notice.show("loading the model ...")
        async with open_pool(settings) as pool:
            notice.clear()
            if path == "-" and sys.stdin.isatty() and sys.stderr.isatty():
                notice.show("type a text and press Enter; Ctrl-D ends")
            summary.blank = await score_stream(file.lines, text_format, pool, settings, write=write, fault=fault)

    try:
        asyncio.run(main())
    finally:
        notice.clear()
    if sys.stderr.isatty():
        print(summary.counts(), file=sys.stderr)
    if missing := summary.missing():
        print(missing, file=sys.stderr)


class Progress:
    """Shows how far a long run has come, from its first second on."""

    def __init__(self, file: OpenFile, notice: Notice, *, hidden: bool) -> None:
        self._file, self._notice, self._hidden = file, notice, hidden
        self._started = self._shown = time.monotonic()

    def update(self, texts: int) -> None:
        """Show the number of texts so far, a few times a second."""
        now = time.monotonic()
        if self._hidden or now - self._started < PROGRESS_AFTER_S or now - self._shown < PROGRESS_EVERY_S:
            return
        self._shown = now
        share = f", {self._file.position() / self._file.size:.0%} of the file" if self._file.size else ""
        self._notice.show(f"{texts:,} texts, {texts / (now - self._started):,.0f}/s{share}")


async def score_stream(
    stream: IO[bytes],
    text_format: TextFormat,
    pool: WindowScorer,
    settings: Settings,
    *,
    write: Callable[[Sequence[Scored]], None],
    fault: Callable[[int, str], None],
) -> int:
    """Score a stream until it ends, and return how many of its lines were blank.

    Parameters
    ----------
    stream
        Read by a thread, as much as is available at a time.
    pool
        A pool that has been started.
    write
        Called with the scored lines of a window, in the order of the input.
    fault
        Called with the number of a line that cannot be scored, and the reason.
    """
    windows: asyncio.Queue[Window | None] = asyncio.Queue(pool.capacity + 1)

    async def settle() -> None:
        while (window := await windows.get()) is not None:
            for line, reason in await _write_scored(window, write):
                fault(line, reason)

    lines = Lines(text_format)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(settle())
            async for chunk in _chunks(stream):
                for window in _cut(lines.entries(chunk), settings, pool.description.languages):
                    if window.entries:
                        window.result = tasks.create_task(pool.score([entry.item.text for entry in window.entries]))
                    await windows.put(window)
            await windows.put(None)
    except ExceptionGroup as failed:
        # The first failure ends the command; the others follow from it.
        raise failed.exceptions[0] from None
    return lines.blank


class Lines:
    """Cuts bytes into lines as they arrive, and parses the lines as news items."""

    def __init__(self, text_format: TextFormat) -> None:
        """Parse every line as text, as a news item, or as whichever the first line looks like."""
        self._format = text_format
        self._columns = Columns()
        self._decode = msgspec.json.Decoder(dict[str, object]).decode
        self._left = b""
        self._number = 0
        #: The blank lines so far.
        self.blank = 0

    def entries(self, chunk: bytes) -> Iterator[Entry | tuple[int, str]]:
        """Yield the lines that this chunk completes, or why one is invalid. An empty chunk is the end of the input."""
        lines = (self._left + chunk).split(b"\n")
        # The part after the last line break waits for the rest of its line; at the end of the input, it is a line.
        self._left = lines.pop() if chunk or not lines[-1] else b""
        for line in lines:
            self._number += 1
            if not (stripped := line.strip()):
                self.blank += 1
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
            raise BadRow("blank, apart from U+0000")
        return NewsItem(id=text_id(text), headline=text, published_at=UNTIMED)

    def _news(self, line: bytes) -> tuple[NewsItem, bool]:
        try:
            row = self._decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRow(f"not a JSON object: {error}") from error
        if any(row.get(name) for name in COMMON_NAMES["published_at"]):
            return self._columns.item(row), True
        item = self._columns.item({**row, "published_at": UNTIMED.isoformat()})
        if not any(row.get(name) for name in (*COMMON_NAMES["id"], *COMMON_NAMES["url"])):
            item = msgspec.structs.replace(item, id=text_id(item.text))
        return item, False


def _cut(entries: Iterator[Entry | tuple[int, str]], settings: Settings, languages: Sequence[str]) -> Iterator[Window]:
    """Cut the available lines into windows with the limits of the pipeline."""
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


async def _write_scored(window: Window, write: Callable[[Sequence[Scored]], None]) -> list[tuple[int, str]]:
    """Wait for a window's result and write its lines; return its faults in the order of the lines."""
    faults = list(window.faults)
    if window.result is not None:
        result = await window.result
        scored_at = datetime.now(UTC)
        rows = []
        answers = zip(result.predictions, result.descriptions, strict=True)
        for index, entry in enumerate(window.entries):
            if reason := result.faults.get(index):
                faults.append((entry.line, reason))
                continue
            prediction, model = next(answers)
            try:
                signal = build_signal(
                    entry.item,
                    prediction,
                    model,
                    scored_at=scored_at,
                    inference_ms=result.inference_s * 1000,
                    timed=entry.timed,
                )
            except BadNews as fault:
                faults.append((entry.line, str(fault)))
            else:
                rows.append(Scored(entry.line, entry.item.text, signal))
        write(rows)
    return sorted(faults)


async def _chunks(stream: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield what the stream has whenever it has something, and finally an empty chunk.

    It is read by a daemon thread, not the loop's executor: the interpreter would wait for that one at exit, and a
    terminal may never send anything.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | FileError] = asyncio.Queue(4)
    read = cast("Callable[[int], bytes]", getattr(stream, "read1", stream.read))

    def pump() -> None:
        chunk: bytes | FileError = b" "
        while chunk and not isinstance(chunk, FileError):
            try:
                chunk = read(READ_BYTES)
            except DAMAGE_ERRORS as error:
                chunk = FileError(f"cannot read the file: {error}")
            with contextlib.suppress(RuntimeError):  # the loop is closed and nothing reads the queue
                asyncio.run_coroutine_threadsafe(queue.put(chunk), loop).result()

    threading.Thread(target=pump, name="read-input", daemon=True).start()
    while True:
        chunk = await queue.get()
        if isinstance(chunk, FileError):
            raise chunk
        yield chunk
        if not chunk:
            return
