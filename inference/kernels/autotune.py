"""Choices that are measured once per machine and remembered, so that every process makes the same one.

Two workers of a pool, or one before and after a restart, must choose alike, or they would answer a text differently.
A choice is a small JSON file in the user's cache directory, named by a hash over what it depends on. The first process
measures, under a lock; all others read. Without a writable cache the choice is a fixed fallback and nothing is
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

#: Laps of each candidate, in turn, so that a busy moment affects all of them; the median decides.
LAPS = 7


def cache() -> Path:
    """Return the directory of the remembered choices."""
    return platformdirs.user_cache_path("earlybell") / "engine"


def fastest(candidates: Mapping[str, Callable[[], object]], question: Mapping[str, object], fallback: str) -> str:
    """Return the name of the candidate that runs fastest here, measured once per machine and remembered.

    Parameters
    ----------
    candidates
        By name, what to time. Called only if nothing is remembered.
    question
        Everything that the answer depends on apart from the processor: shapes, versions. Another question is another
        choice.
    fallback
        The choice without a writable cache: one of the candidates, always the same on one machine.
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
            remembered = _read(file, candidates)  # another process may have measured while we waited
            if remembered is not None:
                return remembered
            seconds = _time(candidates)
            choice = min(seconds, key=lambda name: seconds[name])
            write(file, json.dumps({"choice": choice, "seconds": seconds, "question": asked}, indent=2) + "\n")
            return choice
    except OSError:  # a read-only or full home: what cannot be remembered is not measured
        return fallback


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock between processes; the system releases it when its holder dies. Raises ``OSError``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as held:
        if os.name == "posix":
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def write(file: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old content or the new. Raises ``OSError``."""
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def processor() -> str:
    """Return the processor's name, family, model and instruction sets: what the speed of a kernel depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", ""))
    sets = [flag for flag in flags.split() if flag.startswith(("avx", "amx", "asimd", "sve", "i8mm", "bf16"))]
    name = " ".join(fields.get(key, "") for key in ("model name", "cpu family", "model", "CPU part")).strip()
    return f"{platform.machine()} {name} {' '.join(sets)}"


def _read(file: Path, candidates: Mapping[str, object]) -> str | None:
    try:
        choice = json.loads(file.read_text(encoding="utf-8"))["choice"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: measure again
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
    return {name: statistics.median(seconds) for name, seconds in laps.items()}
