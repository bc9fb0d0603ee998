"""Describe the machine that results were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from earlybell.inference.cores import available_cores
from earlybell.inference.kernels import library


def describe() -> dict[str, Any]:
    """Return the processor, cores, kernels, memory in GiB, load average, and versions of Python and main packages."""
    return {
        "processor": processor(),
        "cores": available_cores(),
        "kernels": library.chosen_form(),
        "kernels_that_run": list(library.forms()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "faust-streaming", "aiokafka", "kafka-python")},
    }


def processor() -> str:
    """Return the processor's name, and the instruction sets that the speed of matrix products depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    relevant = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    sets = [name for name in relevant if name in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.machine())} ({family}; {', '.join(sets)})"
