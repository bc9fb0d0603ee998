"""The local stack: start, inspect and stop a real Kafka and a real Postgres on this machine.

``up`` leaves both running and records their addresses in the state file. ``running`` is a context manager, for tests
and the demo, with a private stack that never outlives its owner, even if the owner is killed.
Knows nothing of what Earlybell does with the servers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from earlybell.deploy.local import kafka, postgres, processes, state
from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import GivenUp, Patience

__all__ = ["Server", "Stack", "StackError", "down", "running", "status", "up"]

#: The longest that a server may take to answer. Three seconds are usual; a loaded machine needs ten times that.
START_SECONDS = 90.0
#: Free disk space that a new stack needs, with some to spare.
FREE_BYTES = 512 * 1024 * 1024

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Stack:
    """A running stack.

    Attributes
    ----------
    home
        The directory of its state file, data and logs.
    started
        Names of the servers that this call started; empty if all were running already, or are external.
    """

    home: Path
    kafka: Server
    postgres: Server
    started: tuple[str, ...] = ()

    @property
    def kafka_bootstrap(self) -> str:
        """``host:port[,host:port]`` of the brokers."""
        return self.kafka.address

    @property
    def database_url(self) -> str:
        """The URL of the database, password included."""
        return self.postgres.address

    def environment(self) -> dict[str, str]:
        """Return the variables that a child process needs to use this stack."""
        return {"EARLYBELL_KAFKA_BOOTSTRAP": self.kafka_bootstrap, "EARLYBELL_DATABASE_URL": self.database_url}


def up(home: Path | None = None, *, progress: Progress | None = None) -> Stack:
    """Start the servers that are not running or do not answer, and leave the stack running.

    Parameters
    ----------
    home
        Its directory; by default the user's (``EARLYBELL_HOME``). Data from earlier starts is kept.
    progress
        Receives a line about each step that takes a while, such as the first download.

    Raises
    ------
    StackError
        A server cannot be started. The text is one line that says what to do; what this call started is stopped.
    """
    return _up(_resolved(home), progress or _silent, lasting=True)


def down(home: Path | None = None, *, purge: bool = False) -> tuple[str, ...]:
    """Stop the servers of the stack, even if its state file was lost.

    Parameters
    ----------
    purge
        Delete the data and logs too.

    Returns
    -------
    tuple of str
        The servers that were stopped.
    """
    home = _resolved(home)
    if not home.exists():
        return ()
    with _locked(home):
        stopped = _stop(home)
        state.clear(home)
        if purge:
            for directory in directories(home):
                shutil.rmtree(directory, ignore_errors=True)
    return stopped


def recorded_database(home: Path | None = None) -> str | None:
    """Return the URL of the database that `up` started, password included, or None if it does not run any more."""
    server = _recorded(_resolved(home), "postgres")
    return server.address if server is not None and (server.running or not server.ours) else None


def directories(home: Path | None = None) -> list[Path]:
    """Return the directories with the servers' data and logs: what `down` with `purge` deletes."""
    return [path for path in (_resolved(home) / "kafka", _resolved(home) / "postgres") if path.exists()]


def status(home: Path | None = None) -> dict[str, Any]:
    """Return which servers run, where, and whether they answer.

    Returns
    -------
    dict
        ``running`` (both answer), ``home``, ``kafka_bootstrap`` and ``database_url`` (None if there is none), and
        for each of ``kafka`` and ``postgres``: ``address``, ``external``, ``pid``, ``running``, ``healthy``, ``log``.
        Passwords are masked: `earlybell db url` prints the URL with its password.
    """
    home = _resolved(home)
    with ThreadPoolExecutor(2) as pool:
        brokers = pool.submit(_status, kafka, _recorded(home, "kafka"))
        database = pool.submit(_status, postgres, _recorded(home, "postgres"))
    servers = {"kafka": brokers.result(), "postgres": database.result()}
    return {
        "running": all(server["healthy"] for server in servers.values()),
        "home": str(home),
        "kafka_bootstrap": servers["kafka"]["address"],
        "database_url": servers["postgres"]["address"],
        **servers,
    }


