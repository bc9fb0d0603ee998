"""Which errors of which room are for the user to mend, and the one line that each becomes.

Knows the rooms' errors by name alone: an error can only have been raised by a module that was imported, so nothing
is imported to find out (`earlybell --help` stays quick).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

#: Exit codes: a failure that the user can mend (bad input, no broker ...), and Ctrl-C as shells count it.
EXPECTED_FAILURE, INTERRUPTED = 2, 130
#: module → its errors whose text is one line that says what to do.
ROOMS: Mapping[str, tuple[str, ...]] = {
    "earlybell.streams.brokers": ("BrokerError",),
    "earlybell.streams.commands.rows": ("FileError",),
    "earlybell.streams.failures": ("Refusal",),
    "earlybell.storage.exceptions": ("StorageError",),
    "earlybell.deploy.local.exceptions": ("StackError",),
    "earlybell.inference.pool.devices": ("PoolError",),
    "earlybell.inference.engine": ("EngineError",),
    "earlybell.inference.model.huggingface": ("CheckpointError",),
    "earlybell.inference.training.data": ("DataError",),
}
#: What to do about errors of rooms that cannot know it, by name.
ADVICE: Mapping[str, str] = {
    "StorageUnavailable": "is Postgres there? `earlybell up` starts one, EARLYBELL_DATABASE_URL names another"
}


class Refusal(Exception):
    """What a command itself refuses: its text is one line that says what to do."""


def expected() -> tuple[type[Exception], ...]:
    """The errors, of the modules that have been imported, that are shown as one line."""
    found: list[type[Exception]] = []
    for module, names in ROOMS.items():
        if (imported := sys.modules.get(module)) is not None:
            found += [getattr(imported, name) for name in names if hasattr(imported, name)]
    return tuple(found)


def one_line(error: Exception) -> str:
    """The error's text without line breaks, and what to do about it."""
    said = " ".join(str(error).split()) or type(error).__name__
    advice = ADVICE.get(type(error).__name__)
    return f"{said}; {advice}" if advice else said
