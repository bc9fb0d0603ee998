"""A scoring role as a queue with a simulated clock: what the adaptive dial does to latency, without a machine."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from earlybell.inference.model.checkpoint import SHIPPED, load
from earlybell.streams.adaptive_dial import AdaptiveDial

#: Texts a second that can be scored at the base dial, texts in a window, and what a window costs apart from its texts.
CAPACITY, WINDOW, OVERHEAD_S = 2_000.0, 512, 0.004
#: What a text costs apart from its layers, in layers: reading, embedding, publishing.
FIXED_LAYERS = 0.6


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


def simulate(phases: Sequence[tuple[float, float]], base: float, objective_s: float, most_lost: float) -> Simulated:
    """Run a load through the queue.

    Parameters
    ----------
    phases
        Seconds, and texts a second as a share of the capacity at the base dial.
    """
    calibration = load(SHIPPED).calibration
    layers = {point.dial: point.mean_depth + FIXED_LAYERS for point in calibration.curve}
    text_s = {dial: depth / calibration_base(layers, base) / CAPACITY for dial, depth in layers.items()}
    now = 0.0
    controller = AdaptiveDial(
        [(point.dial, point.accuracy_lost) for point in calibration.curve], base, objective_s, most_lost,
        clock=lambda: now,
    )  # fmt: skip
    seen, waiting, coming = Simulated(), deque[float](), deque(_arrivals(phases))
    while waiting or coming:
        if not waiting:
            now = max(now, coming[0])
        while coming and coming[0] <= now:
            waiting.append(coming.popleft())
        window = [waiting.popleft() for _ in range(min(WINDOW, len(waiting)))]
        dial = controller.dial
        seen.at.append(now)
        seen.dials.append(dial)
        now += OVERHEAD_S + len(window) * text_s[calibration.point(dial).dial]
        seen.arrived += window
        seen.latency += [now - arrived for arrived in window]
        controller.observe(now - window[0])
    return seen


def calibration_base(layers: dict[float, float], base: float) -> float:
    """Return the layers of a text at the base dial."""
    return layers[max(dial for dial in layers if dial <= base)]


def _arrivals(phases: Sequence[tuple[float, float]]) -> list[float]:
    starts = itertools.accumulate((length for length, _ in phases), initial=0.0)
    return [
        start + number / (share * CAPACITY)
        for start, (length, share) in zip(starts, phases, strict=False)
        for number in range(int(length * share * CAPACITY))
    ]
