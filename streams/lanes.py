"""Shares the places of a pool between two lanes: live windows go first, and backfill keeps a share of the texts.

Knows nothing of Kafka, models or what a window holds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class _Waiting:
    texts: int
    admitted: asyncio.Future[None]


@dataclass(eq=False, slots=True)
class Lane:
    """One of the two lanes of a `Turns`."""

    turns: Turns
    live: bool
    waiting: deque[_Waiting] = field(default_factory=deque)

    @asynccontextmanager
    async def turn(self, texts: int) -> AsyncIterator[None]:
        """Hold a place for a window of this many texts; waits for it first."""
        await self.turns.enter(self, texts)
        try:
            yield
        finally:
            self.turns.leave()


class Turns:
    """Decides which window goes next when a place becomes free.

    Parameters
    ----------
    places
        Windows that may hold a place at once.
    share
        The part of the texts, 0 to below 1, that backfill gets while live windows wait too. What live windows leave
        free is backfill's in any case.

    Attributes
    ----------
    live, backfill
        The lanes.
    """

    def __init__(self, places: int, share: float = 0.0) -> None:
        self._free = places
        self._per_live_text = share / (1.0 - share)
        self._credit = 0.0  # texts that backfill may have before the next live window
        self.live, self.backfill = Lane(self, live=True), Lane(self, live=False)

    async def enter(self, lane: Lane, texts: int) -> None:
        """Wait for a place; `leave` gives it back."""
        waiting = _Waiting(texts, asyncio.get_running_loop().create_future())
        lane.waiting.append(waiting)
        self._admit()
        try:
            await waiting.admitted
        except asyncio.CancelledError:
            if waiting in lane.waiting:
                lane.waiting.remove(waiting)
            elif not waiting.admitted.cancelled():  # admitted and cancelled in the same moment
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._free += 1
        self._admit()

    def _admit(self) -> None:
        while self._free and (self.live.waiting or self.backfill.waiting):
            lane = self._next()
            waiting = lane.waiting.popleft()
            if waiting.admitted.done():  # cancelled
                continue
            if not self.backfill.waiting and lane is self.live:
                self._credit = 0.0  # nothing waits that could use it
            elif lane is self.live:
                self._credit += waiting.texts * self._per_live_text
            else:
                self._credit = max(0.0, self._credit - waiting.texts)
            self._free -= 1
            waiting.admitted.set_result(None)

    def _next(self) -> Lane:
        if not self.live.waiting:
            return self.backfill
        if self.backfill.waiting and self._credit >= self.backfill.waiting[0].texts:
            return self.backfill
        return self.live
