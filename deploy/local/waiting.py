"""Waiting for a server to answer, with a time limit, until the wait is cancelled.

Kafka and Postgres start in two threads; when one of them fails or the user interrupts, the wait for the other must
end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.processes import POLL_SECONDS


class GivenUp(StackError):
    """The wait was cancelled because something else failed or the user interrupted; never the root cause."""


class Patience:
    """A time limit that several threads share and that any of them can cancel.

    Parameters
    ----------
    seconds
        The longest that one server may take to answer.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Cancel every wait, in all threads."""
        self._given_up.set()

    def check(self) -> None:
        """Raise `GivenUp` if the wait was cancelled."""
        if self._given_up.is_set():
            raise GivenUp("Interrupted while the local stack was starting: run `earlybell up` to start it again")

    def until(self, ready: Callable[[], bool], *, while_: Callable[[], bool]) -> bool:
        """Wait for `ready`; return False once `while_` fails or time is up. Raise `GivenUp` if cancelled."""
        deadline = time.monotonic() + self.seconds
        while while_() and time.monotonic() < deadline:
            if ready():
                return True
            self.check()
            time.sleep(POLL_SECONDS)
        return False
