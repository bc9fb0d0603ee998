"""Which devices a setting names. Counts GPUs without importing torch here or initialising CUDA."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys

import structlog

log = structlog.get_logger(__name__)


class PoolError(Exception):
    """The pool cannot do what was asked; its text is one line that says why."""


def devices(setting: str) -> list[str]:
    """The devices that a setting names, one worker each.

    Parameters
    ----------
    setting
        ``auto`` (every GPU that torch can use, else the CPU: one worker, whose threads share each window), ``cpu``,
        or a list such as ``cuda:0,cuda:1``; a device that is named twice gets two workers.

    Raises
    ------
    PoolError
        The setting names no device.
    """
    if setting.strip() == "auto":
        return [f"cuda:{index}" for index in range(_count_gpus())] or ["cpu"]
    named = [name.strip() for name in setting.split(",")]
    if not all(re.fullmatch(r"cpu|cuda:\d{1,3}", name) for name in named):
        raise PoolError(f"devices cannot be {setting!r}: say auto, cpu, or a list such as cuda:0,cuda:1")
    return named


def _count_gpus() -> int:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0  # no driver: spares the seconds that torch takes to say so
    # torch itself, since it honours CUDA_VISIBLE_DEVICES and may be a CPU build; in a process of its own, since a
    # parent that has initialised CUDA holds memory on a GPU that it never uses.
    asked = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    answer = asked.stdout.strip().rpartition("\n")[2]
    if asked.returncode or not answer.isdigit():
        log.warning("GPUs cannot be counted, using the CPU", returncode=asked.returncode)
        return 0
    return int(answer)
