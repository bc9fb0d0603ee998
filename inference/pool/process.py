"""One worker process as the parent sees it: start, send, receive, kill, reap.

It knows nothing of windows or restarts. The connection is a Unix socket pair read through asyncio streams: the parent
needs no thread, the loop never blocks on a large window in either direction, any loop works (uvloop too), and a dead
worker is an immediate end of file, since only the worker holds the other end.
A worker is ``python -m earlybell.inference.pool``: unlike multiprocessing's it does not import the parent's main
module, which would take longer than the rest of its start.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import structlog

from earlybell.inference.pool import worker

log = structlog.get_logger(__name__)

#: Between disconnecting and killing. A worker that can run at all exits within milliseconds.
EXIT_TIMEOUT_S = 1.0
#: Between killing and giving up: releasing GPU memory takes a while.
KILL_TIMEOUT_S = 10.0
READ_AHEAD_BYTES = 1 << 20
_SIGNALS_BLOCKED_AT_START = (signal.SIGINT, signal.SIGTERM)

_alive: set[subprocess.Popen[bytes]] = set()


class WorkerGone(Exception):
    """The worker process is dead; the message is the cause."""


class WorkerProcess:
    """A worker process from start to exit. Create it with `start`."""

    def __init__(
        self, process: subprocess.Popen[bytes], device: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._device = device
        self._reader = reader
        self._writer = writer
        self._killed_because: str | None = None
        self.pid = process.pid

    @classmethod
    async def start(cls, device: str, make_scorer: bytes) -> WorkerProcess:
        """Start a process and ask it to build the scorer; its first message is `Ready` or `BuildFailed`.

        Must run in the event loop's thread, which lives as long as the pool: the kernel kills the worker when the
        thread that started it exits.

        Parameters
        ----------
        device
            The device that the scorer is built for.
        make_scorer
            The pickled ``Callable[[str], Scorer]``.

        Raises
        ------
        OSError
            The machine is out of processes, file descriptors or memory.
        """
        parent_end, worker_end = socket.socketpair()
        with worker_end:
            reader, writer = await asyncio.open_unix_connection(sock=parent_end, limit=READ_AHEAD_BYTES)
            try:
                process = _start_with_signals_blocked(worker_end, device)
            except BaseException:
                writer.close()
                raise
        _alive.add(process)
        running = cls(process, device, reader, writer)
        running._write(make_scorer)
        return running

    @property
    def connected(self) -> bool:
        """Whether the worker can still be reached."""
        return not self._writer.is_closing()

    @property
    def killed(self) -> bool:
        """Whether `kill` ended the worker."""
        return self._killed_because is not None

    def send(self, texts: list[str], dial: float | None) -> None:
        """Send a window, with a dial or None. Never blocks: the caller limits how many are in flight."""
        self._write(pickle.dumps((texts, dial), protocol=5))

    async def receive(self) -> worker.Message:
        """Wait for the worker's next message.

        Raises
        ------
        WorkerGone
            The connection ended, and with it the worker.
        """
        try:
            (size,) = worker.HEADER.unpack(await self._reader.readexactly(worker.HEADER.size))
            message: worker.Message = pickle.loads(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise WorkerGone(await self.end()) from error
        return message

    def kill(self, because: str) -> None:
        """Kill the process at once; a pending `receive` raises `WorkerGone` with the reason."""
        if self._process not in _alive:
            return
        self._killed_because = because
        self._process.kill()
        # A process stuck in a driver survives even SIGKILL; its windows must not wait for it.
        self._writer.transport.abort()

    def disconnect(self) -> None:
        """Close the connection: the worker exits on its own, even mid-window."""
        self._writer.close()

    async def end(self) -> str:
        """Wait for the process to exit, killing it if necessary, and return the cause of its death."""
        self.disconnect()
        if self._process not in _alive:
            return self._killed_because or "had already ended"
        exit_code = await asyncio.to_thread(_wait, self._process, EXIT_TIMEOUT_S)
        if exit_code is None:
            self._process.kill()
            exit_code = await asyncio.to_thread(_wait, self._process, KILL_TIMEOUT_S)
        if exit_code is None:
            log.error("worker_kill_failed", device=self._device, pid=self.pid)
        else:
            _alive.discard(self._process)
        return self._killed_because or _cause_of_death(exit_code)

    def _write(self, payload: bytes) -> None:
        self._writer.write(worker.frame(payload))


def _start_with_signals_blocked(worker_end: socket.socket, device: str) -> subprocess.Popen[bytes]:
    # What this process can import, the worker can: the scorer comes as a pickle.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    # The worker ignores these signals once it runs; until then the inherited mask blocks them, or a Ctrl-C while the
    # pool starts would print a traceback per worker.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_BLOCKED_AT_START)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "earlybell.inference.pool", str(worker_end.fileno()), device],
            stdin=subprocess.DEVNULL,
            pass_fds=(worker_end.fileno(),),
            env={**os.environ, "PYTHONPATH": path},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout_s)
    return None


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is None:
        return "lost the connection and does not exit"
    if exit_code >= 0:
        return f"exited with exit code {exit_code} (see its standard error)"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = " (the machine may be out of memory)" if name == "SIGKILL" else ""
    return f"died of {name}{hint}"


@atexit.register
def _kill_all() -> None:
    # If the parent exits without `Pool.stop`. (Should it be killed, the workers notice.)
    for process in _alive:
        process.kill()
