"""Where the local stack says what it started, so that every later command finds it.

One JSON object in the user's state directory (``EARLYBELL_HOME`` moves it); absent when nothing runs. It holds the
database's password, so only its owner can read it. This module knows nothing of processes, Kafka or Postgres.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs


def home() -> Path:
    """The directory of the local stack: its state file, its data, its logs."""
    return Path(os.environ.get("EARLYBELL_HOME") or platformdirs.user_state_path("earlybell")).absolute()


def path(of: Path | None = None) -> Path:
    """The state file of the stack at home in `of`; by default in `home()`."""
    return (of or home()) / "stack.json"


def read(of: Path | None = None) -> dict[str, Any]:
    """What `earlybell up` left behind (``kafka_bootstrap``, ``database_url`` and more), or nothing."""
    try:
        found = json.loads(path(of).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(stack: dict[str, Any], of: Path | None = None) -> None:
    """Replace the state file in one step: a reader sees the old one or the new one."""
    target = path(of)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps(stack, indent=2) + "\n")
    partial.replace(target)


def clear(of: Path | None = None) -> None:
    """Forget the stack."""
    path(of).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold `file` as a lock among processes; the system lets go of it when its holder dies, however it dies."""
    import fcntl  # not on Windows, where settings must still be readable

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
