"""Gathers fetched messages into windows, and acknowledges a chunk when every message in it is safe.

A window closes when it is full, by items or by weight, or when its oldest item has waited long enough. While the
maximum number of windows is in flight the next one keeps filling, so that load makes windows larger, not queues
longer. Work on windows overlaps, but they are settled in the order in which they were cut, which keeps the revisions of
a story in order. This module knows nothing of Faust, models or SQL; the roles supply the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from earlybell.streams import metrics

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Acknowledgeable(Protocol):
    """A group of messages that is acknowledged as a whole (a `streams.transport.Chunk`)."""

    def acknowledge(self) -> None:
        """Mark all its messages as safe."""
        ...


class _Unsettled:
    """Counts the messages of one chunk that are not safe yet."""

    __slots__ = ("chunk", "left")

    def __init__(self, chunk: Acknowledgeable, left: int) -> None:
        self.chunk = chunk
        self.left = left

    def settle_one(self) -> None:
        self.left -= 1
        if not self.left:
            self.chunk.acknowledge()


@dataclass(frozen=True, slots=True)
class Limits:
    """When a window closes: at a number of items, at a total weight, or after a delay."""

    items: int
    weight: int
    delay_s: float


@dataclass(slots=True)
class _Waiting(Generic[Item]):
    item: Item
    weight: int
    since: float
    unsettled: _Unsettled


class Backoff:
    """Waits after a failure, twice as long each time, up to a limit."""

    def __init__(self, first_s: float = 0.1, limit_s: float = 10.0) -> None:
        self._first_s, self._limit_s = first_s, limit_s
        self._next_s = first_s

    async def wait(self) -> float:
        """Wait, and return the number of seconds."""
        waited, self._next_s = self._next_s, min(self._next_s * 2, self._limit_s)
        await asyncio.sleep(waited)
        return waited


class Windows(Generic[Item, Result]):
    """Gathers items into windows, has each window worked on and settled, and acknowledges its chunks.

    Parameters
    ----------
    work
        Called with a window's items. Up to ``in_flight`` calls overlap.
    settle
        Called with a window's items and the result of `work`, one window at a time, in the order in which they were
        cut. When it returns, the items are safe.
    limits
        When a window closes.
    in_flight
        The number of windows that may be cut but not settled.

    Neither callable should raise: a fault of a message belongs in its result. If one does raise (the broker is away, a
    bug), the window is retried with back-off and a logged traceback, for as long as it takes: nothing is dropped, and
    no offset moves past it.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Result]],
        settle: Callable[[Sequence[Item], Result], Awaitable[None]],
        *,
        limits: Limits,
        in_flight: int,
    ) -> None:
        self._work, self._settle = work, settle
        self._limits = limits
        self._slots = asyncio.Semaphore(in_flight)
        self._waiting: list[_Waiting[Item]] = []
        self._weight = 0
        self._changed = asyncio.Condition()
        self._draining = False
        self._last: asyncio.Task[None] | None = None  # the latest window: the next one settles after it
        self._windows: dict[asyncio.Task[None], float] = {}  # windows in work, and since when
        self._dispatcher: asyncio.Task[None] | None = None

    @property
    def oldest_s(self) -> float:
        """How long the oldest window has been in work, retries included; 0 if there is none."""
        return time.monotonic() - min(self._windows.values()) if self._windows else 0.0

    def start(self) -> None:
        """Start to cut windows."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="windows")

    async def stop(self) -> None:
        """Abandon what is not settled: its chunks stay unacknowledged and will be read again."""
        tasks = [*self._windows, *([self._dispatcher] if self._dispatcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._windows.clear()
        self._waiting.clear()
        self._weight = 0

    async def add(self, chunk: Acknowledgeable, items: Sequence[tuple[Item, int]]) -> None:
        """Add a chunk's messages, each with its weight; waits while a full window is waiting already.

        This wait is the back-pressure: the agent takes no more chunks, its buffer fills, its partitions pause.
        """
        if not items:
            chunk.acknowledge()
            return
        unsettled = _Unsettled(chunk, len(items))
        now = time.monotonic()
        async with self._changed:
            await self._changed.wait_for(lambda: not self._full())
            self._waiting += [_Waiting(item, weight, now, unsettled) for item, weight in items]
            self._weight += sum(weight for _, weight in items)
            self._changed.notify_all()

    async def drain(self, timeout_s: float) -> None:
        """Close the open window now, and wait until everything is settled, for at most `timeout_s` seconds."""
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                async with self._changed:
                    self._changed.notify_all()
                    await self._changed.wait_for(lambda: not (self._waiting or self._windows))
        except TimeoutError:
            log.warning("drain_timed_out", waiting=len(self._waiting), windows=len(self._windows))
        finally:
            self._draining = False

    def _full(self) -> bool:
        return len(self._waiting) >= self._limits.items or self._weight >= self._limits.weight

    async def _dispatch(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting)
            await self._slots.acquire()
            window = await self._cut()
            task = asyncio.create_task(self._run(window, after=self._last), name="window")
            self._last = task
            self._windows[task] = time.monotonic()

    async def _cut(self) -> list[_Waiting[Item]]:
        async with self._changed:
            left_s = self._waiting[0].since + self._limits.delay_s - time.monotonic()
            if left_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._changed.wait_for(lambda: self._full() or self._draining)
            count = weight = 0
            for waiting in self._waiting:
                if count and (count >= self._limits.items or weight + waiting.weight > self._limits.weight):
                    break
                count, weight = count + 1, weight + waiting.weight
            window, self._waiting = self._waiting[:count], self._waiting[count:]
            self._weight -= weight
            self._changed.notify_all()
            return window

    async def _run(self, window: list[_Waiting[Item]], after: asyncio.Task[None] | None) -> None:
        items = [waiting.item for waiting in window]
        result = await _retry("work", lambda: self._work(items))
        if after is not None:
            await asyncio.wait([after])
        await _retry("settle", lambda: self._settle(items, result))
        for waiting in window:
            waiting.unsettled.settle_one()
        self._slots.release()
        async with self._changed:
            self._windows = {task: since for task, since in self._windows.items() if task is not asyncio.current_task()}
            self._changed.notify_all()


async def _retry(step: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
    backoff = Backoff()
    while True:
        try:
            return await attempt()
        except Exception as error:
            metrics.RETRIES.labels(step=step, cause=type(error).__name__).inc()
            log.exception("window_failed", step=step, error=repr(error))
            await backoff.wait()
