"""Server processes that outlive the command that started them: how to start, identify and stop them.

A server is identified by its process id *and* by an argument unique to it (the path of its configuration or of its
data), because after a crash or a reboot the id may belong to another process. Knows nothing of Kafka or Postgres.
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

#: A server that has not exited after this long is killed.
STOP_SECONDS = 20.0
#: The pause between two checks of a condition we wait for.
POLL_SECONDS = 0.05

# Child processes that nothing waits for remain as zombies.
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
        The process that we started; None for an external server.
    mark
        The argument that identifies the process.
    log
        Its log file.
    stop_signal
        The signal for a clean shutdown.
    """

    name: str
    address: str = field(repr=False)
    pid: int | None = None
    mark: str | None = None
    log: str | None = None
    stop_signal: int = signal.SIGTERM

    @property
    def ours(self) -> bool:
        """Whether the local stack started it, and has to stop it."""
        return self.pid is not None

    @property
    def running(self) -> bool:
        """Whether our process is alive; always False for an external server."""
        return self.pid is not None and self.mark is not None and is_running(self.pid, self.mark)

    def to_json(self) -> dict[str, Any]:
        """Return the entry for the state file."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: object) -> Server | None:
        """Read an entry of the state file; return None if it is missing or unusable."""
        try:
            return cls(**entry) if isinstance(entry, dict) else None
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
        # During an exec (Java's launcher re-executes itself) a process briefly has no arguments.
        time.sleep(0.01)
    return False


def find(mark: str) -> list[int]:
    """Return the ids of the processes with `mark` among their arguments, for when the state file was lost."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and mark in (process.info["cmdline"] or ())
    ]


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    user: int | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> int:
    """Start `command` detached from the terminal, in a new session, with its output in `log`; return its process id.

    Parameters
    ----------
    user
        The user and group id to run as; by default ours.
    environment
        Variables to add to our environment.
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


def stop(pid: int, mark: str, stop_signal: int = signal.SIGTERM, seconds: float = STOP_SECONDS) -> None:
    """Ask a process to exit, wait for it, and kill it after `seconds`. Leave it alone if it does not have `mark`."""
    signal_process(pid, mark, stop_signal)
    if not ended(pid, mark, seconds):
        signal_process(pid, mark, signal.SIGKILL)
        ended(pid, mark, STOP_SECONDS)


def signal_process(pid: int, mark: str, signal_number: int) -> None:
    """Send a signal to the process, if it still has `mark`."""
    if is_running(pid, mark):
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise StackError(f"Process {pid} ({mark}) belongs to another user: stop it as that user") from error


def ended(pid: int, mark: str, seconds: float) -> bool:
    """Wait until the process has exited; return False if it has not within `seconds`."""
    deadline = time.monotonic() + seconds
    while is_running(pid, mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def free_port(preferred: int | None = None, taken: Sequence[int] = ()) -> int:
    """Return a TCP port that nothing on the loopback interface listens on: `preferred` if it is free, else any."""
    for port in (preferred or 0, 0, 0, 0):
        with socket.socket() as probe:
            # Connections that a stopped server left in TIME_WAIT must not block its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            free: int = probe.getsockname()[1]
        if free not in taken:
            return free
    raise StackError("No free TCP port on 127.0.0.1: stop a program that uses many, then try again")


def accepts_connections(host: str, port: int, seconds: float = 1.0) -> bool:
    """Whether something listens at the address."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError:
        return False
    return True


def last_lines(log: Path, since: int, count: int = 1) -> str:
    """Return the last lines that a server wrote after byte `since` of its log: usually why it exited."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-count:])
