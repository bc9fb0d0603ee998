"""One life of one worker process, as the parent sees it: started, spoken to, killed, buried.

It knows nothing of windows or restarts. The pipe is a Unix socket pair read through asyncio's own streams: no thread
in the parent, the loop never blocks on a large window in either direction, any loop works (uvloop too), and a death is
an end of file at once, since nobody but the worker holds the other end.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import pickle
import signal
import socket
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

import structlog

from earlybell.inference.pool import worker

log = structlog.get_logger(__name__)

#: Between hanging up and killing. A worker that can run at all leaves within milliseconds.
FAREWELL_S = 1.0
#: For a killed process to be gone: a GPU's memory takes its time to come back.
BURIAL_S = 10.0
READ_AHEAD_BYTES = 1 << 20
_BLOCKED_AT_START = (signal.SIGINT, signal.SIGTERM)

_context = multiprocessing.get_context("spawn")  # fork and threads (torch's, the loop's) do not go together
_alive: set[SpawnProcess] = set()


class WorkerGone(Exception):
    """The worker process is dead; its text says of what."""


class WorkerProcess:
    """A worker process from its start to its end. Make it with `start`."""

    def __init__(
        self, process: SpawnProcess, device: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._device = device
        self._reader = reader
        self._writer = writer
        self._killed_because: str | None = None
        self.pid = process.pid or 0

    @classmethod
    async def start(cls, device: str, make_scorer: bytes) -> WorkerProcess:
        """Start a process and ask it for the scorer; the first thing to `receive` says whether it could build it.

        Must run in the event loop's thread, which lives as long as the pool: the kernel kills the worker with the
        thread that started it.

        Parameters
        ----------
        device
            What the scorer is built for.
        make_scorer
            The pickled ``Callable[[str], Scorer]``.

        Raises
        ------
        OSError
            The machine has no process, file descriptor or memory left.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=READ_AHEAD_BYTES)
            process = _context.Process(target=worker.main, args=(theirs, device), name=f"pool-{device}", daemon=True)
            try:
                _start_deaf(process)
            except BaseException:
                writer.close()
                raise
        _alive.add(process)
        running = cls(process, device, reader, writer)
        running._write(make_scorer)
        return running

    @property
    def connected(self) -> bool:
        """Whether what is sent now can still reach the worker."""
        return not self._writer.is_closing()

    @property
    def killed(self) -> bool:
        """Whether it did not die by itself."""
        return self._killed_because is not None

    def send(self, texts: list[str]) -> None:
        """Hand over a window; never blocks (the caller bounds how many are in flight)."""
        self._write(pickle.dumps(texts, protocol=5))

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
        """End the process at once; whoever waits in `receive` learns why."""
        if self._process not in _alive:
            return
        self._killed_because = because
        self._process.kill()
        # A process stuck in a driver does not even die of SIGKILL; its windows must not wait for it.
        self._writer.transport.abort()

    def hang_up(self) -> None:
        """Close the connection: the worker leaves by itself, in mid-window too."""
        self._writer.close()

    async def end(self) -> str:
        """See the process off, whatever state it is in, and say what it died of."""
        self.hang_up()
        if self._process not in _alive:
            return self._killed_because or "ended before"
        await asyncio.to_thread(self._process.join, FAREWELL_S)
        if self._process.exitcode is None:
            self._process.kill()
            await asyncio.to_thread(self._process.join, BURIAL_S)
        cause = self._killed_because or _cause_of_death(self._process.exitcode)
        if self._process.exitcode is None:
            log.error("worker process does not die", device=self._device, pid=self.pid)
        else:
            _alive.discard(self._process)
            self._process.close()
        return cause

    def _write(self, payload: bytes) -> None:
        self._writer.write(worker.frame(payload))


def _start_deaf(process: SpawnProcess) -> None:
    # The worker ignores these as soon as it runs; the mask, which it inherits, covers the time until then: a Ctrl-C
    # while a pool starts would print a traceback a worker. The tracker goes first because it unblocks them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_AT_START)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is None:
        return "lost the connection and does not end"
    if exitcode >= 0:
        return f"left with exit code {exitcode} (its standard error says why)"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = " (the machine may be out of memory)" if name == "SIGKILL" else ""
    return f"died of {name}{hint}"


@atexit.register
def _kill_all() -> None:
    # A parent that leaves without `Pool.stop`: multiprocessing would wait for ever for workers that ignore SIGTERM.
    for process in _alive:
        process.kill()
