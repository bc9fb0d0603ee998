"""A clock that steps, for the processes that are started with it, by libfaketime (Debian's package of that name)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")


#: How often the processes read their clock's offset.
READ_EVERY_S = 1


class NoClock(Exception):
    """The library is not installed."""


class Clock:
    """The wall clock of some processes; their monotonic clock is not affected.

    Parameters
    ----------
    file
        The file from which the processes read their clock's offset.
    """

    def __init__(self, file: Path) -> None:
        found = [path for pattern in LIBRARIES for path in Path("/").glob(pattern[1:])]
        if not found:
            raise NoClock("libfaketime is not installed")
        self._library, self._file = found[0], file
        self.step_to(0.0)

    def step_to(self, offset_s: float) -> None:
        """Step the clock to this offset from the true time."""
        self._file.write_text(f"{offset_s:+f}\n")

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables that give a process this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(READ_EVERY_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
