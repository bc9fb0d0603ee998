"""Holds a latency objective by moving along the model's calibrated curve as news queues up, and back when it does not.

Up at once and down slowly, as an automatic gain control does: a late signal is worth little, and a dial that swings
costs accuracy for nothing. Knows nothing of Kafka, models or windows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

#: Step up when a window's latency exceeds the first fraction of the objective. Step down after a calm time without any
#: latency above the second: a multiple of the objective, with a minimum in seconds.
UP_AT, DOWN_AT = 0.8, 0.4
CALM_OBJECTIVES, CALM_S = 5.0, 1.0


class AdaptiveDial:
    """The dial of the next window.

    Parameters
    ----------
    curve
        The calibrated positions, ascending, each with the accuracy that it loses (`ModelDescription.curve`).
    base
        The position when nothing queues, and the lowest one.
    objective_s
        The latency to hold: the age of a window's oldest message when its answers are there.
    most_lost
        Never go to a position that loses more accuracy than this, 0.01 being a point.
    clock
        Returns seconds; tests pass their own.
    """

    def __init__(
        self,
        curve: Sequence[tuple[float, float]],
        base: float,
        objective_s: float,
        most_lost: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        allowed = [dial for dial, lost in curve if dial > base and lost <= most_lost]
        self._positions = [base, *allowed]
        self._place = 0
        self._objective_s = objective_s
        self._clock = clock
        self._moved = self._busy = clock()

    @property
    def dial(self) -> float:
        """The position for the next window."""
        return self._positions[self._place]

    def observe(self, latency_s: float) -> None:
        """Take note of a window's latency, and move the dial by one position if it calls for that."""
        now = self._clock()
        if latency_s > DOWN_AT * self._objective_s:
            self._busy = now
        if latency_s > UP_AT * self._objective_s and self._place + 1 < len(self._positions):
            # Windows that were cut before the last move say nothing of it; a far too long queue calls for more.
            if now - self._moved >= self._objective_s / 4 or latency_s > 2 * self._objective_s:
                self._place, self._moved = self._place + 1, now
        elif now - max(self._busy, self._moved) > max(CALM_OBJECTIVES * self._objective_s, CALM_S) and self._place:
            self._place, self._moved = self._place - 1, now
