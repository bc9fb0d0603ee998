"""Choose the clock that the engine's benchmarks use.

On a quiet machine it is the wall clock, with all cores at work. On a busy one the wall clock would measure the
neighbours: OpenMP's barriers wait for whatever else runs on the other core, and code without barriers would win by far
too much. There, each candidate gets one thread and is charged the processor time that it used; no peer loses more than
a factor of two by that, since a second core never more than doubles its speed. ``EARLYBELL_BENCH_CLOCK`` (``wall`` or
``cpu``) overrides the choice.
"""

from __future__ import annotations

import os
import time

import torch

from earlybell.inference.cores import available_cores

#: Load average per core above which the machine counts as busy.
BUSY = 0.5

CORES = available_cores()
CLOCK = os.environ.get("EARLYBELL_BENCH_CLOCK") or ("cpu" if os.getloadavg()[0] > BUSY * CORES else "wall")
#: Threads of each candidate; 0: one per core.
THREADS = 1 if CLOCK == "cpu" else 0


def now() -> float:
    """Return seconds from an arbitrary start; only differences are meaningful."""
    return time.process_time() if CLOCK == "cpu" else time.perf_counter()


def set_threads() -> None:
    """Limit torch to the number of threads that the clock measures."""
    torch.set_num_threads(THREADS or CORES)
