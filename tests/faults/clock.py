"""A clock that steps, for the processes that are started with it, by libfaketime (Debian's package of that name)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")


class NoClock(Exception):
    """The library is not installed."""


class Clock:
    """The wall clock of some processes; what measures durations (the monotonic clock) runs on.

    Parameters
    ----------
    file
        Where the processes read how far their clock is off, once a second.
    """

    def __init__(self, file: Path) -> None:
        found = [path for pattern in LIBRARIES for path in Path("/").glob(pattern[1:])]
        if not found:
            raise NoClock("libfaketime is not installed")
        self._library, self._file = found[0], file
        self.step_to(0.0)

    def step_to(self, offset_s: float) -> None:
        """Let the clock be this much ahead of the true time, from one moment to the next."""
        self._file.write_text(f"{offset_s:+f}\n")

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its environment to go by this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
