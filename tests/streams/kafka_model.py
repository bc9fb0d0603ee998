"""A model of Kafka, as the consumer's thread sees it, and an event loop whose clock jumps to the next event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from faust.types import TP

from earlybell.streams.fetching import Fetched, Message


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop in which nothing ever waits: when all is idle, the time becomes that of the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@dataclass
class Log:
    """One partition on the broker."""

    start: int = 0
    end: int = 0
    messages: dict[int, Message] = field(default_factory=dict)


class Broker:
    """Partitions, and one group's committed offsets."""

    def __init__(self, partitions: Iterable[TP]) -> None:
        self.logs = {tp: Log() for tp in partitions}
        self.committed: dict[TP, int] = {}
        self.published = 0

    def append(self, tp: TP, count: int, gap: int) -> None:
        """Append messages, after offsets that no message has: a transaction's markers, or a compacted topic."""
        log = self.logs[tp]
        log.end += gap
        for _ in range(count):
            value = b"%d" % self.published  # unique
            log.messages[log.end] = Message(tp.topic, tp.partition, log.end, 0, 1, None, value, (), len(value) + 40)
            self.published += 1
            log.end += 1

    def expire(self, tp: TP, share: float) -> None:
        """Delete messages from the beginning of the log."""
        log = self.logs[tp]
        log.start += int((log.end - log.start) * share)
        log.messages = {offset: message for offset, message in log.messages.items() if offset >= log.start}

    def shorten(self, tp: TP, end: int) -> None:
        """Lose the end of the log, as in an unclean election; with 0 the topic was made again."""
        log = self.logs[tp]
        log.end = min(log.end, end)
        log.start = min(log.start, log.end)
        log.messages = {offset: message for offset, message in log.messages.items() if offset < log.end}


class ConsumerThread:
    """The methods of `streams.transport.ConsumerThread` that its consumer calls."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.assigned: frozenset[TP] = frozenset()
        self.positions: dict[TP, int] = {}
        self.reachable = asyncio.Event()
        self.reachable.set()
        self.commits_arrive = asyncio.Event()
        self.commits_arrive.set()
        self.refuses_commits = False
        self._woken = asyncio.Event()

    def assign(self, partitions: Iterable[TP]) -> None:
        """Change the assignment; positions are unknown until they are sought."""
        self.assigned = frozenset(partitions)
        self.positions = {}

    def assignment(self) -> set[TP]:
        return set(self.assigned)

    async def fetch(self, active: Iterable[TP], timeout: float, size: int) -> Fetched:  # noqa: ASYNC109
        await self.reachable.wait()
        if not (fetched := self._take(active)):
            self._woken.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._woken.wait()
            except TimeoutError:
                return Fetched()
            fetched = self._take(active)
        await asyncio.sleep(0)
        return fetched

    def _take(self, active: Iterable[TP]) -> Fetched:
        fetched = Fetched()
        for tp in sorted(active):  # the same run each time, however sets are ordered
            if (position := self.positions.get(tp)) is None or tp not in self.assigned:
                continue
            log = self.broker.logs[tp]
            if not log.start <= position <= log.end:
                fetched.out_of_range[tp] = position
                continue
            records: Sequence[Any] = [message for offset, message in sorted(log.messages.items()) if offset >= position]
            if records:
                fetched.records[tp] = list(records[:6])
                self.positions[tp] = records[:6][-1].offset + 1
        return fetched

    def wake(self) -> None:
        self._woken.set()

    async def committed_offsets(self, partitions: Iterable[TP]) -> dict[TP, int | None]:
        await self._answer()
        return {tp: self.broker.committed.get(tp) for tp in partitions}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        await self._answer()
        return {tp: self.broker.logs[tp].start for tp in partitions}

    async def seek_wait(self, positions: Mapping[TP, int]) -> None:
        await self._answer()
        self.positions |= {tp: offset for tp, offset in positions.items() if tp in self.assigned}

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        assigned = self.assigned
        while not self.commits_arrive.is_set():  # noqa: ASYNC110 (aiokafka tries again; a later commit may overtake)
            await asyncio.sleep(0.3)
        await self._answer()
        if self.refuses_commits or assigned is not self.assigned:
            return False
        self.broker.committed |= offsets
        return True

    async def _answer(self) -> None:
        await self.reachable.wait()
        await asyncio.sleep(0)
