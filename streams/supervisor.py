"""Runs each role as a child process: one that dies is restarted, and none outlives this process.

A role's process is ``earlybell run --role ROLE``. This module knows nothing of what a role does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO

import structlog

from earlybell.storage import driver
from earlybell.streams import preflight, role_history
from earlybell.streams.exit_codes import INTERRUPTED, USER_ERROR
from earlybell.streams.role_history import Death, History
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings

log = structlog.get_logger(__name__)

#: A role drains its windows when it is told to stop. After this long it is killed, which loses nothing either.
STOP_TIMEOUT_S = 30.0
#: A role that has run for this long is healthy: when it dies, it is restarted at once.
HEALTHY_AFTER_S = 60.0
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0


def stop_with_parent() -> None:
    """Stop this process (SIGTERM) when its standard input ends, which happens however the parent dies."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


@dataclass(slots=True)
class Child:
    """A role's current process."""

    role: Role
    process: asyncio.subprocess.Process
    started: float

    def signal(self, number: int) -> None:
        """Signal the process alone; it tells its own workers."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and everything in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Roles:
    """Keeps the roles' processes running, for as long as an ``async with``.

    Parameters
    ----------
    roles
        The roles to run.
    environment
        Variables added to this process's environment.
    output
        Where the processes write; by default, this process's standard output and error.
    remember
        Called with what happened to each role, at first and whenever one dies.
    """

    def __init__(
        self,
        roles: Iterable[Role] = tuple(Role),
        environment: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
        remember: Callable[[Mapping[Role, History]], None] = lambda _: None,
    ) -> None:
        self._roles = tuple(roles)
        self._output = output
        self._environment = {**os.environ, **(environment or {})}
        # A role's name in its consumer group, the same after a restart: see `streams.membership`.
        self._members = {role: f"earlybell-{role}-{secrets.token_hex(8)}" for role in self._roles}
        self._children: dict[Role, Child] = {}
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[int]] = []
        self._remember = remember
        self._histories = {role: History() for role in self._roles}

    async def __aenter__(self) -> Roles:
        self._remember(self._histories)
        self._keepers = [asyncio.create_task(self._keep(role), name=f"role-{role}") for role in self._roles]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def pids(self) -> dict[Role, int]:
        """The process id of each role that is running now."""
        return {role: child.process.pid for role, child in self._children.items()}

    async def refused(self) -> int:
        """Wait until a role refuses to start, which no restart would fix, and return its exit code."""
        done, _ = await asyncio.wait(self._keepers, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()

    async def stop(self) -> None:
        """Tell every role to stop, wait for it, and kill it if it takes too long. May be called twice."""
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
        """Kill every role."""
        self._stopping.set()
        for child in self._children.values():
            child.kill()

    async def _keep(self, role: Role) -> int:
        """Keep one role running; return its exit code when it refuses to start, or has stopped as told."""
        wait_s = FIRST_BACKOFF_S
        first = True
        while True:
            child = await self._start(role)
            if self._stopping.is_set():
                child.signal(signal.SIGTERM)
            code = await child.process.wait()
            lived = time.monotonic() - child.started
            del self._children[role]
            # Its own children must not live on beside its successor, or after this process.
            child.kill()
            if self._stopping.is_set():
                log.info("role_exited", role=role, code=code)
                return code
            if code == USER_ERROR and first and lived < HEALTHY_AFTER_S:
                return code
            first = False
            wait_s = 0.0 if lived >= HEALTHY_AFTER_S else wait_s
            cause = role_history.cause(code)
            log.warning("role_died", role=role, code=code, cause=cause, lived_s=round(lived, 1), restart_in_s=wait_s)
            self._histories[role].restarts += 1
            self._histories[role].last_death = Death(time.time(), cause, lived)
            self._remember(self._histories)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
                return code
            wait_s = min(max(2 * wait_s, FIRST_BACKOFF_S), LONGEST_BACKOFF_S)

    async def _start(self, role: Role) -> Child:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "earlybell.streams.cli", "run", "--role", role, "--member", self._members[role]),
            stdin=asyncio.subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            env=self._environment,
            # In a new session, so that Ctrl-C reaches this process alone, which then tells each role once.
            start_new_session=True,
        )
        log.info("role_started", role=role, pid=process.pid)
        self._children[role] = child = Child(role, process, time.monotonic())
        return child


async def supervise(settings: Settings) -> int:
    """Run both roles until SIGTERM (return 0) or SIGINT (130), or until one refuses to start (2).

    Raises
    ------
    UserError
        Something that the roles need is missing; none of them was started.
    """
    log.info("preflight_started", kafka=settings.kafka_bootstrap, postgres=driver.parse(settings.database).address)
    await asyncio.to_thread(preflight.check, settings, tuple(Role))
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with Roles(remember=functools.partial(role_history.write, settings.group_prefix)) as roles:
        refused = asyncio.create_task(roles.refused())
        first = asyncio.create_task(signals.get())
        await asyncio.wait((refused, first), return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            first.cancel()
            return refused.result()
        refused.cancel()
        second = asyncio.create_task(signals.get())
        second.add_done_callback(lambda task: None if task.cancelled() else roles.kill())
        await roles.stop()
        second.cancel()
        role_history.clear(settings.group_prefix)
        return INTERRUPTED if first.result() == signal.SIGINT else 0