@contextlib.contextmanager
def running(home: Path | None = None, *, progress: Progress | None = None) -> Iterator[Stack]:
    """Provide a private stack and take it down afterwards, even if its owner is interrupted or killed.

    Parameters
    ----------
    home
        Its directory, in which the data is kept; by default a temporary one, which is deleted.

    Raises
    ------
    StackError
        A server cannot be started, or another stack is already running in `home`.
    """
    if kafka.external() and postgres.external():
        yield _up(_resolved(home), progress or _silent, lasting=False)
        return
    temporary = home is None
    home = Path(tempfile.mkdtemp(prefix="earlybell-")) if temporary else _resolved(home)
    if state.read(home) and any(_alive(home)):
        raise StackError(f"A stack is already running in {home}: take it down first (`earlybell down`)")
    home.mkdir(parents=True, exist_ok=True)
    guard = _guard(home, temporary=temporary)
    try:
        yield _up(home, progress or _silent, lasting=False)
    finally:
        down(home)
        guard.kill()
        guard.wait()
        if temporary:
            shutil.rmtree(home, ignore_errors=True)


def _silent(_: str) -> None:
    return None


def _resolved(home: Path | None) -> Path:
    return (home or state.default_home()).expanduser().absolute()


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    try:
        with state.locked(home / ".lock"):
            yield
    except PermissionError as error:
        raise StackError(f"Cannot write to {error.filename}: make {home} writable, or set EARLYBELL_HOME") from error


def _up(home: Path, progress: Progress, *, lasting: bool) -> Stack:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"Cannot create {home} ({error.strerror}): set EARLYBELL_HOME to a directory that you can write to"
        ) from error
    with _locked(home):
        kept = {server.name: server for server in (_kept(home, "kafka"), _kept(home, "postgres")) if server}
        missing = [name for name in ("kafka", "postgres") if name not in kept]
        if missing and (free := shutil.disk_usage(home).free) < FREE_BYTES:
            raise StackError(
                f"Only {free >> 20} MiB free under {home}: free some space, or set EARLYBELL_HOME to another disk"
            )
        started = _start(home, missing, kept, progress, lasting=lasting) if missing else {}
        servers = {**kept, **started}
        _record(home, servers)
        return Stack(home, servers["kafka"], servers["postgres"], tuple(missing))


def _kept(home: Path, name: str) -> Server | None:
    """Return the server that is running already: an external one, or ours if it answers; else None."""
    module = kafka if name == "kafka" else postgres
    address = module.external()
    if address is not None:
        if not module.healthy(address):
            variable = "EARLYBELL_KAFKA_BOOTSTRAP" if name == "kafka" else "EARLYBELL_DATABASE_URL"
            shown = module.without_password(address)
            raise StackError(f"{shown} ({variable}) does not answer: start it, correct the variable, or unset it")
        return Server(name, address)
    recorded = _recorded(home, name)
    if recorded is not None and recorded.running and module.healthy(recorded.address):
        return recorded
    # A process that still uses this home's data would keep a new server from starting.
    for pid in processes.find(module.mark(home)):
        processes.stop(pid, module.mark(home), signal.SIGINT if name == "postgres" else signal.SIGTERM)
    return None


