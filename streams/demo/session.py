"""`earlybell demo`: run both roles on a private Kafka and Postgres, replay the sample feed, and check the outcome.

Everything is private and removed at the end, also after Ctrl-C. Servers that the environment names are left alone.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import psycopg2
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError
from pydantic import SecretStr
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from earlybell.deploy.local import stack
from earlybell.streams import logs
from earlybell.streams.brokers import client_options, open_consumer, open_producer, reaching
from earlybell.streams.commands.feeds import Message, Pacer, Report, publish, raw_messages
from earlybell.streams.commands.readable import CONTRACT
from earlybell.streams.commands.rows import open_file
from earlybell.streams.demo import sample
from earlybell.streams.demo.screen import TITLE, Result, Screen, result_lines
from earlybell.streams.demo.tally import BURST, Tally
from earlybell.streams.exceptions import CommandError
from earlybell.streams.exit_codes import INTERRUPTED
from earlybell.streams.records import NewsItem, encode
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.supervisor import Roles
from earlybell.streams.topics import create_topics

#: Until both roles have their partitions, which includes loading and warming up the model.
READY_TIMEOUT_S = 180.0
#: Until everything expected has arrived, after the feed has ended.
SETTLE_TIMEOUT_S = 120.0
#: Headlines that are published at full speed, after the day.
BURST_TEXTS = 3_000
PICTURE_WIDTH = 100
#: What to type after the demo.
ACTIVATE = ("source .venv/bin/activate", "put earlybell on your PATH")
NEXT = (
    ("earlybell up", "start a Kafka and a Postgres that stay"),
    ("earlybell db upgrade", "create the tables"),
    ("earlybell run", "run both roles, until Ctrl-C"),
    ("earlybell watch", "see the signals, in another terminal"),
    ("earlybell replay FILE", "publish a file of yours as a feed"),
    ("echo TEXT | earlybell score -", "score one text, without servers"),
)
#: Wait for anything unexpected, after everything expected has arrived.
SURPLUS_WAIT_S = 1.0
#: Lines of the roles' logs that are printed on a failure.
LOG_LINES = 12
_TICK_S = 0.1
#: These name the user's own servers, which the demo must not touch.
_SERVER_VARIABLES = ("EARLYBELL_KAFKA_BOOTSTRAP", "EARLYBELL_DATABASE_URL")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(Exception):
    """The replaying thread was told to stop."""


def run(seconds: float, picture: Path | None = None) -> int:
    """Run the demo, and play the feed in this many seconds; draw what it showed as an SVG if `picture` names a file.

    Returns
    -------
    int
        The exit code: 0 if all counts are as expected, 1 if not, 130 after Ctrl-C.

    Raises
    ------
    StackError, BrokerError, StorageError, CommandError
        The servers or the roles do not start.
    """
    logs.silence()
    for name in _SERVER_VARIABLES:
        os.environ.pop(name, None)
    tally = Tally()
    try:
        with _interruptible(), tempfile.TemporaryFile() as role_logs, Screen(tally) as screen:
            screen.enter("starting a private Kafka and Postgres")
            # While they start: SQLAlchemy and Alembic take a second or more to import.
            threading.Thread(target=import_module, args=("earlybell.storage.migrations",), daemon=True).start()
            with stack.running(progress=screen.enter) as servers:
                settings = Settings(
                    kafka_bootstrap=servers.kafka_bootstrap, database_url=SecretStr(servers.database_url)
                )
                screen.enter("creating topics and tables")
                create_topics(settings)
                import_module("earlybell.storage.migrations").upgrade(settings.database)
                outcome = asyncio.run(_play(settings, servers.environment(), tally, screen, seconds, role_logs))
                screen.enter("stopping Kafka and Postgres")
            screen.enter("everything has stopped")
            screen.close()
            if outcome.differences:
                _report_differences(outcome.differences, screen, role_logs)
                return 1
            ending = _ending(tally, outcome)
            for part in ending:
                screen.console.print(part)
            if picture is not None:
                _draw(picture, tally, outcome.results[:2])
            return 0
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the sample feed came to: how it differs from what it should have, and the answers of SQL to it."""

    differences: list[str]
    results: list[Result]


