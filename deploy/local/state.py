"""Where the local stack says what it started, so that every later command finds it.

One JSON object in the user's state directory (``EARLYBELL_HOME`` moves it); absent when nothing runs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import platformdirs


def home() -> Path:
    """The directory of the local stack: its state file, its data, its logs."""
    return Path(os.environ.get("EARLYBELL_HOME") or platformdirs.user_state_path("earlybell"))


def path() -> Path:
    """The state file."""
    return home() / "stack.json"


def read() -> dict[str, Any]:
    """What `earlybell up` left behind (``kafka_bootstrap``, ``database_url`` and more), or nothing."""
    try:
        found = json.loads(path().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(stack: dict[str, Any]) -> None:
    """Replace the state file in one step: a reader sees the old one or the new one."""
    home().mkdir(parents=True, exist_ok=True)
    partial = path().with_suffix(".partial")
    partial.write_text(json.dumps(stack, indent=2) + "\n")
    partial.replace(path())


def clear() -> None:
    """Forget the stack."""
    path().unlink(missing_ok=True)
