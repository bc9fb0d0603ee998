"""How many cores this process may use: those that it is pinned to, within the quotas of its control groups.

A container with a quota sees every core of its machine. With a thread on each it would use its share of a period up at
once, and then stand still for the rest of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, at least 1; a part of a core is not counted.

    Parameters
    ----------
    root
        Where the system's files are; tests have their own.
    """
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([pinned, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limits, in cores, of the process's control groups and of the groups around them."""
    for mount, group in _cpu_groups(root):
        levels = [group, *group.parents] if group != mount else [group]
        for level in levels[: levels.index(mount) + 1]:
            try:
                if (level / "cpu.max").is_file():
                    quota, period = (level / "cpu.max").read_text().split()
                else:
                    quota = (level / "cpu.cfs_quota_us").read_text()
                    period = (level / "cpu.cfs_period_us").read_text()
                limit = float(quota) / float(period)
            except (OSError, ValueError, ZeroDivisionError):
                continue  # no quota here: none is kept at the root, and "max" is not a number
            if limit > 0:  # -1 is none, too
                yield limit


def _cpu_groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the mount points of the hierarchies that limit processor time, each with the process's directory in it."""
    try:
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # not Linux
    # Version 1 lists its controllers before the path; version 2 has one hierarchy for all, and lists none.
    paths = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in mounts:
        place, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        _, _, _, mounted, point, *_ = place.split(" ")
        mount = root / point.lstrip("/")
        # In a container, what is mounted may be the group itself, whose path is that of the host.
        inside = paths[kind].is_relative_to(mounted) and ".." not in paths[kind].parts
        yield mount, mount / paths[kind].relative_to(mounted) if inside else mount
