"""Memory of each role over an hour of steady news with a burst every ten minutes: it must not grow.

Kafka, Postgres and both roles are real. Memory is the unique set size, the pages that a process shares with no other,
so that other processes on the machine do not change it. ``EARLYBELL_BENCH_MINUTES`` sets another duration.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from earlybell.deploy.local.stack import Stack
from earlybell.streams.settings import Settings
from tests.benchmarks import processor_time
from tests.benchmarks.end_to_end import (
    HEADLINES,
    WARM_UP_STORIES,
    prepared,
    publish_steadily,
    running_roles,
    wait_for_rows,
    warm_up,
)

NEEDS_DATA = True
MINUTES = float(os.environ.get("EARLYBELL_BENCH_MINUTES", "60"))
PARTS = ("scoring", "engine", "storing")
SAMPLE_S = 10
#: Stories a second, and those of a burst.
STEADY, BURST, BURST_S, BURST_EVERY_S = 25, 2_000, 2.0, 600
#: Before that, buffers and caches fill up: growth is counted afterwards.
SETTLED_S = 600
PICTURE = Path(__file__).parent / "results" / "memory.png"


def measure(servers: Stack) -> dict[str, Any]:
    """Return each role's memory in MB: after the warm-up, at its highest, at the end, and its growth per hour."""
    texts = [json.loads(line)["title"] for line in HEADLINES.open()]
    endless, stories = itertools.cycle(texts), 0
    samples: dict[str, list[float]] = {part: [] for part in PARTS}

    def publish(settings: Settings, count: int, seconds: float, prefix: str) -> None:
        nonlocal stories
        publish_steadily(settings, list(itertools.islice(endless, count)), count / seconds, seconds, prefix)
        stories += count

    with prepared(servers) as settings, running_roles(settings) as roles:
        warm_up(settings)
        for slot in range(round(MINUTES * 60 / SAMPLE_S)):
            if slot * SAMPLE_S % BURST_EVERY_S == BURST_EVERY_S // 2:
                publish(settings, BURST, BURST_S, f"burst-{slot}")
            publish(settings, STEADY * SAMPLE_S, SAMPLE_S, f"steady-{slot}")
            for part, processes in processor_time.parts(servers, roles).items():
                if part in PARTS:
                    samples[part].append(sum(process.memory_full_info().uss for process in processes) / 1e6)
        wait_for_rows(settings, stories + WARM_UP_STORIES)
    draw(samples)
    return {
        "load": f"{STEADY} stories/s for {MINUTES:g} minutes, and {BURST} more every {BURST_EVERY_S // 60} minutes",
        "stories": stories,
        **{part: summary(megabytes) for part, megabytes in samples.items()},
    }


def summary(megabytes: Sequence[float]) -> dict[str, float]:
    """Return the first, highest and last of a part's samples, in MB, and how fast the settled ones grow."""
    settled = np.array(megabytes[min(SETTLED_S // SAMPLE_S, len(megabytes) // 2) :])
    growth = np.polyfit(np.arange(len(settled)) * SAMPLE_S / 3600, settled, 1)[0] if len(settled) > 1 else 0.0
    return {
        "first_mb": megabytes[0],
        "highest_mb": max(megabytes),
        "last_mb": megabytes[-1],
        "settled_growth_mb_per_hour": float(growth),
    }


def draw(samples: Mapping[str, Sequence[float]]) -> None:
    """Plot memory over time."""
    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for part, megabytes in samples.items():
        axes.plot((np.arange(len(megabytes)) + 1) * SAMPLE_S / 60, megabytes, label=part)
    for second in range(BURST_EVERY_S // 2, round(MINUTES * 60), BURST_EVERY_S):
        axes.axvline(second / 60, color="#bbbbbb", linestyle=":")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"minutes; dotted: a burst of {BURST} stories")
    axes.set_ylabel("unique set size, MB")
    axes.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=100)
    plt.close(figure)
