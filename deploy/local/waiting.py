"""Waiting for a server, for a limited time, and no longer than anybody wants it.

Kafka and Postgres start side by side in two threads; when one of them fails or the user interrupts, the other must
not be waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.processes import POLL_SECONDS


class GivenUp(StackError):
    """The wait was ended because something else failed or the user interrupted: never the reason itself."""


class Patience:
    """How long to wait for a server, and whether it is still wanted.

    Parameters
    ----------
    seconds
        The longest that one server may take to answer.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """End every wait, in all threads."""
        self._given_up.set()

    def check(self) -> None:
        """Go on only while somebody waits; raises `GivenUp` otherwise."""
        if self._given_up.is_set():
            raise GivenUp("Interrupted while the local stack started: `earlybell up` starts it again")

    def until(self, ready: Callable[[], bool], *, while_: Callable[[], bool]) -> bool:
        """Wait for `ready`; False when `while_` no longer holds or time is up. Raises `GivenUp` when nobody waits."""
        deadline = time.monotonic() + self.seconds
        while while_() and time.monotonic() < deadline:
            if ready():
                return True
            self.check()
            time.sleep(POLL_SECONDS)
        return False
