"""`earlybell demo`: a private Kafka and Postgres, both roles, the sample feed, and whether all came of it that should.

Everything is its own and goes away with it, also on Ctrl-C. Servers that the environment names are left alone.
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

#: For both roles to have their partitions: a model is loaded and warmed up in between.
READY_TIMEOUT_S = 180.0
#: For what is under way when the feed has ended.
SETTLE_TIMEOUT_S = 120.0
#: After the last that should come: for what should not.
SURPLUS_WAIT_S = 1.0
#: Lines of the roles' logs that are shown where they went wrong.
LOG_LINES = 12
_TICK_S = 0.1
#: Named servers are somebody's own: nothing of a demonstration belongs into them.
_NAMED_SERVERS = ("EARLYBELL_KAFKA_BOOTSTRAP", "EARLYBELL_DATABASE_URL")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(Exception):
    """A thread was told to stop."""


def run(seconds: float) -> int:
    """Run the demonstration; the feed takes so many seconds.

    Returns
    -------
    int
        0 where all counts are what the sample gives, 1 where they are not, 130 after Ctrl-C.

    Raises
    ------
    StackError, BrokerError, StorageError, CommandError
        Something that it needs is not there.
    """
    logs.silence()
    for name in _NAMED_SERVERS:
        os.environ.pop(name, None)
    tally = Tally()
    try:
        with _interruptible(), tempfile.TemporaryFile() as role_logs, Screen(tally) as screen:
            screen.say("starting a private Kafka and Postgres")
            with stack.running(progress=screen.say) as servers:
                settings = Settings(
                    kafka_bootstrap=servers.kafka_bootstrap, database_url=SecretStr(servers.database_url)
                )
                migrations.upgrade(settings.database)
                create_topics(settings)
                asyncio.run(_play(settings, servers.environment(), tally, screen, seconds, role_logs))
                answers = list(results.results(settings.database)) if not tally.wrong() else []
                screen.say("stopping Kafka and Postgres")
            screen.say("all is down")
            screen.close()
            for answer in answers:
                screen.show(answer)
            return _verdict(tally, screen, role_logs)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


async def _play(
    settings: Settings, environment: dict[str, str], tally: Tally, screen: Screen, seconds: float, role_logs: IO[bytes]
) -> None:
    """Run both roles, feed them, and wait until all has come or nothing more does."""
    stop = threading.Event()
    screen.say("starting both roles: the model is loaded and warmed up")
    with _cancelling(asyncio.current_task()):
        try:
            async with Roles(environment=environment, output=role_logs) as roles:
                refused = asyncio.create_task(roles.refused())
                watching = asyncio.create_task(asyncio.to_thread(_watch, settings, tally, stop))
                feeding = asyncio.create_task(_feed(settings, tally, screen, seconds, stop))
                await asyncio.wait((refused, watching, feeding), return_when=asyncio.FIRST_COMPLETED)
                if refused.done():
                    raise CommandError(f"a role does not start: {_tail(role_logs, 1)}")
                if watching.done():
                    watching.result()
                await feeding
                screen.say("stopping both roles")
                stop.set()
                await watching
        finally:
            stop.set()


async def _feed(settings: Settings, tally: Tally, screen: Screen, seconds: float, stop: threading.Event) -> None:
    """Wait for the roles, replay the sample, wait for what comes of it."""
    await _until(lambda: _both_ready(settings), READY_TIMEOUT_S, screen, every_s=0.5)
    screen.say(f"replaying a day of {sample.MESSAGES} messages in {seconds:.0f} s")
    replaying = asyncio.create_task(asyncio.to_thread(_replay, settings, tally, seconds, stop))
    await _until(replaying.done, float("inf"), screen)
    await replaying
    screen.say("waiting for what is under way")
    await _until(tally.complete, SETTLE_TIMEOUT_S, screen)
    await asyncio.sleep(SURPLUS_WAIT_S)


async def _until(done: Callable[[], bool], timeout_s: float, screen: Screen, every_s: float = _TICK_S) -> None:
    """Return when it is done, or after the time; whether all is as it should be is for the verdict."""
    began = time.monotonic()
    while not await asyncio.to_thread(done) and time.monotonic() - began < timeout_s:
        screen.tick()
        await asyncio.sleep(every_s)


def _both_ready(settings: Settings) -> bool:
    """Whether each role's consumer group has settled with a member that has partitions."""
    with reaching(settings), closing(KafkaAdminClient(**client_options(settings))) as admin:
        try:
            groups = admin.describe_groups([settings.consumer_group(role) for role in Role])
        except KafkaError as error:
            if error.retriable:
                return False
            raise
    return all(group["group_state"] == "Stable" and group["members"] for group in groups.values())


def _replay(settings: Settings, tally: Tally, seconds: float, stop: threading.Event) -> None:
    """Publish the sample in so many seconds, at the rhythm of its day."""
    feed = list(raw_messages(open_file(str(sample.FEED))))
    due = [message.due for message in feed if message.due is not None]
    pacer = Pacer((max(due) - min(due)).total_seconds() / seconds)

    def counted() -> Iterator[Message]:
        for message in feed:
            yield message
            tally.published += 1

    def progress(_: Report) -> None:
        if stop.is_set():
            raise _Stopped

    with suppress(_Stopped), closing(open_producer(settings)) as producer:
        report = publish(
            counted(), producer, settings, topic=settings.news_topic, pacer=pacer, report=Report(), progress=progress
        )
        if report.refused:
            raise CommandError(f"{report.refused} messages of the sample were refused: {report.reason}")


def _watch(settings: Settings, tally: Tally, stop: threading.Event) -> None:
    """Follow both outgoing topics and both tables, until told to stop."""
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
    """Say how it went; gives the exit code."""
    if wrong := tally.wrong():
        screen.print("Not what the sample should give:")
        for line in wrong:
            screen.print(f"  {line}")
        screen.print("The last lines of the roles' logs:")
        screen.print(_tail(role_logs, LOG_LINES))
        return 1
    milliseconds = {share: tally.percentile(share) for share in (0.5, 0.99)}
    depths = ", ".join(f"{depth}: {count}" for depth, count in sorted(tally.depths.items()))
    screen.print(
        f"\n{sample.MESSAGES} messages: {sample.SIGNALS} signals, each with its row, and {len(sample.BROKEN)} dead "
        f"letters, each with its reason.\n"
        f"From news on its topic to signal on its own: {milliseconds[0.5]:.0f} ms in the median, "
        f"{milliseconds[0.99]:.0f} ms for all but one in a hundred.\n"
        f"Texts by the depth at which they left, of {tally.depth_limit}: {depths}.\n"
        f"The model agrees with those who wrote the news on {tally.as_intended / sample.SIGNALS:.0%} of it."
    )
    return 0


def _tail(role_logs: IO[bytes], lines: int) -> str:
    role_logs.seek(0)
    return "\n".join(role_logs.read().decode(errors="replace").splitlines()[-lines:])


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGINT a KeyboardInterrupt, once: a second must not break off the cleaning up."""
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
    """Within an event loop the same signals cancel the task, so that what it holds is let go of in order."""
    loop = asyncio.get_running_loop()
    outside = {number: signal.getsignal(number) for number in _SIGNALS}
    told = False

    def cancel() -> None:
        nonlocal told
        if not told and task is not None:
            told = True
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if told else outside[number])