async def _play(
    settings: Settings, environment: dict[str, str], tally: Tally, screen: Screen, seconds: float, role_logs: IO[bytes]
) -> Outcome:
    """Run both roles, feed them, and wait until everything has arrived or the time is up."""
    stop = threading.Event()
    screen.enter("starting both roles: loading the model")
    with _cancelling(asyncio.current_task()):
        try:
            async with Roles(environment=environment, output=role_logs) as roles:
                refused = asyncio.create_task(roles.refused())
                watching = asyncio.create_task(asyncio.to_thread(_watch, settings, tally, stop))
                feeding = asyncio.create_task(_feed(settings, tally, screen, seconds, stop))
                await asyncio.wait((refused, watching, feeding), return_when=asyncio.FIRST_COMPLETED)
                if refused.done():
                    raise CommandError(f"a role failed to start: {_tail(role_logs, 1)}")
                if watching.done():
                    watching.result()
                outcome = await feeding
                screen.enter("stopping both roles")
                stop.set()
                await watching
                return outcome
        finally:
            stop.set()


async def _feed(settings: Settings, tally: Tally, screen: Screen, seconds: float, stop: threading.Event) -> Outcome:
    """Wait for the roles, play the sample, query it, and then publish headlines at full speed."""
    await _until(lambda: _both_ready(settings), READY_TIMEOUT_S, screen, every_s=0.25)
    screen.enter(f"playing a day of {sample.MESSAGES} messages in {seconds:.0f} s")
    await _in_thread(_replay, settings, tally, seconds, stop, screen=screen)
    screen.enter("waiting for the last signals and rows")
    await _until(tally.complete, SETTLE_TIMEOUT_S, screen)
    await asyncio.sleep(SURPLUS_WAIT_S)
    if differences := tally.differences():
        return Outcome(differences, [])
    answers = await asyncio.to_thread(_answers, settings)
    screen.enter(f"now {BURST_TEXTS:,} headlines at once, as fast as they go")
    await _in_thread(_burst, settings, tally, stop, screen=screen)
    await _until(lambda: tally.signal_rows >= sample.SIGNALS + BURST_TEXTS, SETTLE_TIMEOUT_S, screen)
    return Outcome([], answers)


def _answers(settings: Settings) -> list[Result]:
    from earlybell.streams.demo import queries

    return list(queries.results(settings.database))


async def _in_thread(function: Callable[..., None], *arguments: Any, screen: Screen) -> None:
    task = asyncio.create_task(asyncio.to_thread(function, *arguments))
    await _until(task.done, float("inf"), screen)
    await task


async def _until(done: Callable[[], bool], timeout_s: float, screen: Screen, every_s: float = _TICK_S) -> None:
    """Wait until `done`, or until the time is up; the verdict decides whether it went well."""
    started = time.monotonic()
    while not await asyncio.to_thread(done) and time.monotonic() - started < timeout_s:
        screen.tick()
        await asyncio.sleep(every_s)


def _both_ready(settings: Settings) -> bool:
    """Return whether each role's consumer group is stable and has a member."""
    with reaching(settings), closing(KafkaAdminClient(**client_options(settings))) as admin:
        try:
            groups = admin.describe_groups([settings.consumer_group(role) for role in Role])
        except KafkaError as error:
            if error.retriable:
                return False
            raise
    return all(group["group_state"] == "Stable" and group["members"] for group in groups.values())


def _replay(settings: Settings, tally: Tally, seconds: float, stop: threading.Event) -> None:
    """Publish the sample in this many seconds, at the pace of its day."""
    feed = list(raw_messages(open_file(str(sample.FEED))))
    due = [message.due for message in feed if message.due is not None]
    pacer = Pacer((max(due) - min(due)).total_seconds() / seconds)

    def counting() -> Iterator[Message]:
        for message in feed:
            yield message
            tally.published += 1

    def progress(_: Report) -> None:
        if stop.is_set():
            raise _Stopped

    with suppress(_Stopped), closing(open_producer(settings)) as producer:
        report = publish(
            counting(), producer, settings, topic=settings.news_topic, pacer=pacer, report=Report(), progress=progress
        )
        if report.refused:
            raise CommandError(f"{report.refused} messages of the sample were refused: {report.reason}")


def _burst(settings: Settings, tally: Tally, stop: threading.Event) -> None:
    """Publish the headlines that have been scored over and over, as new stories, as fast as possible."""
    with closing(open_producer(settings)) as producer:
        published_at = datetime.now(UTC)
        for number, headline in zip(range(BURST_TEXTS), itertools.cycle(tally.scored_headlines()), strict=False):
            if stop.is_set():
                return
            item = NewsItem(id=f"{BURST}{number}", headline=headline, published_at=published_at)
            producer.send(settings.news_topic, key=item.id.encode(), value=encode(item))
            tally.burst_published += 1
        producer.flush()


