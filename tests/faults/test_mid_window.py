"""Exceptions, a cancellation and a rebalance while windows are in flight, on real servers.

The scorer is slow and constant: the tests are about the fate of the messages, not about the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiokafka.errors import KafkaTimeoutError

from earlybell.inference.pool.pool import Pool, PoolError, WindowResult
from earlybell.inference.predictions import Predictions
from earlybell.streams import transport
from earlybell.streams.producer import Outgoing
from earlybell.streams.records import decode_signal
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.integration.whole_pipeline import both_roles, count, messages
from tests.streams.chunk_workers import committed, ends, publish, until


class SlowScorer(ConstantScorer):
    """Takes a tenth of a second per window."""

    def score(self, texts: Sequence[str], dial: float | None = None) -> Predictions:
        time.sleep(0.1)
        return super().score(texts)


@asynccontextmanager
async def slow_pool() -> AsyncIterator[Pool]:
    pool = Pool(SlowScorer, ["cpu"])
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


@pytest.fixture
def batch(stories: list[bytes]) -> list[bytes]:
    return stories[:2_000]


async def everything_arrived(settings: Settings, stories: Sequence[bytes]) -> None:
    await until(lambda: count(settings, "signals") == count(settings, "news") == len(stories))
    await until(lambda: committed(settings) == ends(settings))
    signals = [decode_signal(message.value) for message in messages(settings, settings.sentiment_topic)]
    assert len({signal.signal_id for signal in signals}) == len(stories)
    assert messages(settings, settings.dead_topic) == []


async def test_exceptions_in_a_window(settings: Settings, batch: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third call of the pool and of the broker fails: all are retried, and nothing becomes a dead letter."""
    async with slow_pool() as pool, both_roles(settings, pool) as (scoring, _):
        calls = {"pool": 0, "broker": 0}
        score, send_all = pool.score, scoring.app.producer.send_all

        async def unreliable_pool(texts: Sequence[str], dial: float | None = None) -> WindowResult:
            calls["pool"] += 1
            if calls["pool"] % 3 == 0:
                raise PoolError("no worker could be started")
            return await score(texts)

        async def unreliable_broker(topic: str, outgoing: Sequence[Outgoing]) -> None:
            calls["broker"] += 1
            if calls["broker"] % 3 == 0:
                await send_all(topic, outgoing[: len(outgoing) // 2])
                raise KafkaTimeoutError
            await send_all(topic, outgoing)

        monkeypatch.setattr(pool, "score", unreliable_pool)
        monkeypatch.setattr(scoring.app.producer, "send_all", unreliable_broker)
        publish(settings, batch)
        await everything_arrived(settings, batch)
        assert min(calls.values()) > 3


async def test_a_cancelled_window(settings: Settings, batch: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are cancelled while the pool works on them; another worker finishes the work."""
    monkeypatch.setattr(transport, "DRAIN_S", 1.0)  # without windows, what was fetched is never settled
    publish(settings, batch)
    async with slow_pool() as pool:
        async with both_roles(settings, pool) as (scoring, _):
            await until(lambda: count(settings, "signals") > 0)
            for windows in scoring.windows:
                await windows.stop()
            assert count(settings, "signals") < len(batch)
        assert sum(committed(settings).values()) < len(batch)
        async with both_roles(settings, pool):
            await everything_arrived(settings, batch)


async def test_a_rebalance_during_windows(settings: Settings, batch: list[bytes]) -> None:
    """A second worker joins, takes its share, and leaves, while windows are in flight."""
    publish(settings, batch[: len(batch) // 2])
    async with slow_pool() as pool, slow_pool() as second_pool, both_roles(settings, pool):
        await until(lambda: count(settings, "signals") > 0)
        async with AsyncExitStack() as second:
            scoring, storing = await second.enter_async_context(both_roles(settings, second_pool))
            feeding = asyncio.create_task(asyncio.to_thread(publish_slowly, settings, batch[len(batch) // 2 :]))
            await until(lambda: scoring.counts()["signals"] > 0 and storing.counts()["signals_new"] > 0)
        await feeding
        await everything_arrived(settings, batch)


def publish_slowly(settings: Settings, stories: Sequence[bytes]) -> None:
    for start in range(0, len(stories), 100):
        publish(settings, stories[start : start + 100])
        time.sleep(0.2)
