"""Live windows go first, backfill keeps its share, and no place is ever lost."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.streams.lanes import Lane, Turns
from tests.patience import PATIENCE_S


async def work_off(turns: Turns, live: list[int], backfill: list[int]) -> list[tuple[str, int]]:
    """Let all windows wait at once, and return the order in which they had their turn, with their texts."""
    order: list[tuple[str, int]] = []

    async def window(name: str, lane: Lane, texts: int) -> None:
        async with lane.turn(texts):
            order.append((name, texts))
            await asyncio.sleep(0)

    await turns.enter(turns.live, 1)  # the only place is taken until all wait
    waiting = [asyncio.create_task(window("backfill", turns.backfill, texts)) for texts in backfill]
    waiting += [asyncio.create_task(window("live", turns.live, texts)) for texts in live]
    await asyncio.sleep(0)
    turns.leave()
    await asyncio.gather(*waiting)
    return order


async def test_without_a_share_backfill_waits_for_all_live_windows() -> None:
    order = await work_off(Turns(1), [10] * 5, [10] * 5)
    assert [name for name, _ in order] == ["live"] * 5 + ["backfill"] * 5


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
async def test_backfill_keeps_its_share_while_live_windows_wait(share: float) -> None:
    order = await work_off(Turns(1, share), [64] * 200, [8] * 4_000)
    last_live = max(place for place, (name, _) in enumerate(order) if name == "live")
    texts = {"live": 0, "backfill": 0}
    for name, count in order[: last_live + 1]:
        texts[name] += count
    assert texts["backfill"] / sum(texts.values()) == pytest.approx(share, abs=0.02)


async def test_a_lane_that_is_alone_never_waits() -> None:
    assert len(await work_off(Turns(1, 0.0), [], [8] * 50)) == 50
    assert len(await work_off(Turns(1, 0.9), [8] * 50, [])) == 50


@given(seed=st.integers(0, 2**32), places=st.integers(1, 3))
def test_places_are_neither_lost_nor_doubled_when_windows_are_cancelled(seed: int, places: int) -> None:
    rng = random.Random(seed)

    async def scenario() -> None:
        turns = Turns(places, 0.2)
        held = most = 0

        async def window(lane: Lane) -> None:
            nonlocal held, most
            async with lane.turn(rng.randint(1, 64)):
                held += 1
                most = max(most, held)
                try:
                    for _ in range(rng.randint(0, 3)):
                        await asyncio.sleep(0)
                finally:
                    held -= 1

        tasks = []
        for _ in range(30):
            tasks.append(asyncio.create_task(window(rng.choice((turns.live, turns.backfill)))))
            if rng.random() < 0.4:
                rng.choice(tasks).cancel()
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert held == 0
        assert most <= places
        for _ in range(places):  # all are free again
            async with asyncio.timeout(PATIENCE_S):
                await turns.enter(turns.live, 1)

    asyncio.run(scenario())
