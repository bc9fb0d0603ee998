"""How much processor time each part of the running pipeline has used: its processes, and those that they have ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import psutil

from earlybell.deploy.local.stack import Stack


def parts(servers: Stack, roles: int) -> dict[str, list[psutil.Process]]:
    """Return the processes of each part.

    Parameters
    ----------
    roles
        The process id of ``earlybell run``.
    """
    found: dict[str, list[psutil.Process]] = {"scoring": [], "engine": [], "storing": []}
    for role in psutil.Process(roles).children():
        name = "scoring" if "scoring" in role.cmdline() else "storing"
        found[name].append(role)
        found["engine" if name == "scoring" else name] += role.children(recursive=True)
    for name, server in (("kafka", servers.kafka), ("postgres", servers.postgres)):
        if server.pid is not None:
            process = psutil.Process(server.pid)
            found[name] = [process, *process.children(recursive=True)]
    return found


def used(processes: Mapping[str, Iterable[psutil.Process]]) -> dict[str, float]:
    """Return the processor seconds of each part until now."""
    return {name: sum(map(_seconds, group)) for name, group in processes.items()}


def _seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
