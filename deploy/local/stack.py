"""The local stack: a real Kafka and a real Postgres on this machine, brought up, looked at and taken down.

For people, ``up`` leaves both running and says in the state file where they are. For tests and for the demonstration,
``running`` is a context manager with a private stack that goes away with its owner, however that ends.
Knows nothing of what Earlybell does with them.
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
from typing import Any

from earlybell.deploy.local import kafka, postgres, processes, state
from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import GivenUp, Patience

__all__ = ["Server", "Stack", "StackError", "down", "running", "status", "up"]

#: The longest that a server may take to answer; a loaded machine needs ten times the usual three seconds.
START_SECONDS = 90.0
#: What a new stack needs on the disk, and some room to work.
FREE_BYTES = 512 * 1024 * 1024

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Stack:
    """A stack that is up.

    Attributes
    ----------
    home
        The directory of its state file, data and logs.
    started
        Names of the servers that this call has started; empty where all ran already, or are external.
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
        """The database, password included."""
        return self.postgres.address

    def environment(self) -> dict[str, str]:
        """What a child process needs in its environment to use this stack."""
        return {"EARLYBELL_KAFKA_BOOTSTRAP": self.kafka_bootstrap, "EARLYBELL_DATABASE_URL": self.database_url}


def up(home: Path | None = None, *, progress: Progress | None = None) -> Stack:
    """Bring the stack up and leave it running: start what does not run, and what does not answer anew.

    Parameters
    ----------
    home
        Its directory; by default the user's (``EARLYBELL_HOME``). Data from the last time is still there.
    progress
        Is given a line on what takes a while, such as the first download.

    Raises
    ------
    StackError
        With one line that says what to do. Nothing is left running that did not run before.
    """
    return _up(_home(home), progress or _silent, lasting=True)


def down(home: Path | None = None, *, purge: bool = False) -> tuple[str, ...]:
    """Stop what runs of the stack, also what a lost state file no longer names, and forget it.

    Parameters
    ----------
    purge
        Delete its data and logs too.

    Returns
    -------
    tuple of str
        The servers that were stopped.
    """
    where = _home(home)
    if not where.exists():
        return ()
    with _locked(where):
        stopped = _stop(where)
        state.clear(where)
        if purge:
            shutil.rmtree(where / "kafka", ignore_errors=True)
            shutil.rmtree(where / "postgres", ignore_errors=True)
    return stopped


def status(home: Path | None = None) -> dict[str, Any]:
    """What runs, where, and whether it answers.

    Returns
    -------
    dict
        ``running`` (both answer), ``home``, ``kafka_bootstrap`` and ``database_url`` (null where there is none), and
        for each of ``kafka`` and ``postgres``: ``address`` (without a password), ``external``, ``pid``,
        ``running``, ``healthy``, ``log``.
    """
    where = _home(home)
    with ThreadPoolExecutor(2) as both:
        brokers = both.submit(_status, kafka.external(), _recorded(where, "kafka"), kafka.healthy)
        database = both.submit(_status, postgres.external(), _recorded(where, "postgres"), postgres.healthy)
    found = {"kafka": brokers.result(), "postgres": database.result()}
    url = postgres.external() or _address(where, "postgres")
    return {
        "running": all(server["healthy"] for server in found.values()),
        "home": str(where),
        "kafka_bootstrap": found["kafka"]["address"],
        "database_url": url if found["postgres"]["address"] else None,
        **found,
    }


@contextlib.contextmanager
def running(home: Path | None = None, *, progress: Progress | None = None) -> Iterator[Stack]:
    """Give a private stack that is gone afterwards, also if its owner is interrupted or killed.

    Parameters
    ----------
    home
        Its directory, which keeps the data; by default a temporary one, which is deleted.

    Raises
    ------
    StackError
        It could not be brought up, or a stack is up in `home` already, and is not ours to take down.
    """
    if kafka.external() and postgres.external():
        yield _up(_home(home), progress or _silent, lasting=False)
        return
    temporary = home is None
    where = Path(tempfile.mkdtemp(prefix="earlybell-")) if temporary else _home(home)
    if state.read(where) and any(_alive(where)):
        raise StackError(f"A stack is already up in {where}: take it down first (`earlybell down`)")
    where.mkdir(parents=True, exist_ok=True)
    guard = _guard(where, temporary=temporary)
    try:
        yield _up(where, progress or _silent, lasting=False)
    finally:
        down(where)
        guard.kill()
        guard.wait()
        if temporary:
            shutil.rmtree(where, ignore_errors=True)


def _silent(_: str) -> None:
    return None


def _home(home: Path | None) -> Path:
    return (home or state.home()).expanduser().absolute()


@contextlib.contextmanager
def _locked(where: Path) -> Iterator[None]:
    try:
        with state.locked(where / ".lock"):
            yield
    except PermissionError as error:
        raise StackError(f"Cannot write to {error.filename}: make {where} yours, or set EARLYBELL_HOME") from error


def _up(where: Path, progress: Progress, *, lasting: bool) -> Stack:
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"Cannot make {where} ({error.strerror}): set EARLYBELL_HOME to a directory of yours"
        ) from error
    with _locked(where):
        kept = {server.name: server for server in (_kept(where, "kafka"), _kept(where, "postgres")) if server}
        missing = [name for name in ("kafka", "postgres") if name not in kept]
        if missing and (free := shutil.disk_usage(where).free) < FREE_BYTES:
            raise StackError(f"{free >> 20} MiB free under {where}: make room, or set EARLYBELL_HOME to another disk")
        started = _start(where, missing, kept, progress, lasting=lasting) if missing else {}
        servers = {**kept, **started}
        _record(where, servers)
        return Stack(where, servers["kafka"], servers["postgres"], tuple(missing))


