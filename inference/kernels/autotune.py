"""Where compiled kernels are kept, and the processor that they were compiled for. It knows files; nothing of models."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def cache() -> Path:
    """Return the directory of the compiled kernels."""
    return platformdirs.user_cache_path("earlybell") / "engine"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock between processes; the system releases it when its holder dies. Raises ``OSError``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as held:
        if os.name == "posix":
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX)
        yield


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
