"""Small windows one after another, and each begun while the one before is finished, as a pool's worker does it.

In windows of 16 to 512 headlines, with the processor to itself and beside a process that takes about half of a core.
The two ways take turns, and medians count.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from earlybell.deploy.local.stack import Stack
from earlybell.inference.cores import available_cores
from earlybell.inference.engine import Engine, open_engine
from earlybell.inference.predictions import Timed
from tests.benchmarks.engine_texts import collect

NEEDS_SERVERS = False
WINDOWS, ROUNDS = (16, 32, 64, 512), 5
#: Windows that a worker holds (`pool.Pool`).
HELD = 2
NEIGHBOUR = """
import time
while True:
    until = time.perf_counter() + .003
    while time.perf_counter() < until:
        pass
    time.sleep(.003)
"""


def missing() -> str | None:
    """Return why this machine cannot show it."""
    return None if available_cores() > 1 else "it has one core, and an engine with one thread overlaps nothing"


def measure(_: Stack | None) -> dict[str, Any]:
    """Return texts/s either way for each size of window, and how many times as fast overlapping windows are."""
    corpora = collect()
    texts = (corpora.get("headlines") or next(iter(corpora.values()))).texts
    engine = open_engine("cpu")
    engine.warm_up()
    speeds = {f"{size}_texts": _compared(engine, texts, size) for size in WINDOWS}
    with _neighbour():
        speeds |= {f"{size}_texts_on_a_busy_machine": _compared(engine, texts, size) for size in WINDOWS}
    return {
        "windows_of": speeds,
        "ratios": {
            f"overlapping_windows_of_{name}": each["overlapping"] / each["in_turn"] for name, each in speeds.items()
        },
    }


def _compared(engine: Engine, texts: Sequence[str], size: int) -> dict[str, float]:
    ways: dict[str, Callable[..., None]] = {"in_turn": _in_turn, "overlapping": _overlapping}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, score in ways.items():
            began = time.perf_counter()
            score(engine, [texts[start : start + size] for start in range(0, len(texts), size)])
            speeds[name].append(len(texts) / (time.perf_counter() - began))
    return {name: median(all_speeds) for name, all_speeds in speeds.items()}


def _in_turn(engine: Engine, windows: Sequence[Sequence[str]]) -> None:
    for window in windows:
        engine.score(window)


def _overlapping(engine: Engine, windows: Sequence[Sequence[str]]) -> None:
    held: deque[Callable[[], Timed]] = deque()
    for window in windows:
        held.append(engine.begin(window))
        if len(held) == HELD:
            held.popleft()()
    for answers in held:
        answers()


@contextmanager
def _neighbour() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
    try:
        yield
    finally:
        process.kill()
        process.wait()