def _kept(where: Path, name: str) -> Server | None:
    """The server that need not be started: an external one, or ours that runs and answers."""
    room = kafka if name == "kafka" else postgres
    address = room.external()
    if address is not None:
        if not room.healthy(address):
            variable = "EARLYBELL_KAFKA_BOOTSTRAP" if name == "kafka" else "EARLYBELL_DATABASE_URL"
            shown = postgres.without_password(address)
            raise StackError(f"{shown} ({variable}) does not answer: start it, correct the variable, or unset it")
        return Server(name, address)
    recorded = _recorded(where, name)
    if recorded is not None and recorded.running and room.healthy(recorded.address):
        return recorded
    # Whatever still runs on the data of this home would keep a new server from it.
    for pid in processes.find(room.mark(where)):
        processes.stop(pid, room.mark(where), signal.SIGINT if name == "postgres" else signal.SIGTERM)
    return None


def _start(
    where: Path, missing: list[str], kept: dict[str, Server], progress: Progress, *, lasting: bool
) -> dict[str, Server]:
    """Start the missing servers side by side. All of them, or none is left."""
    patience = Patience(START_SECONDS)
    servers = dict(kept)
    writing = threading.Lock()

    def started(server: Server) -> None:
        # Written before it is healthy, so that whoever cleans up after us finds it.
        with writing:
            servers[server.name] = server
            _record(where, servers)

    def start(name: str) -> Server:
        try:
            if name == "kafka":
                return kafka.start(where, started, patience, progress)
            return postgres.start(where, started, patience, lasting=lasting)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{Path(error.cmd[0]).name} took longer than {error.timeout:.0f} s: try again") from error
        except OSError as error:
            raise StackError(f"{name} cannot be started ({error}): check {where}, or set EARLYBELL_HOME") from error
        finally:
            if sys.exc_info()[0] is not None:
                patience.give_up()

    try:
        with ThreadPoolExecutor(len(missing)) as pool:
            try:
                waiting = {name: pool.submit(start, name) for name in missing}
                wait(waiting.values())
                failed = [failure for future in waiting.values() if (failure := future.exception())]
                # When one fails the other is told to give up: the reason comes first.
                for failure in sorted(failed, key=lambda one: isinstance(one, GivenUp)):
                    raise failure
                return {name: future.result() for name, future in waiting.items()}
            except BaseException:
                patience.give_up()
                raise
    except BaseException:
        for name in missing:
            if (server := servers.get(name)) is not None and server.pid is not None and server.mark is not None:
                processes.stop(server.pid, server.mark, server.stop_signal)
        _record(where, kept)
        raise


def _record(where: Path, servers: dict[str, Server]) -> None:
    if not servers:
        state.clear(where)
        return
    addresses = {"kafka": "kafka_bootstrap", "postgres": "database_url"}
    found: dict[str, Any] = {addresses[name]: server.address for name, server in servers.items()}
    state.write({**found, **{name: server.to_json() for name, server in servers.items()}}, where)


def _recorded(where: Path, name: str) -> Server | None:
    return Server.from_json(state.read(where).get(name))


def _address(where: Path, name: str) -> str | None:
    recorded = _recorded(where, name)
    return recorded.address if recorded else None


def _alive(where: Path) -> list[Server]:
    recorded = (_recorded(where, "kafka"), _recorded(where, "postgres"))
    return [server for server in recorded if server is not None and server.running]


def _stop(where: Path) -> tuple[str, ...]:
    marks = {"kafka": kafka.mark(where), "postgres": postgres.mark(where)}
    signals = {"kafka": signal.SIGTERM, "postgres": signal.SIGINT}
    # The children of a Postgres server go with it; only processes with our mark among their arguments are stopped.
    found = {name: set(processes.find(mark)) for name, mark in marks.items()}
    for server in _alive(where):
        if server.pid is not None:
            found[server.name].add(server.pid)
    for name, pids in found.items():
        for pid in pids:
            processes.signal_process(pid, marks[name], signals[name])
    for name, pids in found.items():
        for pid in pids:
            if not processes.ended(pid, marks[name], processes.STOP_SECONDS):
                processes.stop(pid, marks[name], signal.SIGKILL)
    return tuple(name for name, pids in found.items() if pids)


def _status(external: str | None, recorded: Server | None, healthy: Callable[[str], bool]) -> dict[str, Any]:
    if external is None and recorded is not None and recorded.ours and not recorded.running:
        # It died, or the machine was started anew: its address is nobody's, or somebody else's.
        return {**_nothing(), "log": recorded.log}
    address = external or (recorded.address if recorded else None)
    if address is None:
        return _nothing()
    ours = external is None and recorded is not None and recorded.ours
    answers = healthy(address)
    return {
        "address": postgres.without_password(address),
        "external": not ours,
        "pid": recorded.pid if ours and recorded else None,
        "running": True if ours else answers,
        "healthy": answers,
        "log": recorded.log if ours and recorded else None,
    }


def _nothing() -> dict[str, Any]:
    return {"address": None, "external": False, "pid": None, "running": False, "healthy": False, "log": None}


def _guard(where: Path, *, temporary: bool) -> subprocess.Popen[bytes]:
    """Start the process that takes the stack down should we die first."""
    root = str(Path(__file__).parents[3])  # of the package, wherever it is installed
    command = [sys.executable, "-m", "earlybell.deploy.local.guard", str(where), str(os.getpid())]
    return subprocess.Popen(
        command + (["--delete"] if temporary else []),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)},
    )
