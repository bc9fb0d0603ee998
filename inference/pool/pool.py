"""A pool of worker processes, one scorer each: windows of texts in, predictions out, even when workers die.

For asyncio callers. It knows nothing of Kafka or SQL, and leaves torch to the workers. The guarantee: each window is
returned exactly once, with one prediction or one fault for each text. A worker that dies is restarted and its windows
run again; the window that it was scoring is halved until a text that kills workers is alone. Failures that no text
causes (a broken device, a missing checkpoint) are retried with back-off and never become faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import structlog

from earlybell.inference.pool.bisection import Died, Outcome, WindowBisection, WindowResult
from earlybell.inference.pool.devices import PoolError, devices
from earlybell.inference.pool.process import WorkerGone, WorkerProcess
from earlybell.inference.pool.worker import Answered, Broken, BuildFailed, Failed, MakeScorer, Ready
from earlybell.inference.predictions import ModelDescription, Predictions

__all__ = ["MakeScorer", "Pool", "PoolError", "WindowResult", "devices"]

log = structlog.get_logger(__name__)

#: The policy of answers whose dial was chosen window by window. It does not name the dial, since a story that is scored
#: again, after a crash, must have the same id.
ADAPTIVE = "adaptive"


@dataclass(eq=False, slots=True)
class _Part:
    """A window or part of one, from the queue to a worker and back."""

    texts: list[str]
    timeout_s: float
    dial: float | None  # None: the scorer's own
    outcome: asyncio.Future[Outcome]

    def described(self, description: ModelDescription) -> ModelDescription:
        """Return the model as it scores this part."""
        return description if self.dial is None else replace(description, dial=self.dial, policy=ADAPTIVE)


@dataclass(eq=False, slots=True)
class _WorkerGroup:
    """The workers of one scorer. A hot swap starts a second group beside the first."""

    generation: int
    make_scorer: bytes
    slots: list[_WorkerSlot] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _WorkerSlot:
    """A place for one worker: each process that dies is replaced by another in the same slot."""

    group: _WorkerGroup
    device: str
    ready: asyncio.Future[ModelDescription]
    process: WorkerProcess | None = None  # None while it is not ready for windows
    description: ModelDescription | None = None
    in_flight: deque[_Part] = field(default_factory=deque)  # the first of them is being scored
    deaths: int = 0  # since the last reply
    retiring: bool = False
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class Pool:
    """Scores windows in worker processes, one per device.

    Parameters
    ----------
    make_scorer
        Called in each worker with its device's name. Must be picklable: a function of a module that
        the worker can import, which the main script is not, or a ``functools.partial`` of one.
    devices
        One worker each; see `devices`.
    windows_per_worker
        Windows that a worker holds: the one being scored and the next, so that it never waits for the parent.
    timeout_s
        A worker that takes longer than this to score a window is killed.
    kills_per_text
        How many workers must die while scoring a text alone before the text is reported as faulty.
    start_timeout_s
        How long a worker may take to build and warm up its scorer.
    backoff_s
        Wait before the first restart of a worker; doubles with each further death without a reply in between.
    longest_backoff_s
        Upper limit of that wait.
    mixed_arithmetic
        Let workers answer in different arithmetics, so that a story's answer and id depend on which one scores it.
        Otherwise such workers are an error.
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
        mixed_arithmetic: bool = False,
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
        self._mixed_arithmetic = mixed_arithmetic
        self._group: _WorkerGroup | None = None
        self._slots: set[_WorkerSlot] = set()  # of every group
        self._queue: deque[_Part] = deque()
        self._swapping = asyncio.Lock()
        self._generations = 0
        self._closed: PoolError | None = None
        #: Worker deaths so far, each followed by a restart.
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
        """The model that scores new windows, as the first device runs it.

        Raises
        ------
        PoolError
            Before `start`.
        """
        if self._group is None or (description := self._group.slots[0].description) is None:
            raise PoolError("the pool has not been started")
        return description

    @property
    def in_flight(self) -> int:
        """Windows, or parts of them, that workers hold. At most `capacity`, except during a hot swap."""
        return sum(len(slot.in_flight) for slot in self._slots)

    @property
    def waiting(self) -> int:
        """Windows, or parts of them, that wait for a worker."""
        return len(self._queue)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready for windows; of both models during a hot swap."""
        return sorted(slot.process.pid for slot in self._slots if slot.process is not None)

    async def start(self) -> ModelDescription:
        """Start the workers and return when each of them has built and warmed up its scorer.

        Raises
        ------
        PoolError
            A scorer cannot be built or warmed up (with the reason), the scorers' answers would differ, or the pool was
            started before. No worker is left running.
        """
        if self._group is not None or self._closed is not None:
            raise PoolError("the pool was started before; create a new one")
        async with self._swapping:
            self._group = await self._start_group(self._make_scorer)
        self._dispatch()
        log.info("pool_started", devices=self._devices, revision=self.description.served_revision)
        return self.description

    async def replace(self, make_scorer: MakeScorer) -> ModelDescription:
        """Swap in another scorer while the current one keeps working (hot swap).

        The new scorer is loaded in new processes, so a failure to load it cannot affect the windows in flight. The old
        scorer finishes those; later windows go to the new one. Returns when the old workers have exited.

        Raises
        ------
        PoolError
            The new scorer cannot be built; the old one stays in service.
        """
        async with self._swapping:
            if self._group is None:
                raise PoolError("the pool has not been started")
            new = await self._start_group(make_scorer)
            old, self._group = self._group, new
        self._dispatch()
        log.info("model_replaced", revision=self.description.served_revision)
        for slot in old.slots:
            slot.retiring = True
            if slot.process is not None and not slot.in_flight:
                slot.process.disconnect()
            elif slot.process is None and slot.task is not None:
                slot.task.cancel()  # dead and waiting to be restarted
        await asyncio.wait([slot.task for slot in old.slots if slot.task is not None])
        return self.description

    async def score(self, texts: Sequence[str], dial: float | None = None) -> WindowResult:
        """Score one window. Waits while every worker holds as many windows as it may.

        With a dial of its own, the window's policy is `ADAPTIVE`.
        May be called from many tasks at once. Cancelling one call does not affect the others: its window is removed
        from the queue, or its result discarded if a worker already has it.

        Raises
        ------
        PoolError
            The pool has not been started, or was stopped before the window was scored.
        """
        started = time.monotonic()
        description = self.description
        if not texts:
            return WindowResult(Predictions.concatenate([], description.labels), [], {}, 0.0, 0.0)
        window = WindowBisection(list(texts), self._kills_per_text)
        first = True
        while (span := window.next_span()) is not None:
            outcome = await self._score_part(
                list(window.texts(span)), self._timeout_s * window.timeout_share(span), dial, first
            )
            window.record(span, outcome)
            description = outcome.description
            first = False
        if window.faults:
            log.warning("texts_failed", faults=len(window.faults), texts=len(texts))
        elapsed_s, inference_s = time.monotonic() - started, window.inference_s
        return WindowResult(
            window.predictions(description.labels),
            window.descriptions(),
            dict(sorted(window.faults.items())),
            max(0.0, elapsed_s - inference_s),
            inference_s,
        )

    async def stop(self) -> None:
        """Stop every worker, even mid-window; pending calls of `score` raise `PoolError`. May be called twice."""
        await self._close(PoolError("the pool was stopped"))

    async def _close(self, reason: PoolError) -> None:
        self._closed = self._closed or reason
        for part in self._queue:
            _reject(part.outcome, reason)
        self._queue.clear()
        await self._stop_slots(list(self._slots))

    async def _score_part(self, texts: list[str], timeout_s: float, dial: float | None, first: bool) -> Outcome:
        if self._closed is not None:
            raise self._closed
        part = _Part(texts, timeout_s, dial, asyncio.get_running_loop().create_future())
        # A retry goes to the front: it was first in line before.
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
        """Send waiting parts to the least loaded workers until all of them are full."""
        while self._queue and self._group is not None:
            free = [
                slot
                for slot in self._group.slots
                if slot.process is not None
                and slot.process.connected
                and len(slot.in_flight) < self._windows_per_worker
            ]
            if not free:
                return
            part = self._queue.popleft()
            if part.outcome.done():  # its caller was cancelled
                continue
            slot = min(free, key=lambda slot: len(slot.in_flight))
            assert slot.process is not None
            slot.process.send(part.texts, part.dial)
            slot.in_flight.append(part)
            if len(slot.in_flight) == 1:
                self._restart_timer(slot)

    def _restart_timer(self, slot: _WorkerSlot) -> None:
        """Restart the time-out for the part that the worker is scoring now."""
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None
        if slot.in_flight and slot.process is not None:
            timeout_s = slot.in_flight[0].timeout_s
            slot.timer = asyncio.get_running_loop().call_later(
                timeout_s, slot.process.kill, f"sent no answer within {timeout_s:g} s"
            )

    async def _start_group(self, make_scorer: MakeScorer) -> _WorkerGroup:
        """Start a group and wait until all its workers are ready; if one fails, stop them and raise `PoolError`."""
        try:
            pickled = pickle.dumps(make_scorer)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise PoolError(
                f"make_scorer cannot be sent to a worker ({error}); it must be a module's function or a partial of one"
            ) from error
        loop = asyncio.get_running_loop()
        self._generations += 1
        group = _WorkerGroup(self._generations, pickled)
        group.slots += [_WorkerSlot(group, device, loop.create_future()) for device in self._devices]
        for slot in group.slots:
            self._slots.add(slot)
            slot.task = asyncio.create_task(self._supervise(slot), name=f"pool-{slot.device}")
            slot.task.add_done_callback(self._check_supervisor)
        try:
            descriptions = await asyncio.gather(*(slot.ready for slot in group.slots))
            if not all(self._agree(descriptions[0], description) for description in descriptions):
                answers = ", ".join(f"{each.device} as {each.served_revision}" for each in descriptions)
                raise PoolError(
                    f"the workers' answers would differ ({answers}): choose one precision and one kind of device, "
                    "or allow it with EARLYBELL_MIXED_ARITHMETIC=true"
                )
            if self._closed is not None:
                raise self._closed
        except BaseException:
            await self._stop_slots(group.slots)
            raise
        return group

    def _agree(self, one: ModelDescription, other: ModelDescription) -> bool:
        """Return whether two workers of one pool may answer as these descriptions say."""
        same_model = (one.model_revision, one.policy) == (other.model_revision, other.policy)
        return same_model and (one.arithmetic == other.arithmetic or self._mixed_arithmetic)

    async def _stop_slots(self, slots: Sequence[_WorkerSlot]) -> None:
        tasks = [slot.task for slot in slots if slot.task is not None]
        for slot in slots:
            slot.retiring = True
            if slot.task is not None:
                slot.task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _supervise(self, slot: _WorkerSlot) -> None:
        """Keep a worker process running in the slot, restarting it with back-off when it dies."""
        try:
            while True:
                cause = await self._run_process(slot)
                if slot.retiring:
                    return
                if not slot.ready.done():
                    slot.ready.set_exception(PoolError(f"no worker could be started on {slot.device}: {cause}"))
                    return
                self.restarts += 1
                backoff_s = min(self._longest_backoff_s, self._backoff_s * 2.0 ** min(slot.deaths, 32))
                slot.deaths += 1
                log.warning("worker_died", device=slot.device, cause=cause, restart_in_s=backoff_s)
                await asyncio.sleep(backoff_s)
        finally:
            self._slots.discard(slot)
            for part in slot.in_flight:
                _reject(part.outcome, self._closed or PoolError(f"the worker on {slot.device} was stopped"))
            if not slot.ready.done():
                slot.ready.set_exception(self._closed or PoolError(f"the worker on {slot.device} was stopped"))

    def _check_supervisor(self, task: asyncio.Task[None]) -> None:
        """Fail all callers if a supervising task ended with an error; they would wait forever otherwise."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pool_failed", error=type(error).__name__, exc_info=error)
            self._closed = PoolError(f"the pool failed: {type(error).__name__}: {error}")
            for part in self._queue:
                _reject(part.outcome, self._closed)
            self._queue.clear()

    async def _run_process(self, slot: _WorkerSlot) -> str:
        """Run one process in the slot until it ends; return the cause."""
        try:
            process = await WorkerProcess.start(slot.device, slot.group.make_scorer)
        except OSError as error:
            return f"no process could be started: {error}"
        try:
            try:
                async with asyncio.timeout(self._start_timeout_s):
                    message = await process.receive()
            except TimeoutError:
                process.kill(f"was not ready within {self._start_timeout_s:g} s")
                return await process.end()
            if isinstance(message, BuildFailed):
                log.error("scorer_build_failed", device=slot.device, where=message.where)
                return message.reason
            assert isinstance(message, Ready)
            if slot.description is not None and not self._agree(slot.description, message.description):
                before, now = slot.description.served_revision, message.description.served_revision
                return f"would answer as {now}, not as {before} like the worker that it replaces"
            log.info(
                "worker_started", device=slot.device, pid=process.pid, revision=message.description.served_revision
            )
            slot.description = message.description
            slot.process = process
            if not slot.ready.done():
                slot.ready.set_result(message.description)
            self._dispatch()
            return await self._serve(slot, process)
        except WorkerGone as death:
            return str(death)
        finally:
            slot.process = None
            self._restart_timer(slot)
            await process.end()

    async def _serve(self, slot: _WorkerSlot, process: WorkerProcess) -> str:
        """Receive replies until the process dies or is retired; requeue what it held and return the cause."""
        assert slot.description is not None
        description, generation = slot.description, slot.group.generation
        try:
            while not (slot.retiring and not slot.in_flight):
                message = await process.receive()
                if isinstance(message, Answered | Failed):
                    part = slot.in_flight.popleft()
                    self._restart_timer(slot)
                    slot.deaths = 0
                    _settle(part, Outcome(message, part.described(description), generation))
                if isinstance(message, Failed | Broken):
                    log.warning("scorer_raised", device=slot.device, error=message.error, where=message.where)
                if isinstance(message, Broken):
                    raise WorkerGone(message.reason)
                self._dispatch()
        except WorkerGone as death:
            slot.process = None
            lost, slot.in_flight = slot.in_flight, deque()
            if lost:
                # Only the first had been started; the others are not suspects.
                suspect = lost.popleft()
                self._queue.extendleft(reversed(lost))
                _settle(suspect, Outcome(Died(str(death), hung=process.killed), description, generation))
            self._dispatch()
            return str(death)
        return "retired"


def _settle(part: _Part, outcome: Outcome) -> None:
    if not part.outcome.done():
        part.outcome.set_result(outcome)


def _reject(future: asyncio.Future[Outcome], reason: PoolError) -> None:
    if not future.done():
        future.set_exception(reason)
