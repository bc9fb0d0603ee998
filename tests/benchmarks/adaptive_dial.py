"""A burst of one and a half times the capacity, with the adaptive dial and without, in a simulated queue.

Latency, dial and accuracy over time; the accuracy is that of the calibrated curve (`OperatingPoint.accuracy_lost`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from earlybell.deploy.local.stack import Stack
from earlybell.inference.model.checkpoint import SHIPPED, load
from tests.benchmarks.simulated_queue import CAPACITY, Simulated, simulate

NEEDS_SERVERS = False
#: Seconds, and load as a share of the capacity at the default dial.
PHASES = ((10.0, 0.5), (20.0, 1.5), (60.0, 0.5))
BURST = (10.0, 30.0)
OBJECTIVE_S, MOST_LOST = 0.25, 0.02
PICTURE = Path(__file__).parent / "results" / "adaptive_dial.png"


def measure(_: Stack | None) -> dict[str, Any]:
    """Return p50 and p99 of the latency during the burst in seconds, the longest, and the accuracy lost on average."""
    calibration = load(SHIPPED).calibration
    curve, base = calibration.curve, calibration.point(calibration.default_dial).dial
    runs = {
        "fixed": simulate(PHASES, curve, base, OBJECTIVE_S, 0.0),
        "adaptive": simulate(PHASES, curve, base, OBJECTIVE_S, MOST_LOST),
    }
    draw(runs)
    return {
        "load": f"{CAPACITY:,.0f} texts/s at the default dial; {PHASES} s and share of it",
        **{
            name: {
                "p50_s": run.percentile(50, *BURST),
                "p99_s": run.percentile(99, *BURST),
                "longest_s": max(run.latency),
                "accuracy_lost_in_the_burst": lost(run, *BURST),
                "accuracy_lost_after_it": lost(run, BURST[1] + 10.0, np.inf),
            }
            for name, run in runs.items()
        },
    }


def lost(run: Simulated, since: float, until: float) -> float:
    """Return the accuracy lost against full depth, by the calibration, averaged over the windows of a span of time."""
    curve = {point.dial: point.accuracy_lost for point in load(SHIPPED).calibration.curve}
    at = np.array(run.at)
    return float(np.mean([curve[dial] for dial in np.array(run.dials)[(since <= at) & (at < until)]]))


def draw(runs: dict[str, Simulated]) -> None:
    """Plot latency and dial over time."""
    mpl.use("agg")
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5.5), sharex=True, layout="constrained")
    for name, run in runs.items():
        seconds = np.arange(0.0, sum(length for length, _ in PHASES), 0.5)
        above.plot(seconds, [run.percentile(99, second, second + 0.5) for second in seconds], label=name)
        below.step(run.at, run.dials, where="post", label=name)
    above.axhline(OBJECTIVE_S, color="#888888", linestyle=":", label="objective")
    above.set_yscale("log")
    above.set_ylabel("p99 of latency, s")
    below.set_ylabel("dial")
    below.set_xlabel(f"s; from {BURST[0]:.0f} to {BURST[1]:.0f} half as much again as the default dial can take")
    for axes in (above, below):
        axes.axvspan(*BURST, color="#ff7f0e", alpha=0.12)
        axes.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=100)
    plt.close(figure)