def _start(
    home: Path, missing: list[str], kept: dict[str, Server], progress: Progress, *, lasting: bool
) -> dict[str, Server]:
    """Start the missing servers in parallel. If one fails, stop the others."""
    patience = Patience(START_SECONDS)
    servers = dict(kept)
    recording = threading.Lock()

    def started(server: Server) -> None:
        # Recorded before it is healthy, so that a later `down` or the guard finds it.
        with recording:
            servers[server.name] = server
            _record(home, servers)

    def start(name: str) -> Server:
        try:
            if name == "kafka":
                return kafka.start(home, started, patience, progress)
            return postgres.start(home, started, patience, lasting=lasting)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{Path(error.cmd[0]).name} took longer than {error.timeout:.0f} s: try again") from error
        except OSError as error:
            raise StackError(f"{name} cannot be started ({error}): check {home}, or set EARLYBELL_HOME") from error
        finally:
            if sys.exc_info()[0] is not None:
                patience.give_up()

    try:
        with ThreadPoolExecutor(len(missing)) as pool:
            try:
                starts = {name: pool.submit(start, name) for name in missing}
                wait(starts.values())
                errors = [error for future in starts.values() if (error := future.exception())]
                # When one fails, the other is told to give up: raise the cause, not the consequence.
                for error in sorted(errors, key=lambda error: isinstance(error, GivenUp)):
                    raise error
                return {name: future.result() for name, future in starts.items()}
            except BaseException:
                patience.give_up()
                raise
    except BaseException:
        for name in missing:
            if (server := servers.get(name)) is not None and server.pid is not None and server.mark is not None:
                processes.stop(server.pid, server.mark, server.stop_signal)
        _record(home, kept)
        raise


def _record(home: Path, servers: dict[str, Server]) -> None:
    if not servers:
        state.clear(home)
        return
    addresses = {"kafka": "kafka_bootstrap", "postgres": "database_url"}
    stack: dict[str, Any] = {addresses[name]: server.address for name, server in servers.items()}
    state.write({**stack, **{name: server.to_json() for name, server in servers.items()}}, home)


def _recorded(home: Path, name: str) -> Server | None:
    return Server.from_json(state.read(home).get(name))


def _alive(home: Path) -> list[Server]:
    recorded = (_recorded(home, "kafka"), _recorded(home, "postgres"))
    return [server for server in recorded if server is not None and server.running]


def _stop(home: Path) -> tuple[str, ...]:
    marks = {"kafka": kafka.mark(home), "postgres": postgres.mark(home)}
    signals = {"kafka": signal.SIGTERM, "postgres": signal.SIGINT}
    # A Postgres server stops its own children; we signal only processes with our mark among their arguments.
    running_pids = {name: set(processes.find(mark)) for name, mark in marks.items()}
    for server in _alive(home):
        if server.pid is not None:
            running_pids[server.name].add(server.pid)
    for name, pids in running_pids.items():
        for pid in pids:
            processes.signal_process(pid, marks[name], signals[name])
    for name, pids in running_pids.items():
        for pid in pids:
            if not processes.ended(pid, marks[name], processes.STOP_SECONDS):
                processes.stop(pid, marks[name], signal.SIGKILL)
    return tuple(name for name, pids in running_pids.items() if pids)


def _status(module: ModuleType, recorded: Server | None) -> dict[str, Any]:
    external: str | None = module.external()
    if external is None and recorded is not None and recorded.ours and not recorded.running:
        # It died, or the machine was rebooted: by now its address may belong to another program.
        return {**_not_running(), "log": recorded.log}
    address = external or (recorded.address if recorded else None)
    if address is None:
        return _not_running()
    ours = external is None and recorded is not None and recorded.ours
    answers: bool = module.healthy(address)
    return {
        "address": module.without_password(address),
        "external": not ours,
        "pid": recorded.pid if ours and recorded else None,
        "running": True if ours else answers,
        "healthy": answers,
        "log": recorded.log if ours and recorded else None,
    }


def _not_running() -> dict[str, Any]:
    return {"address": None, "external": False, "pid": None, "running": False, "healthy": False, "log": None}


def _guard(home: Path, *, temporary: bool) -> subprocess.Popen[bytes]:
    """Start the process that takes the stack down if we are killed."""
    root = str(Path(__file__).parents[3])  # the directory from which the package is imported
    command = [sys.executable, "-m", "earlybell.deploy.local.guard", str(home), str(os.getpid())]
    return subprocess.Popen(
        command + (["--delete"] if temporary else []),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)},
    )
