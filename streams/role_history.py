"""What `earlybell run` remembers of its roles for `earlybell status`: restarts, and how the last one ended.

A role that dies while it starts answers no probe, so only the process that restarts it knows. It keeps a JSON file in
the user's state directory, one for each prefix of consumer groups, which counts for as long as that process lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from earlybell.deploy.local import state
from earlybell.streams.roles import Role


@dataclass(frozen=True, slots=True)
class Death:
    """How a role's process ended."""

    at: float  # epoch seconds
    cause: str
    lived_s: float


@dataclass(slots=True)
class History:
    """What happened to a role since `earlybell run` started."""

    restarts: int = 0
    last_death: Death | None = None


def cause(code: int) -> str:
    """Return in words how a process ended, by the code that it returned."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def write(group_prefix: str, histories: Mapping[Role, History]) -> None:
    """Write what this process, the running supervisor, knows. If that fails, `status` shows less."""
    record = {"pid": os.getpid(), "roles": {role: asdict(history) for role, history in histories.items()}}
    with contextlib.suppress(OSError):
        path = _path(group_prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record))
        partial.replace(path)


def read(group_prefix: str) -> dict[Role, History]:
    """Return what the running supervisor knows of its roles; empty if none runs here."""
    try:
        record = json.loads(_path(group_prefix).read_text())
        command = " ".join(psutil.Process(record["pid"]).cmdline())
        if "earlybell" not in command or " run" not in command:
            return {}  # the process id belongs to something else by now
        return {
            Role(role): History(known["restarts"], Death(**known["last_death"]) if known["last_death"] else None)
            for role, known in record["roles"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return {}


def clear(group_prefix: str) -> None:
    """Remove the file: the supervisor ends."""
    with contextlib.suppress(OSError):
        _path(group_prefix).unlink(missing_ok=True)


def _path(group_prefix: str) -> Path:
    return state.default_home() / f"roles-{quote(group_prefix, safe='')}.json"
