"""What was measured once on this machine and must not be measured again: two workers of one pool, or one that was
restarted, have to choose alike, or they would answer one text differently.

A choice is a small JSON file in the user's cache directory, named by what it hangs on. Whoever comes first measures,
under a lock; everybody else reads. Where nothing can be kept, the choice is the caller's fixed one and nothing is
measured. It knows files and clocks; nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs

#: Laps of each candidate, turn by turn, so that a busy moment hits all of them; the median decides.
LAPS = 7


def cache() -> Path:
    """The directory that the choices are kept in."""
    return platformdirs.user_cache_path("earlybell") / "engine"


def fastest(candidates: Mapping[str, Callable[[], object]], question: Mapping[str, object], otherwise: str) -> str:
    """The name of the candidate that ran fastest here, measured once on a machine and remembered.

    Parameters
    ----------
    candidates
        By name, what to time. Called only if nothing is remembered.
    question
        All that the answer hangs on besides the processor: shapes, versions. Another question is another choice.
    otherwise
        What to choose where no file can be kept: a name among the candidates, always the same on one machine.
    """
    if len(candidates) == 1:
        return next(iter(candidates))
    asked = {**question, "processor": processor(), "candidates": sorted(candidates)}
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    file = cache() / f"{name}.json"
    remembered = _read(file, candidates)
    if remembered is not None:
        return remembered
    try:
        with locked(file.with_suffix(".lock")):
            remembered = _read(file, candidates)  # somebody else may have measured while we waited
            if remembered is not None:
                return remembered
            seconds = _time(candidates)
            choice = min(seconds, key=lambda one: seconds[one])
            write(file, json.dumps({"choice": choice, "seconds": seconds, "question": asked}, indent=2) + "\n")
            return choice
    except OSError:  # a read-only or full home: what cannot be remembered is not measured
        return otherwise


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock among processes; the system lets go of it when its holder dies. Raises ``OSError``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as held:
        if os.name == "posix":
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def write(file: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old one or the new one. Raises ``OSError``."""
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def processor() -> str:
    """The processor's name, family and model, and its instruction sets: what the speed of a kernel hangs on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", ""))
    sets = [one for one in flags.split() if one.startswith(("avx", "amx", "asimd", "sve", "i8mm", "bf16"))]
    named = " ".join(fields.get(one, "") for one in ("model name", "cpu family", "model", "CPU part")).strip()
    return f"{platform.machine()} {named} {' '.join(sets)}"


def _read(file: Path, candidates: Mapping[str, object]) -> str | None:
    try:
        choice = json.loads(file.read_text(encoding="utf-8"))["choice"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or damaged: measured anew
    return choice if isinstance(choice, str) and choice in candidates else None


def _time(candidates: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    laps: dict[str, list[float]] = {name: [] for name in candidates}
    for candidate in candidates.values():
        candidate()
    for _ in range(LAPS):
        for name, candidate in candidates.items():
            began = time.perf_counter()
            candidate()
            laps[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in laps.items()}
