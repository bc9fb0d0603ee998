"""Worker processes, one scorer each: windows of texts in, predictions out, whatever happens to a worker.

For asyncio callers. It knows nothing of Kafka or SQL, and imports no torch: that is the workers'. The promise: a window
that went in comes out exactly once, with one answer or one fault for each text. A worker that dies is restarted and its
windows run again; what it was scoring is halved until a text that kills workers stands alone. Failures that no text is
to blame for (a device that broke, a checkpoint that vanished) are waited out with back-off and never become faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import structlog

from earlybell.inference.pool.bisection import Died, Outcome, WindowBisection, WindowResult
from earlybell.inference.pool.devices import PoolError, devices
from earlybell.inference.pool.process import WorkerGone, WorkerProcess
from earlybell.inference.pool.worker import Answered, Broken, Failed, MakeScorer, Ready, Unbuildable
from earlybell.inference.predictions import ModelDescription, Predictions

__all__ = ["MakeScorer", "Pool", "PoolError", "WindowResult", "devices"]

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Part:
    """A window or a piece of one on its way to a worker and back."""

    texts: list[str]
    timeout_s: float
    outcome: asyncio.Future[Outcome]


@dataclass(eq=False, slots=True)
class _Crew:
    """The workers of one scorer. A hot swap hires a second crew beside the first."""

    generation: int
    make_scorer: bytes
    seats: list[_Seat] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Seat:
    """A worker's place: outlives the processes that take it one after the other."""

    crew: _Crew
    device: str
    ready: asyncio.Future[ModelDescription]
    process: WorkerProcess | None = None  # while it is ready for windows
    description: ModelDescription | None = None
    in_flight: deque[_Part] = field(default_factory=deque)  # the first of them is being scored
    deaths: int = 0  # since the last answer
    retiring: bool = False
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class Pool:
    """Scores windows on worker processes, one a device.

    Parameters
    ----------
    make_scorer
        Called in each worker with its device's name. Must be picklable: a module's function, or a
        ``functools.partial`` of one.
    devices
        One worker each; see `devices`.
    windows_per_worker
        Windows that a worker holds: one that it scores, and the next, so that it never waits for the parent.
    timeout_s
        A worker that has not answered a window so long after it could begin it is killed.
    kills_per_text
        So many workers must die of a text that they score alone before it is reported as that text's fault.
    start_timeout_s
        For a worker to build and warm its scorer.
    backoff_s
        Before a worker is restarted: the first wait; doubles with each death that no answer came before.
    longest_backoff_s
        The most that it waits.
    """

    def __init__(
        self,
        make_scorer: MakeScorer,
        devices: Sequence[str],
        *,
        windows_per_worker: int = 2,
        timeout_s: float = 120.0,
        kills_per_text: int = 2,
        start_timeout_s: float = 600.0,
        backoff_s: float = 0.1,
        longest_backoff_s: float = 30.0,
    ) -> None:
        if not devices:
            raise PoolError("a pool needs at least one device")
        if windows_per_worker < 1 or kills_per_text < 1:
            raise PoolError("windows_per_worker and kills_per_text must be at least 1")
        self._make_scorer = make_scorer
        self._devices = tuple(devices)
        self._windows_per_worker = windows_per_worker
        self._timeout_s = timeout_s
        self._kills_per_text = kills_per_text
        self._start_timeout_s = start_timeout_s
        self._backoff_s = backoff_s
        self._longest_backoff_s = longest_backoff_s
        self._crew: _Crew | None = None
        self._seats: set[_Seat] = set()  # of all crews
        self._queue: deque[_Part] = deque()
        self._swapping = asyncio.Lock()
        self._generations = 0
        self._closed: PoolError | None = None
        #: Workers that died and were, or are being, started again.
        self.restarts = 0

    async def __aenter__(self) -> Pool:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def capacity(self) -> int:
        """Windows that may be in flight at once; more callers wait in `score`."""
        return len(self._devices) * self._windows_per_worker

    @property
    def description(self) -> ModelDescription:
        """The model that new windows are scored by.

        Raises
        ------
        PoolError
            Before `start`.
        """
        if self._crew is None or (description := self._crew.seats[0].description) is None:
            raise PoolError("the pool has not been started")
        return description

    @property
    def in_flight(self) -> int:
        """Windows (or halves of one) that are at a worker; at most `capacity`, but for a hot swap's last."""
        return sum(len(seat.in_flight) for seat in self._seats)

    @property
    def waiting(self) -> int:
        """Callers of `score` that wait for a worker."""
        return len(self._queue)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready for windows, those of both models during a hot swap."""
        return sorted(seat.process.pid for seat in self._seats if seat.process is not None)

    async def start(self) -> ModelDescription:
        """Start the workers; returns when every one of them has built and warmed its scorer.

        Raises
        ------
        PoolError
            A scorer cannot be built or warmed (with the reason), or the pool was started before. Nothing is left
            running.
        """
        if self._crew is not None or self._closed is not None:
            raise PoolError("the pool was started before; make a new one")
        async with self._swapping:
            self._crew = await self._hire(self._make_scorer)
        self._dispatch()
        log.info("pool started", devices=self._devices, revision=self.description.model_revision)
        return self.description

    async def replace(self, make_scorer: MakeScorer) -> ModelDescription:
        """Hot swap: load another scorer beside this one; it takes over between windows.

        The new scorers live in processes of their own, so nothing that goes wrong in loading one, however badly, can
        touch the windows in flight. Those are answered by the old one; every later window by the new one. Returns when
        the old workers are gone.

        Raises
        ------
        PoolError
            The new scorer cannot be built; the old one serves on.
        """
        async with self._swapping:
            if self._crew is None:
                raise PoolError("the pool has not been started")
            new = await self._hire(make_scorer)
            old, self._crew = self._crew, new
        self._dispatch()
        log.info("model replaced", revision=self.description.model_revision)
        for seat in old.seats:
            seat.retiring = True
            if seat.process is not None and not seat.in_flight:
                seat.process.hang_up()
            elif seat.process is None and seat.task is not None:
                seat.task.cancel()  # dead and about to be restarted, for nothing
        await asyncio.wait([seat.task for seat in old.seats if seat.task is not None])
        return self.description

    async def score(self, texts: Sequence[str]) -> WindowResult:
        """Score one window; waits for as long as all workers have enough to do.

        Safe to call from many tasks. A caller that is cancelled takes nothing from the others: its window leaves the
        queue, or is dropped when the worker that has it is through with it.

        Raises
        ------
        PoolError
            The pool has not been started, or was stopped before the window was answered.
        """
        entered = time.monotonic()
        description = self.description
        if not texts:
            return WindowResult(description, Predictions.concatenate([], len(description.labels)), {}, 0.0, 0.0)
        window = WindowBisection(list(texts), self._kills_per_text)
        first = True
        while (span := window.next_span()) is not None:
            outcome = await self._run(list(window.texts(span)), self._timeout_s * window.patience(span), first)
            window.record(span, outcome)
            description = outcome.description
            first = False
        if window.faults:
            log.warning("texts cannot be scored", faults=len(window.faults), texts=len(texts))
        elapsed, inference_s = time.monotonic() - entered, window.inference_s
        return WindowResult(
            description,
            window.predictions(len(description.labels)),
            dict(sorted(window.faults.items())),
            max(0.0, elapsed - inference_s),
            inference_s,
        )

    async def stop(self) -> None:
        """End every worker, in mid-window too; who still waits in `score` gets a `PoolError`. May be called twice."""
        await self._close(PoolError("the pool was stopped"))

    async def _close(self, reason: PoolError) -> None:
        self._closed = self._closed or reason
        for part in self._queue:
            _refuse(part.outcome, reason)
        self._queue.clear()
        await self._dismiss(list(self._seats))

    async def _run(self, texts: list[str], timeout_s: float, first: bool) -> Outcome:
        if self._closed is not None:
            raise self._closed
        part = _Part(texts, timeout_s, asyncio.get_running_loop().create_future())
        # What has to run again was first in line before.
        if first:
            self._queue.append(part)
        else:
            self._queue.appendleft(part)
        self._dispatch()
        try:
            return await part.outcome
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._queue.remove(part)
            raise

    def _dispatch(self) -> None:
        """Give waiting parts to the workers that have the least to do, until all have enough."""
        while self._queue and self._crew is not None:
            free = [
                seat
                for seat in self._crew.seats
                if seat.process is not None
                and seat.process.connected
                and len(seat.in_flight) < self._windows_per_worker
            ]
            if not free:
                return
            part = self._queue.popleft()
            if part.outcome.done():  # its caller was cancelled
                continue
            seat = min(free, key=lambda seat: len(seat.in_flight))
            assert seat.process is not None
            seat.process.send(part.texts)
            seat.in_flight.append(part)
            if len(seat.in_flight) == 1:
                self._watch(seat)

    def _watch(self, seat: _Seat) -> None:
        """Give the part that is being scored its time, beginning now."""
        if seat.timer is not None:
            seat.timer.cancel()
            seat.timer = None
        if seat.in_flight and seat.process is not None:
            timeout_s = seat.in_flight[0].timeout_s
            seat.timer = asyncio.get_running_loop().call_later(
                timeout_s, seat.process.kill, f"gave no answer within {timeout_s:g} s"
            )

    async def _hire(self, make_scorer: MakeScorer) -> _Crew:
        """A new crew, all of it ready; or nothing and a `PoolError`."""
        try:
            pickled = pickle.dumps(make_scorer)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise PoolError(
                f"make_scorer cannot be sent to a worker ({error}); it must be a module's function or a partial of one"
            ) from error
        loop = asyncio.get_running_loop()
        self._generations += 1
        crew = _Crew(self._generations, pickled)
        crew.seats += [_Seat(crew, device, loop.create_future()) for device in self._devices]
        for seat in crew.seats:
            self._seats.add(seat)
            seat.task = asyncio.create_task(self._keep(seat), name=f"pool-{seat.device}")
            seat.task.add_done_callback(self._left)
        try:
            await asyncio.gather(*(seat.ready for seat in crew.seats))
            if self._closed is not None:
                raise self._closed
        except BaseException:
            await self._dismiss(crew.seats)
            raise
        return crew

    async def _dismiss(self, seats: Sequence[_Seat]) -> None:
        tasks = [seat.task for seat in seats if seat.task is not None]
        for seat in seats:
            seat.retiring = True
            if seat.task is not None:
                seat.task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep(self, seat: _Seat) -> None:
        """Keep a worker in the seat, one process after the other."""
        try:
            while True:
                cause = await self._live(seat)
                if seat.retiring:
                    return
                if not seat.ready.done():
                    seat.ready.set_exception(PoolError(f"no worker could be made ready on {seat.device}: {cause}"))
                    return
                self.restarts += 1
                wait_s = min(self._longest_backoff_s, self._backoff_s * 2.0 ** min(seat.deaths, 32))
                seat.deaths += 1
                log.warning("worker died", device=seat.device, cause=cause, restart_in_s=wait_s)
                await asyncio.sleep(wait_s)
        finally:
            self._seats.discard(seat)
            for part in seat.in_flight:
                _refuse(part.outcome, self._closed or PoolError(f"the worker on {seat.device} was dismissed"))
            if not seat.ready.done():
                seat.ready.set_exception(self._closed or PoolError(f"the worker on {seat.device} was dismissed"))

    def _left(self, task: asyncio.Task[None]) -> None:
        """A seat that ends by an error of our own must not leave its callers waiting for ever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pool failed", error=type(error).__name__, exc_info=error)
            self._closed = PoolError(f"the pool failed: {type(error).__name__}: {error}")
            for part in self._queue:
                _refuse(part.outcome, self._closed)
            self._queue.clear()

    async def _live(self, seat: _Seat) -> str:
        """One process from its start to its death; says what it died of."""
        try:
            process = await WorkerProcess.start(seat.device, seat.crew.make_scorer)
        except OSError as error:
            return f"no process could be started: {error}"
        try:
            try:
                async with asyncio.timeout(self._start_timeout_s):
                    hello = await process.receive()
            except TimeoutError:
                process.kill(f"was not ready within {self._start_timeout_s:g} s")
                return await process.end()
            if isinstance(hello, Unbuildable):
                log.error("scorer cannot be built", device=seat.device, where=hello.where)
                return hello.reason
            assert isinstance(hello, Ready)
            log.info("worker ready", device=seat.device, pid=process.pid, revision=hello.description.model_revision)
            seat.description = hello.description
            seat.process = process
            if not seat.ready.done():
                seat.ready.set_result(hello.description)
            self._dispatch()
            return await self._serve(seat, process)
        except WorkerGone as death:
            return str(death)
        finally:
            seat.process = None
            self._watch(seat)
            await process.end()

    async def _serve(self, seat: _Seat, process: WorkerProcess) -> str:
        """Take answers until the process dies, breaks or is retired; what it had in flight then runs elsewhere."""
        assert seat.description is not None
        description, generation = seat.description, seat.crew.generation
        try:
            while not (seat.retiring and not seat.in_flight):
                message = await process.receive()
                if isinstance(message, Answered | Failed):
                    part = seat.in_flight.popleft()
                    self._watch(seat)
                    seat.deaths = 0
                    _settle(part, Outcome(message, description, generation))
                if isinstance(message, Failed | Broken):
                    log.warning("scorer raised", device=seat.device, error=message.error, where=message.where)
                if isinstance(message, Broken):
                    raise WorkerGone(message.reason)
                self._dispatch()
        except WorkerGone as death:
            seat.process = None
            lost, seat.in_flight = seat.in_flight, deque()
            if lost:
                # Only the first had been begun; the others are not suspected.
                suspect = lost.popleft()
                self._queue.extendleft(reversed(lost))
                _settle(suspect, Outcome(Died(str(death), hung=process.killed), description, generation))
            self._dispatch()
            return str(death)
        return "retired"


def _settle(part: _Part, outcome: Outcome) -> None:
    if not part.outcome.done():
        part.outcome.set_result(outcome)


def _refuse(future: asyncio.Future[Outcome], reason: PoolError) -> None:
    if not future.done():
        future.set_exception(reason)
