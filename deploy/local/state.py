"""The state file of the local stack, in which every later command finds the servers that were started.

It is one JSON object in the user's state directory (``EARLYBELL_HOME`` moves it), and absent when nothing runs. It
holds the database's password, so only its owner can read it. Knows nothing of processes, Kafka or Postgres.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs


def default_home() -> Path:
    """Return the directory of the user's stack: its state file, data and logs."""
    return Path(os.environ.get("EARLYBELL_HOME") or platformdirs.user_state_path("earlybell")).absolute()


def path(home: Path | None = None) -> Path:
    """Return the state file of the stack in `home`, by default the user's."""
    return (home or default_home()) / "stack.json"


def read(home: Path | None = None) -> dict[str, Any]:
    """Return what `earlybell up` recorded (``kafka_bootstrap``, ``database_url`` and more); empty if nothing runs."""
    try:
        stack = json.loads(path(home).read_text())
    except (OSError, ValueError):
        return {}
    return stack if isinstance(stack, dict) else {}


def write(stack: dict[str, Any], home: Path | None = None) -> None:
    """Replace the state file atomically: a reader sees the old one or the new one."""
    target = path(home)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps(stack, indent=2) + "\n")
    partial.replace(target)


def clear(home: Path | None = None) -> None:
    """Delete the state file."""
    path(home).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock on `file` among processes. The system releases it when its holder exits, even if it is killed."""
    import fcntl  # not available on Windows, where settings must still be readable

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
