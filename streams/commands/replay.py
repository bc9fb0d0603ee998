"""`earlybell replay`: publish a file as a feed, with progress and a summary."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from itertools import chain, islice

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from earlybell.streams.brokers import open_producer
from earlybell.streams.commands.feeds import Pacer, Report, messages, publish, raw_messages
from earlybell.streams.commands.formats import NewsFormat
from earlybell.streams.commands.rows import Columns, OpenFile, format_of, open_file
from earlybell.streams.exceptions import CommandError
from earlybell.streams.settings import Settings
from earlybell.streams.topics import create_topics

#: Further faults are counted, not printed.
MAX_PRINTED_FAULTS = 20
#: Off a terminal, progress is a line this often.
PLAIN_LINE_EVERY_S = 5.0


def replay_file(
    settings: Settings,
    path: str,
    *,
    pairs: list[str],
    file_format: NewsFormat | None,
    timezone: str | None,
    speed: str,
    limit: int | None,
    topic: str | None,
    raw: bool,
) -> Report:
    """Replay a file and print a summary.

    Raises
    ------
    FileError, BrokerError
        The file cannot be read or lacks a column; no broker answers.
    CommandError
        An option is invalid, no row is valid news, or a message was refused.
    """
    pacer = Pacer(_multiple(speed))
    columns = Columns.parse(pairs, timezone)
    if raw and (pairs or timezone or file_format not in {None, "jsonl"}):
        raise CommandError("--raw sends lines unchanged: drop --map and --timezone, and any --format but jsonl")
    file = open_file(path)
    report = Report()

    def bad(number: int, reason: str) -> None:
        report.bad += 1
        if report.bad <= MAX_PRINTED_FAULTS:
            print(f"line {number}: {reason}", file=sys.stderr)
        elif report.bad == MAX_PRINTED_FAULTS + 1:
            print("further faults are counted, not shown", file=sys.stderr)

    feed = raw_messages(file, limit) if raw else messages(file, file_format or format_of(path), columns, bad, limit)
    # Read the first message now: an unusable file should fail without waiting for a broker.
    feed = chain(list(islice(feed, 1)), feed)
    topic = topic or settings.news_topic
    create_topics(settings)
    with closing(open_producer(settings)) as producer, ProgressDisplay(file, limit) as display:
        publish(feed, producer, settings, topic=topic, pacer=pacer, report=report, progress=display.update)
    print(summary(report, topic), file=sys.stderr)
    if report.refused:
        raise CommandError(f"{report.refused} messages were refused: {report.reason}")
    if report.bad and not report.sent:
        raise CommandError(f"none of the {report.bad} rows is news: the reasons are above; --map names the columns")
    return report


def summary(report: Report, topic: str) -> str:
    """Return the counts of a replay in one line."""
    skipped = f", {report.bad} rows skipped" if report.bad else ""
    rate = report.sent / report.seconds if report.seconds else 0.0
    return f"{report.sent:,} messages to {topic} in {report.seconds:.1f} s ({rate:,.0f}/s){skipped}"


class ProgressDisplay:
    """Shows progress on the standard error: a bar on a terminal, otherwise a line now and then."""

    def __init__(self, file: OpenFile, limit: int | None) -> None:
        """Measure progress by the file's size, or by the limit if there is one."""
        self._file, self._limit = file, limit
        self._printed = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.fields[sent]:>10,} sent"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=limit or file.size, sent=0)

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, report: Report) -> None:
        """Show the progress of the replay."""
        if self._bar is not None:
            done = report.sent + report.bad if self._limit else self._file.position()
            self._bar.update(self._task, completed=done, sent=report.sent)
        elif time.monotonic() - self._printed > PLAIN_LINE_EVERY_S:
            self._printed = time.monotonic()
            print(f"{report.sent:,} messages sent", file=sys.stderr)


def _multiple(speed: str) -> float | None:
    if speed == "max":
        return None
    try:
        multiple = float(speed.rstrip("x"))
    except ValueError:
        multiple = 0.0
    if not 0 < multiple < float("inf"):
        raise CommandError(f"--speed {speed}: use a multiple of real time such as 60, or max")
    return multiple
