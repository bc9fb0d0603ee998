"""Windows on a real event loop: when they close, and when they acknowledge their chunks. No broker is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from earlybell.streams.windows import Limits, Windows
from tests.patience import PATIENCE_S

NEVER_S = 3600.0


class Chunk:
    def __init__(self) -> None:
        self.acknowledged = 0

    def acknowledge(self) -> None:
        self.acknowledged += 1


class Desk:
    """Records its windows; can be told to hold work back or to fail."""

    def __init__(self) -> None:
        self.windows: list[list[int]] = []
        self.settled: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = 0
        self.slow_first = False

    async def work(self, items: Sequence[int]) -> int:
        self.windows.append(list(items))
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the desk is on fire")
        if self.slow_first and len(self.windows) == 1:
            await asyncio.sleep(0.05)
        return len(items)

    async def settle(self, items: Sequence[int], result: int) -> None:
        assert result == len(items)
        self.settled.append(list(items))


def windows(desk: Desk, *, items: int = 4, weight: int = 1000, delay_s: float = NEVER_S, in_flight: int = 2) -> Windows:  # type: ignore[type-arg]
    gathering: Windows[int, int] = Windows(
        desk.work, desk.settle, limits=Limits(items, weight, delay_s), in_flight=in_flight
    )
    gathering.start()
    return gathering


def weighed(*items: int) -> list[tuple[int, int]]:
    return [(item, 1) for item in items]


async def settled(desk: Desk, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while sum(map(len, desk.settled)) < count:  # noqa: ASYNC110 (the desk sets no event)
            await asyncio.sleep(0.001)


async def test_closes_by_count_and_acknowledges_only_whole_chunks() -> None:
    desk, first, second = Desk(), Chunk(), Chunk()
    gathering = windows(desk)
    await gathering.add(first, weighed(0, 1, 2))
    await gathering.add(second, weighed(3, 4))
    await settled(desk, 4)
    assert desk.windows == [[0, 1, 2, 3]]
    assert (first.acknowledged, second.acknowledged) == (1, 0)
    await gathering.drain(PATIENCE_S)
    assert desk.windows == [[0, 1, 2, 3], [4]]
    assert second.acknowledged == 1
    await gathering.stop()


async def test_closes_by_weight_and_gives_a_heavy_item_a_window_of_its_own() -> None:
    desk = Desk()
    gathering = windows(desk, weight=10, items=100)
    await gathering.add(Chunk(), [(0, 4), (1, 4), (2, 4), (3, 99), (4, 1)])
    await gathering.drain(PATIENCE_S)
    assert desk.windows == [[0, 1], [2], [3], [4]]
    await gathering.stop()


async def test_closes_by_time() -> None:
    desk, chunk = Desk(), Chunk()
    gathering = windows(desk, delay_s=0.01)
    await gathering.add(chunk, weighed(0))
    await settled(desk, 1)
    assert chunk.acknowledged == 1
    await gathering.stop()


async def test_without_a_delay_a_window_waits_only_for_room() -> None:
    desk = Desk()
    desk.gate.clear()
    gathering = windows(desk, items=100, delay_s=0.0, in_flight=1)
    await gathering.add(Chunk(), weighed(0, 1))
    async with asyncio.timeout(PATIENCE_S):
        while not desk.windows:  # noqa: ASYNC110 (the desk sets no event)
            await asyncio.sleep(0.001)
    for item in (2, 3):
        await gathering.add(Chunk(), weighed(item))
    desk.gate.set()
    await settled(desk, 4)
    assert desk.settled == [[0, 1], [2, 3]]
    await gathering.stop()


async def test_an_empty_chunk_is_safe_at_once() -> None:
    chunk = Chunk()
    await windows(Desk()).add(chunk, [])
    assert chunk.acknowledged == 1


async def test_back_pressure_when_nothing_moves() -> None:
    desk = Desk()
    desk.gate.clear()
    gathering = windows(desk, items=2, in_flight=1)
    await gathering.add(Chunk(), weighed(0, 1))
    await gathering.add(Chunk(), weighed(2, 3))
    await asyncio.sleep(0.02)
    blocked = asyncio.create_task(gathering.add(Chunk(), weighed(4)))
    await asyncio.sleep(0.02)
    assert not blocked.done()
    assert desk.windows == [[0, 1]]
    desk.gate.set()
    async with asyncio.timeout(PATIENCE_S):
        await blocked
    await gathering.drain(PATIENCE_S)
    assert desk.settled == [[0, 1], [2, 3], [4]]
    await gathering.stop()


async def test_settles_in_the_order_of_cutting() -> None:
    desk = Desk()
    desk.slow_first = True
    gathering = windows(desk, items=1, in_flight=4)
    for item in range(4):
        await gathering.add(Chunk(), weighed(item))
    await settled(desk, 4)
    assert desk.settled == [[0], [1], [2], [3]]
    await gathering.stop()


async def test_work_that_raises_is_retried_and_acknowledged_once() -> None:
    desk, chunk = Desk(), Chunk()
    desk.failures = 2
    gathering = windows(desk, items=2)
    await gathering.add(chunk, weighed(0, 1))
    await settled(desk, 2)
    await gathering.drain(PATIENCE_S)
    assert desk.settled == [[0, 1]]
    assert chunk.acknowledged == 1
    await gathering.stop()


async def test_stopping_in_mid_window_acknowledges_nothing() -> None:
    desk, chunk = Desk(), Chunk()
    desk.gate.clear()
    gathering = windows(desk, items=2)
    await gathering.add(chunk, weighed(0, 1))
    await gathering.drain(0.02)
    await gathering.stop()
    assert desk.windows == [[0, 1]]
    assert chunk.acknowledged == 0


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(1, 6), max_size=7), max_size=12), st.integers(1, 5), st.integers(1, 3))
def test_every_item_is_settled_once_and_in_order(weights: list[list[int]], items: int, in_flight: int) -> None:
    async def run() -> tuple[Desk, list[Chunk]]:
        desk, chunks = Desk(), [Chunk() for _ in weights]
        gathering = windows(desk, items=items, weight=8, delay_s=0.001, in_flight=in_flight)
        number = 0
        for chunk, chunk_weights in zip(chunks, weights, strict=True):
            await gathering.add(chunk, [(number + i, weight) for i, weight in enumerate(chunk_weights)])
            number += len(chunk_weights)
        await gathering.drain(PATIENCE_S)
        await gathering.stop()
        return desk, chunks

    desk, chunks = asyncio.run(run())
    assert [item for window in desk.settled for item in window] == list(range(sum(map(len, weights))))
    assert all(len(window) <= items for window in desk.windows)
    assert [chunk.acknowledged for chunk in chunks] == [1] * len(chunks)
