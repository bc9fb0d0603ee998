"""The most 8-bit operations per second that a form of the kernels can do: `int8_peak.c`, on all cores."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import threading
from pathlib import Path

from earlybell.inference.kernels import build
from tests.benchmarks import engine_clock

#: Of the loop that is timed; about a tenth of a second in the slowest form.
TURNS = 100_000
ROUNDS = 7


def int8_peak(form: str) -> float:
    """Measure 8-bit operations/s of all cores together; a multiplication and an addition count as two."""
    wanted = next(entry for forms in build.FORMS.values() for entry in forms if entry.name == form)
    source = Path(__file__).with_suffix(".c")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "peak.so"
        flags = (*build.FLAGS, f"-I{build.HERE}", *wanted.flags, *wanted.definitions)
        subprocess.run(["cc", *flags, "-shared", str(source), "-o", str(file), "-lm"], check=True)
        library = ctypes.CDLL(str(file))
        library.peak.restype = ctypes.c_int64
        best = 0.0
        for _ in range(ROUNDS):
            operations: list[int] = []
            cores = engine_clock.THREADS or engine_clock.CORES
            threads = [threading.Thread(target=_run, args=(library, operations)) for _ in range(cores)]
            began = engine_clock.now()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            best = max(best, sum(operations) / (engine_clock.now() - began))
    return best


def _run(library: ctypes.CDLL, operations: list[int]) -> None:
    out = ctypes.c_int32()
    operations.append(int(library.peak(ctypes.c_int64(TURNS), ctypes.byref(out))))
