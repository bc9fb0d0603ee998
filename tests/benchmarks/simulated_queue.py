"""A scoring role as a queue with a simulated clock: what the adaptive dial does to latency, without a machine."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from earlybell.streams.adaptive_dial import AdaptiveDial

#: Texts a second that can be scored at the base dial, texts in a window, and what a window costs apart from its texts.
CAPACITY, WINDOW, OVERHEAD_S = 2_000.0, 512, 0.004
#: What a text costs apart from its layers, in layers: reading, embedding, publishing.
FIXED_LAYERS = 0.6


class Position(Protocol):
    """What the simulation needs of an `OperatingPoint`."""

    @property
    def dial(self) -> float: ...

    @property
    def mean_depth(self) -> float: ...

    @property
    def accuracy_lost(self) -> float: ...


@dataclass
class Simulated:
    """What happened: one entry a text, and one a window."""

    arrived: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    dials: list[float] = field(default_factory=list)

    def percentile(self, percent: float, since: float = 0.0, until: float = np.inf) -> float:
        """Return a percentile of the latency of the texts that arrived in a span of time, in seconds."""
        arrived = np.array(self.arrived)
        return float(np.percentile(np.array(self.latency)[(since <= arrived) & (arrived < until)], percent))

    def dial_at(self, moment: float) -> float:
        """Return the dial of the last window that was begun before a moment."""
        return self.dials[int(np.searchsorted(self.at, moment)) - 1]


def simulate(
    phases: Sequence[tuple[float, float]], curve: Sequence[Position], base: float, objective_s: float, most_lost: float
) -> Simulated:
    """Run a load through the queue.

    Parameters
    ----------
    phases
        Seconds, and texts a second as a share of the capacity at the base dial.
    curve
        The calibrated positions of the dial, ascending; one of them is ``base``.
    """
    layers = {position.dial: position.mean_depth + FIXED_LAYERS for position in curve}
    text_s = {dial: depth / layers[base] / CAPACITY for dial, depth in layers.items()}
    now = 0.0
    lost = [(position.dial, position.accuracy_lost) for position in curve]
    controller = AdaptiveDial(lost, base, objective_s, most_lost, clock=lambda: now)
    seen, waiting, coming = Simulated(), deque[float](), deque(_arrivals(phases))
    while waiting or coming:
        if not waiting:
            now = max(now, coming[0])
        while coming and coming[0] <= now:
            waiting.append(coming.popleft())
        window = [waiting.popleft() for _ in range(min(WINDOW, len(waiting)))]
        seen.at.append(now)
        seen.dials.append(controller.dial)
        now += OVERHEAD_S + len(window) * text_s[controller.dial]
        seen.arrived += window
        seen.latency += [now - arrived for arrived in window]
        controller.observe(now - window[0])
    return seen


def _arrivals(phases: Sequence[tuple[float, float]]) -> list[float]:
    starts = itertools.accumulate((length for length, _ in phases), initial=0.0)
    return [
        start + number / (share * CAPACITY)
        for start, (length, share) in zip(starts, phases, strict=False)
        for number in range(int(length * share * CAPACITY))
    ]
