"""Server processes that outlive the command which started them, and how they are recognised and stopped.

A server is known by its process id *and* by an argument that only it has (the path of its configuration or of its
data): an id alone may belong to another process after a crash or a reboot. Knows nothing of Kafka or Postgres.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from earlybell.deploy.local.exceptions import StackError

#: A server that has not ended by itself after so long is killed.
STOP_SECONDS = 20.0
#: How often something is looked at that we wait for.
POLL_SECONDS = 0.05

# Our own children have to be waited for, or they stay behind as zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Server:
    """One server of a stack.

    Attributes
    ----------
    name
        ``kafka`` or ``postgres``.
    address
        ``host:port`` or a URL: what a client connects to. A URL has its password in it.
    pid
        The process that we started; None for a server that somebody else runs.
    mark
        The argument by which the process is recognised.
    log
        Where it writes what it has to say.
    stop_signal
        What asks it to end cleanly.
    """

    name: str
    address: str = field(repr=False)
    pid: int | None = None
    mark: str | None = None
    log: str | None = None
    stop_signal: int = signal.SIGTERM

    @property
    def ours(self) -> bool:
        """Whether the local stack started it and has to stop it."""
        return self.pid is not None

    @property
    def running(self) -> bool:
        """Whether our process is alive (never true of an external server)."""
        return self.pid is not None and self.mark is not None and is_running(self.pid, self.mark)

    def to_json(self) -> dict[str, Any]:
        """For the state file."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: object) -> Server | None:
        """From the state file; None where that says nothing usable."""
        try:
            return cls(**found) if isinstance(found, dict) else None
        except TypeError:
            return None


def is_running(pid: int, mark: str) -> bool:
    """Whether process `pid` is alive and has `mark` among its arguments."""
    child = _children.get(pid)
    if child is not None:
        return child.poll() is None
    for _ in range(3):
        try:
            process = psutil.Process(pid)
            arguments = process.cmdline()
            if arguments or process.status() == psutil.STATUS_ZOMBIE:
                return mark in arguments
        except psutil.Error:
            return False
        # In the middle of an exec (Java's launcher executes itself) a process has no arguments for an instant.
        time.sleep(0.01)
    return False


def find(mark: str) -> list[int]:
    """The processes that have `mark` among their arguments: what a lost state file no longer names."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        seen = process.info
        if seen["status"] != psutil.STATUS_ZOMBIE and mark in (seen["cmdline"] or ()):
            found.append(process.pid)
    return found


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    user: int | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> int:
    """Start `command` detached from the terminal, in a session of its own, writing to `log`; gives its id.

    Parameters
    ----------
    user
        The user (and group) id to run as; by default ours.
    environment
        What is added to our environment.
    """
    identity: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=directory or log.parent,
            env={**os.environ, **(environment or {})},
            **identity,
        )
    _children[child.pid] = child
    return child.pid


def stop(pid: int, mark: str, how: int = signal.SIGTERM, seconds: float = STOP_SECONDS) -> None:
    """Ask a process to end, wait for it, and kill it if it does not. Does nothing to a process that is not ours."""
    signal_process(pid, mark, how)
    if not ended(pid, mark, seconds):
        signal_process(pid, mark, signal.SIGKILL)
        ended(pid, mark, STOP_SECONDS)


def signal_process(pid: int, mark: str, how: int) -> None:
    """Send a signal to the process, if it still is the one that is meant."""
    if is_running(pid, mark):
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise StackError(f"Process {pid} ({mark}) is another user's: take it down as that user") from error


def ended(pid: int, mark: str, seconds: float) -> bool:
    """Wait until the process has ended; False where it has not within `seconds`."""
    deadline = time.monotonic() + seconds
    while is_running(pid, mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def free_port(preferred: int | None = None, taken: Sequence[int] = ()) -> int:
    """A TCP port of the loopback interface that nothing listens on: `preferred` if it is free, else any."""
    for port in (preferred or 0, 0, 0, 0):
        with socket.socket() as probe:
            # Connections that a stopped server left in TIME_WAIT do not keep it from its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
        if found not in taken:
            return found
    raise StackError("No free TCP port on 127.0.0.1: end something that holds many, then try again")


def accepts_connections(host: str, port: int, seconds: float = 1.0) -> bool:
    """Whether something listens there."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError:
        return False
    return True


def last_lines(log: Path, since: int, count: int = 1) -> str:
    """The last lines that a server wrote after byte `since` of its log: usually why it ended."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-count:])
