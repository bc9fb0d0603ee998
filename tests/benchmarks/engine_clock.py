"""Which clock the engine's benchmark goes by.

On a quiet machine the wall's, with all cores at work. On a busy one that would measure the neighbours: OpenMP's
barriers wait for whoever has the other core, and what runs without barriers would win by far too much. There each
candidate gets one thread and is charged the processor time that it used; peers lose nothing by it, since a second
core never more than doubles them. ``EARLYBELL_BENCH_CLOCK`` (wall or cpu) decides otherwise.
"""

from __future__ import annotations

import os
import time

import torch

#: Load average a core above which the machine counts as busy.
BUSY = 0.5

CORES = len(os.sched_getaffinity(0))
CLOCK = os.environ.get("EARLYBELL_BENCH_CLOCK") or ("cpu" if os.getloadavg()[0] > BUSY * CORES else "wall")
#: Of each candidate; 0: one a core.
THREADS = 1 if CLOCK == "cpu" else 0


def now() -> float:
    """Seconds, of which only differences mean something."""
    return time.process_time() if CLOCK == "cpu" else time.perf_counter()


def set_threads() -> None:
    """Hold torch to the number of threads that the clock is made for."""
    torch.set_num_threads(THREADS or CORES)
