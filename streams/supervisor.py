"""Runs the roles as child processes, each on its own: one that dies is started again, and none outlives us.

A role is ``earlybell run --role ROLE``. Knows nothing of what a role does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO

import structlog

from earlybell.streams.exit_codes import INTERRUPTED, USER_ERROR
from earlybell.streams.roles import Role

log = structlog.get_logger(__name__)

#: A role drains its windows when it is told to stop; after so long it is killed, which loses nothing either.
STOP_TIMEOUT_S = 30.0
#: A role that lived so long is healthy: its next death is its first.
HEALTHY_AFTER_S = 60.0
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 0.5, 30.0


def stop_with_parent() -> None:
    """Stop this process (SIGTERM) when the standard input ends, which it does however the parent dies."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


@dataclass(slots=True)
class Child:
    """One role's process of the moment."""

    role: Role
    process: asyncio.subprocess.Process
    started: float

    def signal(self, number: int) -> None:
        """Send it to the process alone: that tells its own workers."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL for its whole session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Roles:
    """The roles' processes, kept running from ``async with`` to its end.

    Parameters
    ----------
    roles
        Which ones.
    environment
        Added to this process's own.
    output
        Where what they write goes; by default to our own standard output and error.
    """

    def __init__(
        self,
        roles: Iterable[Role] = tuple(Role),
        environment: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
    ) -> None:
        self._roles = tuple(roles)
        self._output = output
        self._environment = {**os.environ, **(environment or {})}
        self._children: dict[Role, Child] = {}
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[int]] = []

    async def __aenter__(self) -> Roles:
        self._keepers = [asyncio.create_task(self._keep(role), name=f"role-{role}") for role in self._roles]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def pids(self) -> dict[Role, int]:
        """Process id by role, of those that run now."""
        return {role: child.process.pid for role, child in self._children.items()}

    async def refused(self) -> int:
        """Wait until a role refuses to start, which no restart would mend; gives its exit code."""
        done, _ = await asyncio.wait(self._keepers, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()

    async def stop(self) -> None:
        """Tell every role to stop and wait until each has, or kill it past its time; safe to call twice."""
        self._stopping.set()
        for child in self._children.values():
            child.signal(signal.SIGTERM)
        if not self._keepers:
            return
        _, late = await asyncio.wait(self._keepers, timeout=STOP_TIMEOUT_S)
        if late:
            log.error("roles_killed", roles=sorted(map(str, self._children)), after_s=STOP_TIMEOUT_S)
            self.kill()
            await asyncio.wait(late)

    def kill(self) -> None:
        """End every role at once."""
        self._stopping.set()
        for child in self._children.values():
            child.kill()

    async def _keep(self, role: Role) -> int:
        """Keep one role running; returns when it refuses to start, or has stopped because it was told to."""
        wait_s = FIRST_BACK_OFF_S
        first = True
        while True:
            child = await self._start(role)
            if self._stopping.is_set():
                child.signal(signal.SIGTERM)
            code = await child.process.wait()
            lived = time.monotonic() - child.started
            del self._children[role]
            # What it had started must not live on beside its successor, or after us.
            child.kill()
            if self._stopping.is_set():
                log.info("role_ended", role=role, code=code)
                return code
            if code == USER_ERROR and first and lived < HEALTHY_AFTER_S:
                return code
            first = False
            wait_s = FIRST_BACK_OFF_S if lived >= HEALTHY_AFTER_S else wait_s
            log.warning("role_died", role=role, code=code, lived_s=round(lived, 1), restart_in_s=wait_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
                return code
            wait_s = min(2 * wait_s, LONGEST_BACK_OFF_S)

    async def _start(self, role: Role) -> Child:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "earlybell.streams.cli", "run", "--role", role, "--with-parent"),
            stdin=asyncio.subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            env=self._environment,
            # A session of its own: Ctrl-C reaches us alone, and we tell each role once.
            start_new_session=True,
        )
        log.info("role_started", role=role, pid=process.pid)
        self._children[role] = child = Child(role, process, time.monotonic())
        return child


async def supervise() -> int:
    """Run both roles until SIGTERM (gives 0) or SIGINT (130), or until one refuses to start (2)."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.put_nowait, number)
    async with Roles() as roles:
        refused = asyncio.create_task(roles.refused())
        first = asyncio.create_task(told.get())
        await asyncio.wait((refused, first), return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            first.cancel()
            return refused.result()
        refused.cancel()
        second = asyncio.create_task(told.get())
        second.add_done_callback(lambda task: None if task.cancelled() else roles.kill())
        await roles.stop()
        second.cancel()
        return INTERRUPTED if first.result() == signal.SIGINT else 0