def _watch(settings: Settings, tally: Tally, stop: threading.Event) -> None:
    """Follow both outgoing topics and both tables until told to stop."""
    with (
        reaching(settings),
        closing(open_consumer(settings, auto_offset_reset="earliest")) as consumer,
        closing(psycopg2.connect(settings.database)) as database,
        database.cursor() as cursor,
    ):
        database.autocommit = True
        topics = (settings.sentiment_topic, settings.dead_topic)
        consumer.assign(
            [TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic) or ()]
        )
        while not stop.is_set():
            for partition, records in consumer.poll(timeout_ms=100).items():
                for record in records:
                    if partition.topic == settings.sentiment_topic:
                        tally.add_signal(record.value, record.timestamp)
                    else:
                        tally.add_letter(record.value, record.headers)
            cursor.execute("SELECT (SELECT count(*) FROM news), (SELECT count(*) FROM signals)")
            tally.news_rows, tally.signal_rows = cursor.fetchone() or (0, 0)


def _report_differences(differences: Sequence[str], screen: Screen, role_logs: IO[bytes]) -> None:
    screen.print("Not what the sample should produce:")
    for difference in differences:
        screen.print(f"  {difference}")
    screen.print("The last lines of the roles' logs:")
    screen.print(_tail(role_logs, LOG_LINES))


def _ending(tally: Tally, outcome: Outcome) -> list[RenderableType]:
    """Return what is printed at the end: the answers of SQL, the speed, and what to type next."""
    parts = [line for result in (*outcome.results, _one_letter(tally)) for line in result_lines(result)]
    speeds = [
        (name, f"{latencies.per_second():,.0f}", *(f"{latencies.percentile(share):,.0f}" for share in (0.5, 0.99)))
        for name, latencies in (("the day, quiet", tally.quiet), ("all at once", tally.burst))
    ]
    meaning = "quiet, a story waits for nothing; at full speed, for those before it"
    parts += result_lines(Result("Speed", meaning, ("stream", "stories/s", "p50 ms", "p99 ms"), speeds))
    whole = f"{sample.SIGNALS} signals, each with its row, and {len(sample.BROKEN)} dead letters, each with its reason."
    parts += [Text(f"\n{sample.MESSAGES} messages: {whole}"), Text("\nNext", style="bold")]
    table = Table.grid(padding=(0, 3, 0, 0))
    for command, meaning in NEXT if shutil.which("earlybell") else (ACTIVATE, *NEXT):
        table.add_row(Text(f"  {command}", style="cyan"), Text(meaning, style="dim"))
    return [*parts, table]


def _one_letter(tally: Tally) -> Result:
    """Describe the dead letter whose time has no UTC offset, so that no backtest could use it."""
    letter = next(letter for letter in tally.letters if "timezone" in letter.reason)
    rows = [
        ("headline", letter.message),
        ("reason", letter.reason.removeprefix(CONTRACT)),
        ("came from", f"partition {letter.partition}, offset {letter.offset} of the news topic"),
        ("from here", "`earlybell dead` shows it, `earlybell redrive` sends it back"),
    ]
    return Result("One dead letter", "kept as it came, and the stream went on", ("", ""), rows)


def _draw(picture: Path, tally: Tally, answers: Sequence[Result]) -> None:
    """Write what the demo showed as an SVG, for the README."""
    console = Console(record=True, width=PICTURE_WIDTH, height=60, file=io.StringIO(), force_terminal=True)
    console.print(Text(TITLE, style="bold"), *Screen(tally, console).panels(), sep="\n")
    for answer in answers:
        console.print(*result_lines(answer), sep="\n")
    # Without the fonts that rich would have the reader's browser fetch from elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    picture.write_text(console.export_svg(title="earlybell demo", code_format=form), encoding="utf-8")


def _tail(role_logs: IO[bytes], lines: int) -> str:
    role_logs.seek(0)
    return "\n".join(role_logs.read().decode(errors="replace").splitlines()[-lines:])


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a KeyboardInterrupt, once: a second one must not interrupt the clean-up."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def interrupt(*_: Any) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _cancelling(task: asyncio.Task[Any] | None) -> Iterator[None]:
    """Within the event loop, cancel the task on these signals instead, so that it releases its resources in order."""
    loop = asyncio.get_running_loop()
    outside = {number: signal.getsignal(number) for number in _SIGNALS}
    cancelled = False

    def cancel() -> None:
        nonlocal cancelled
        if not cancelled and task is not None:
            cancelled = True
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if cancelled else outside[number])
