"""Messages/s through one consuming process without inference: chunks against Faust's own path.

All paths read the same messages of the same broker in alternating rounds, spread over four partitions or ("hot") all in
one; each must end with its offsets committed at the ends of the partitions.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import faust
import uvloop
from faust.transport.drivers.aiokafka import Transport as FaustTransport

from earlybell.deploy.local.stack import Stack
from earlybell.inference.pool.pool import Pool
from earlybell.streams import app as pipeline_app
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.transport import ChunkSchema
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.own_topics import own_topics
from tests.streams.chunk_workers import committed, ends, publish

MESSAGES = 40_000
BYTES = 1_024
ROUNDS = 3

Path = Callable[[Settings, asyncio.Event], Awaitable[float]]


def measure(servers: Stack) -> dict[str, Any]:
    """Measure each path's messages/s: the median, lowest and highest of its rounds."""
    spread, hot = own_topics(servers.kafka_bootstrap), own_topics(servers.kafka_bootstrap)
    headline = "Meridian Freight raises its full-year outlook"
    for start in range(0, MESSAGES, 10_000):
        stories = [story(number, headline) for number in range(start, start + 10_000)]
        publish(spread, stories)
        publish(hot, stories, partition=0)
    paths: dict[str, tuple[Path, Settings]] = {
        "faust": (faust_path, spread),
        "chunks": (chunk_path, spread),
        "chunks_hot": (chunk_path, hot),
        "scoring_role": (scoring_role, spread),
        "scoring_role_hot": (scoring_role, hot),
    }
    speeds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, (path, base) in paths.items():
            group = base.model_copy(update={"group_prefix": f"{base.group_prefix}-{uuid.uuid4().hex[:6]}"})
            speeds[name].append(uvloop.run(timed(path, group)))
            if committed(group) != ends(group):
                raise RuntimeError(f"{name}: committed {committed(group)}, ends {ends(group)}")
    medians = {name: statistics.median(rounds) for name, rounds in speeds.items()}
    return {
        "messages": MESSAGES,
        "bytes": BYTES,
        "messages_per_second": medians,
        "lowest": {name: min(rounds) for name, rounds in speeds.items()},
        "highest": {name: max(rounds) for name, rounds in speeds.items()},
        "ratios": {
            "chunks_vs_faust_path": medians["chunks"] / medians["faust"],
            "scoring_role_vs_faust_path": medians["scoring_role"] / medians["faust"],
            "scoring_role_hot_vs_spread": medians["scoring_role_hot"] / medians["scoring_role"],
        },
    }


def story(number: int, headline: str) -> bytes:
    """Return a news item of about a kibibyte."""
    item = {"id": f"b{number}", "headline": headline, "published_at": "2026-01-05T09:30:00Z"}
    return json.dumps({**item, "url": "u" * (BYTES - 120)}).encode()


async def timed(path: Path, settings: Settings) -> float:
    """Run a path once and return its messages/s."""
    return MESSAGES / await path(settings, asyncio.Event())


async def run(app: faust.App, stop: asyncio.Event) -> None:
    """Run the app until ``stop`` is set."""
    await pipeline_app.run_pipeline(pipeline_app.Pipeline(app, (), dict), stop)


async def faust_path(settings: Settings, stop: asyncio.Event) -> float:
    """Return the seconds of plain Faust: one event per message, acknowledged by the stream."""
    app = pipeline_app._app(Role.SCORING, settings)
    app.transport = FaustTransport(app.conf.broker_consumer, app)
    app.conf.stream_buffer_maxsize = 4096
    consumed, began, seconds = 0, 0.0, 0.0

    @app.agent(app.topic(settings.news_topic, value_type=bytes, value_serializer="raw"), concurrency=1)
    async def count(values: Any) -> None:
        nonlocal consumed, began, seconds
        async for _ in values:
            began = began or time.perf_counter()
            consumed += 1
            if consumed == MESSAGES:
                seconds = time.perf_counter() - began
                asyncio.get_running_loop().call_later(2 * settings.commit_interval_s, stop.set)

    await run(app, stop)
    return seconds


async def chunk_path(settings: Settings, stop: asyncio.Event) -> float:
    """Return the seconds of the same agent on the chunk transport."""
    app = pipeline_app._app(Role.SCORING, settings)
    consumed, began, seconds = 0, 0.0, 0.0

    @app.agent(app.topic(settings.news_topic, schema=ChunkSchema()), concurrency=1)
    async def count(chunks: Any) -> None:
        nonlocal consumed, began, seconds
        async for chunk in chunks:
            began = began or time.perf_counter()
            consumed += len(chunk)
            chunk.acknowledge()
            if consumed == MESSAGES:
                seconds = time.perf_counter() - began
                stop.set()

    await run(app, stop)
    return seconds


async def scoring_role(settings: Settings, stop: asyncio.Event) -> float:
    """Return the seconds of the whole role: decoding, windows, a pool with constant answers, acknowledged signals."""
    pool = Pool(ConstantScorer, ["cpu"])
    await pool.start()
    pipeline = pipeline_app.scoring_pipeline(settings, pool)
    running = asyncio.create_task(pipeline_app.run_pipeline(pipeline, stop))
    began = seconds = 0.0
    while not seconds:
        await asyncio.sleep(0.01)
        done = pipeline.counts()["signals"]
        if done and not began:
            first, began = done, time.perf_counter()
        if done == MESSAGES:
            # The clock starts with the first window, so that window does not count.
            seconds = (time.perf_counter() - began) * MESSAGES / (MESSAGES - first)
    stop.set()
    await running
    await pool.stop()
    return seconds
