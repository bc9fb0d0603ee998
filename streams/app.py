"""The pipeline on one page: two Faust apps, one per role, with their topics and agents.

::

    feeds ──▶ news.raw ──▶ score_news ──▶ news.sentiment ──▶ live strategies
                 │         (role scoring)        │
                 │              └──▶ news.dead   │
                 ▼                               ▼
             store_news                    store_signals      (role storing)
                 └───────────▶ Postgres ◀────────┴──▶ news.dead
                                   └──▶ backtests

An event is a whole `Chunk` of messages (`streams.transport`). Agents pass chunks on to windows (`streams.windows`),
whose work is done outside the event loop: by the pool's processes or the writer's thread. A chunk is acknowledged when
every message in it is safe: its signal or dead letter is on the broker, or its row is in Postgres.

Each role has its own consumer group, so the two scale and fail independently. To scale a role, start it on more
machines; Kafka distributes the partitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faust
import structlog

from earlybell.inference.pool.pool import Pool
from earlybell.streams.lanes import Turns
from earlybell.streams.producer import Outgoing
from earlybell.streams.records import MAX_DEAD_LETTER_BYTES
from earlybell.streams.roles import Role
from earlybell.streams.scoring import Scoring
from earlybell.streams.settings import Settings
from earlybell.streams.storing import Storing, storing_news, storing_signals
from earlybell.streams.tls import ssl_context
from earlybell.streams.transport import DRAIN_S, Chunk, ChunkSchema, Transport
from earlybell.streams.windows import Windows

if TYPE_CHECKING:
    from earlybell.storage.writer import Writer

log = structlog.get_logger(__name__)

Chunks = AsyncIterable[Chunk]

#: How long it takes at most until partitions that were added to a topic are read.
METADATA_AGE_S = 30.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One role, ready to start: its Faust app, the windows behind its agents, and its counters."""

    app: faust.App
    windows: tuple[Windows[Any, Any], ...]
    counts: Callable[[], dict[str, int]]

    def __post_init__(self) -> None:
        self.app.transport.drain = self.drain  # called before a rebalance or a shutdown gives up partitions

    async def drain(self, timeout_s: float) -> None:
        """Finish the work that was handed out, or give up after `timeout_s` seconds."""
        await asyncio.gather(*(windows.drain(timeout_s) for windows in self.windows))


def scoring_pipeline(settings: Settings, pool: Pool, member: str | None = None) -> Pipeline:
    """Build the scoring role: news.raw → signals on news.sentiment, dead letters on news.dead.

    Backfill, if it has a topic, is a second lane: the same work, behind live news.
    """
    app = _app(Role.SCORING, settings, member)

    async def send_all(topic: str, messages: Sequence[Outgoing]) -> None:
        await app.producer.send_all(topic, messages)

    turns = Turns(pool.capacity, settings.backfill_share)
    lanes = [scoring := Scoring(settings, pool, send_all, turns.live)]

    @app.agent(app.topic(settings.news_topic, schema=ChunkSchema()), concurrency=1)
    async def score_news(chunks: Chunks) -> None:
        async for chunk in chunks:
            await scoring.take(chunk)

    if settings.backfill_topic is not None:
        lanes.append(backfill := Scoring(settings, pool, send_all, turns.backfill))

        @app.agent(app.topic(settings.backfill_topic, schema=ChunkSchema()), concurrency=1)
        async def score_backfill(chunks: Chunks) -> None:
            async for chunk in chunks:
                await backfill.take(chunk)

    def counts() -> dict[str, int]:
        return {"signals": sum(lane.signals for lane in lanes), "dead_letters": sum(lane.letters for lane in lanes)}

    return Pipeline(app, tuple(lane.windows for lane in lanes), counts)


def storing_pipeline(
    settings: Settings, news_writer: Writer, signals_writer: Writer, member: str | None = None
) -> Pipeline:
    """Build the storing role: news.raw → table news; news.sentiment → table signals. Neither waits for the other."""
    app = _app(Role.STORING, settings, member)

    async def send_all(topic: str, messages: Sequence[Outgoing]) -> None:
        await app.producer.send_all(topic, messages)

    news, signals = storing_news(settings, news_writer, send_all), storing_signals(settings, signals_writer, send_all)

    @app.agent(app.topic(*settings.news_topics, schema=ChunkSchema()), concurrency=1)
    async def store_news(chunks: Chunks) -> None:
        async for chunk in chunks:
            await news.take(chunk)

    @app.agent(app.topic(settings.sentiment_topic, schema=ChunkSchema()), concurrency=1)
    async def store_signals(chunks: Chunks) -> None:
        async for chunk in chunks:
            await signals.take(chunk)

    def counts() -> dict[str, int]:
        tables: dict[str, Storing] = {"news": news, "signals": signals}
        return {
            f"{table}_{counter}": getattr(storing, counter)
            for table, storing in tables.items()
            for counter in ("new", "known", "skipped", "letters")
        }

    return Pipeline(app, (news.windows, signals.windows), counts)


