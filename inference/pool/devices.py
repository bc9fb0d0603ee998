"""Parse the setting for devices. Counts GPUs without importing torch or initialising CUDA in this process."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys

import structlog

from earlybell.errors import UserError

log = structlog.get_logger(__name__)


class PoolError(UserError):
    """The pool cannot do what was asked; the message is one line that says why."""


def devices(setting: str) -> list[str]:
    """Return the devices that the setting names, one worker each.

    Parameters
    ----------
    setting
        ``auto`` (every GPU that torch can use, else the CPU: one worker, whose threads share each window), ``cpu``,
        or a list such as ``cuda:0,cuda:1``; a device listed twice gets two workers.

    Raises
    ------
    PoolError
        The setting is malformed.
    """
    if setting.strip() == "auto":
        return [f"cuda:{index}" for index in range(_count_gpus())] or ["cpu"]
    names = [name.strip() for name in setting.split(",")]
    if not all(re.fullmatch(r"cpu|cuda:\d{1,3}", name) for name in names):
        raise PoolError(f"devices cannot be {setting!r}: say auto, cpu, or a list such as cuda:0,cuda:1")
    return names


def _count_gpus() -> int:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0  # no driver: saves the seconds that importing torch takes
    # Ask torch, since it honours CUDA_VISIBLE_DEVICES and may be a CPU build; in a subprocess, since a parent that has
    # initialised CUDA holds GPU memory that it never uses.
    result = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    count = result.stdout.strip().rpartition("\n")[2]
    if result.returncode or not count.isdigit():
        log.warning("gpu_count_failed", returncode=result.returncode, fallback="cpu")
        return 0
    return int(count)
