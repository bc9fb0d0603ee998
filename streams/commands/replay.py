"""`earlybell replay`: a feed out of a file, with progress for people and a summary."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from itertools import chain, islice

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from earlybell.streams.brokers import open_producer
from earlybell.streams.commands.feeds import Pacer, Report, messages, raw_messages, replay
from earlybell.streams.commands.formats import NewsFormat
from earlybell.streams.commands.rows import Columns, OpenFile, format_of, open_file
from earlybell.streams.exceptions import CommandError
from earlybell.streams.settings import Settings
from earlybell.streams.topics import create_topics

#: More broken rows than this are counted, not shown.
SHOWN_FAULTS = 20
#: Where the output is no terminal, a line says how far it is.
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
    """Replay a file and print what became of it.

    Raises
    ------
    FileError, BrokerError
        The file or its columns will not do; no broker answers.
    CommandError
        An option will not do, no row could be sent, or a broker refused some.
    """
    pacer = Pacer(_multiple(speed))
    columns = Columns.parse(pairs, timezone)
    if raw and (pairs or timezone or file_format not in {None, "jsonl"}):
        raise CommandError("--raw sends lines unchanged: drop --map and --timezone, and any --format but jsonl")
    file = open_file(path)
    report = Report()

    def bad(number: int, reason: str) -> None:
        report.bad += 1
        if report.bad <= SHOWN_FAULTS:
            print(f"line {number}: {reason}", file=sys.stderr)
        elif report.bad == SHOWN_FAULTS + 1:
            print("more such lines are counted, not shown", file=sys.stderr)

    feed = raw_messages(file, limit) if raw else messages(file, file_format or format_of(path), columns, bad, limit)
    # The first is taken now: a file that will not do should not wait for a broker.
    feed = chain(list(islice(feed, 1)), feed)
    topic = topic or settings.news_topic
    create_topics(settings)
    with closing(open_producer(settings)) as producer, ProgressShown(file, limit) as shown:
        replay(feed, producer, settings, topic=topic, pacer=pacer, report=report, progress=shown.update)
    print(summary(report, topic), file=sys.stderr)
    if report.refused:
        raise CommandError(f"{report.refused} messages were refused: {report.reason}")
    if report.bad and not report.sent:
        raise CommandError(f"none of the {report.bad} rows is news: the reasons are above; --map names the columns")
    return report


def summary(report: Report, topic: str) -> str:
    """What became of a replay, in one line."""
    left_out = f", {report.bad} rows left out" if report.bad else ""
    rate = report.sent / report.seconds if report.seconds else 0.0
    return f"{report.sent:,} messages to {topic} in {report.seconds:.1f} s ({rate:,.0f}/s){left_out}"


class ProgressShown:
    """A bar on a terminal, a line now and then elsewhere; on the standard error, by bytes of the file."""

    def __init__(self, file: OpenFile, limit: int | None) -> None:
        """Show how much of the file, or of the limit, has been sent."""
        self._file, self._limit = file, limit
        self._told = time.monotonic()
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

    def __enter__(self) -> ProgressShown:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, report: Report) -> None:
        """Show how far the replay is."""
        if self._bar is not None:
            done = report.sent + report.bad if self._limit else self._file.position()
            self._bar.update(self._task, completed=done, sent=report.sent)
        elif time.monotonic() - self._told > PLAIN_LINE_EVERY_S:
            self._told = time.monotonic()
            print(f"{report.sent:,} messages sent", file=sys.stderr)


def _multiple(speed: str) -> float | None:
    if speed == "max":
        return None
    try:
        multiple = float(speed.rstrip("x"))
    except ValueError:
        multiple = 0.0
    if not 0 < multiple < float("inf"):
        raise CommandError(f"--speed {speed}: say a multiple of real time such as 60, or max")
    return multiple