async def run_pipeline(pipeline: Pipeline, stop: asyncio.Event) -> int:
    """Start the app and its windows, wait for `stop` or a crash, then drain, commit and leave the group in order."""
    app = pipeline.app
    for windows in pipeline.windows:
        windows.start()
    reporting = asyncio.create_task(_report(app.conf.id, pipeline.counts))
    log.info("group_join_started", group=app.conf.id)
    starting = asyncio.create_task(app.start())  # until the first assignment, however long the group takes
    endings = [asyncio.create_task(event.wait()) for event in (stop, app._crashed, app._stopped)]
    await asyncio.wait((starting, *endings), return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    crashed = not stop.is_set()
    if crashed:
        log.error("role_crashed", app=app.conf.id, reason=repr(app.crash_reason))
    await app.stop()
    for windows in pipeline.windows:
        await windows.stop()
    for task in (*endings, reporting, starting):
        task.cancel()
    log.info("role_stopped", app=app.conf.id, **pipeline.counts())
    return 1 if crashed else 0


async def _report(app: str, counts: Callable[[], dict[str, int]], every_s: float = 10.0) -> None:
    before = counts()
    while True:
        await asyncio.sleep(every_s)
        if (now := counts()) != before:
            log.info("progress_reported", app=app, **now)
            before = now


class _App(faust.App):
    """Faust, without the directories that it creates for tables, and ended by an agent that raises."""

    def _create_directories(self) -> None:
        """Create nothing."""

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:
        """End the role: Faust would go on without the chunk in hand, which would then never be acknowledged."""
        await self.crash(exc)


def _app(role: Role, settings: Settings, member: str | None = None) -> faust.App:
    """Build a Faust app that takes raw chunks, keeps short sessions and sends idempotently."""
    rebalance_timeout = max(2 * DRAIN_S, settings.session_timeout_s)
    app = _App(
        settings.consumer_group(role),
        broker=[f"kafka://{broker.strip()}" for broker in settings.kafka_bootstrap.split(",")],
        broker_credentials=_credentials(settings),
        # This is the back-pressure: each chunk in the buffer is a few hundred messages.
        stream_buffer_maxsize=settings.fetched_chunks,
        # Rebalances and shutdowns call Consumer.wait_empty, which drains the windows.
        stream_wait_empty=True,
        broker_commit_interval=settings.commit_interval_s,
        broker_client_id=member or f"earlybell-{role}",
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 4,
        broker_rebalance_timeout=rebalance_timeout,
        # The broker answers a worker that joins a group once all others have given up their partitions.
        broker_request_timeout=max(settings.kafka_timeout_s, rebalance_timeout + 5.0),
        broker_max_poll_records=settings.chunk_messages * settings.fetched_chunks,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=int(METADATA_AGE_S * 1000),
        producer_acks=-1,
        producer_request_timeout=settings.kafka_timeout_s,
        producer_max_request_size=2 * MAX_DEAD_LETTER_BYTES,
        producer_max_batch_size=256 * 1024,
        # `streams.topics` creates the topics, with the broker's clock; there are no Faust tables.
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        web_enabled=False,
        autodiscover=False,
    )
    app.transport = Transport(
        app.conf.broker_consumer,
        app,
        chunk_messages=settings.chunk_messages,
        fetched_bytes=settings.fetched_bytes,
        fetch_wait_ms=settings.fetch_wait_ms if role is Role.SCORING else int(settings.store_delay_ms),
    )
    return app


def _credentials(settings: Settings) -> Any:
    """Return the credentials of Faust's clients, or None on a plain connection."""
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return None
    context = ssl_context(settings)
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=settings.kafka_username,
        password=settings.kafka_password.get_secret_value() if settings.kafka_password else None,
        ssl_context=context,
        mechanism=settings.kafka_sasl_mechanism,
    )
