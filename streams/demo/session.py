"""`earlybell demo`: run both roles on a private Kafka and Postgres, replay the sample feed, and check the outcome.

Everything is private and removed at the end, also after Ctrl-C. Servers that the environment names are left alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import IO, Any

import psycopg2
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError
from pydantic import SecretStr

from earlybell.deploy.local import stack
from earlybell.storage import migrations
from earlybell.streams import logs
from earlybell.streams.brokers import client_options, open_consumer, open_producer, reaching
from earlybell.streams.commands.feeds import Message, Pacer, Report, publish, raw_messages
from earlybell.streams.commands.rows import open_file
from earlybell.streams.demo import results, sample
from earlybell.streams.demo.screen import Screen
from earlybell.streams.demo.tally import Tally
from earlybell.streams.exceptions import CommandError
from earlybell.streams.exit_codes import INTERRUPTED
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.supervisor import Roles
from earlybell.streams.topics import create_topics

#: Until both roles have their partitions, which includes loading and warming up the model.
READY_TIMEOUT_S = 180.0
#: Until everything expected has arrived, after the feed has ended.
SETTLE_TIMEOUT_S = 120.0
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


def run(seconds: float) -> int:
    """Run the demo, and play the feed in this many seconds.

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
            with stack.running(progress=screen.enter) as servers:
                settings = Settings(
                    kafka_bootstrap=servers.kafka_bootstrap, database_url=SecretStr(servers.database_url)
                )
                migrations.upgrade(settings.database)
                create_topics(settings)
                asyncio.run(_play(settings, servers.environment(), tally, screen, seconds, role_logs))
                tables = list(results.results(settings.database)) if not tally.differences() else []
                screen.enter("stopping Kafka and Postgres")
            screen.enter("everything has stopped")
            screen.close()
            for table in tables:
                screen.show(table)
            return _verdict(tally, screen, role_logs)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


async def _play(
    settings: Settings, environment: dict[str, str], tally: Tally, screen: Screen, seconds: float, role_logs: IO[bytes]
) -> None:
    """Run both roles, feed them, and wait until everything has arrived or the time is up."""
    stop = threading.Event()
    screen.enter("starting both roles: loading and warming up the model")
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
                await feeding
                screen.enter("stopping both roles")
                stop.set()
                await watching
        finally:
            stop.set()


async def _feed(settings: Settings, tally: Tally, screen: Screen, seconds: float, stop: threading.Event) -> None:
    """Wait for the roles, replay the sample, and wait for its signals, dead letters and rows."""
    await _until(lambda: _both_ready(settings), READY_TIMEOUT_S, screen, every_s=0.5)
    screen.enter(f"replaying a day of {sample.MESSAGES} messages in {seconds:.0f} s")
    replaying = asyncio.create_task(asyncio.to_thread(_replay, settings, tally, seconds, stop))
    await _until(replaying.done, float("inf"), screen)
    await replaying
    screen.enter("waiting for the rest of the signals and rows")
    await _until(tally.complete, SETTLE_TIMEOUT_S, screen)
    await asyncio.sleep(SURPLUS_WAIT_S)


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


def _verdict(tally: Tally, screen: Screen, role_logs: IO[bytes]) -> int:
    """Print the outcome and return the exit code."""
    if differences := tally.differences():
        screen.print("Not what the sample should produce:")
        for difference in differences:
            screen.print(f"  {difference}")
        screen.print("The last lines of the roles' logs:")
        screen.print(_tail(role_logs, LOG_LINES))
        return 1
    depths = ", ".join(f"{depth}: {count}" for depth, count in sorted(tally.depths.items()))
    screen.print(
        f"\n{sample.MESSAGES} messages: {sample.SIGNALS} signals, each with its row, and {len(sample.BROKEN)} dead "
        f"letters, each with its reason.\n"
        f"From the news on its topic to the signal on its own: p50 {tally.percentile(0.5):.0f} ms, "
        f"p99 {tally.percentile(0.99):.0f} ms.\n"
        f"Texts by exit depth, of {tally.depth_limit}: {depths}.\n"
        f"The model agrees with the label that the author intended on {tally.as_intended / sample.SIGNALS:.0%} of them."
    )
    return 0


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
