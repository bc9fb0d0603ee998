"""A pool of worker processes, one scorer each: windows of texts in, predictions out, even when workers die.

For asyncio callers. It knows nothing of Kafka or SQL, and leaves torch to the workers. The guarantee: each window is
returned exactly once, with one prediction or one fault for each text. A worker that dies is restarted; the windows that
it held are halved and run again, with nothing beside them, until a text that kills workers is alone. Failures that no
text causes (a broken device, a missing checkpoint) are retried with back-off and never become faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from types import TracebackType

import structlog

from earlybell.inference.pool.bisection import Outcome, WindowBisection, WindowResult
from earlybell.inference.pool.devices import PoolError, devices
from earlybell.inference.pool.worker import MakeScorer
from earlybell.inference.pool.worker_slot import Part, SlotLimits, WorkerSlot
from earlybell.inference.predictions import ModelDescription, Predictions

__all__ = ["MakeScorer", "Pool", "PoolError", "WindowResult", "devices"]

log = structlog.get_logger(__name__)


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
        Windows that a worker holds: it begins the next one while it finishes the first, if its scorer can.
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
        self._timeout_s = timeout_s
        self._kills_per_text = kills_per_text
        self._limits = SlotLimits(windows_per_worker, start_timeout_s, backoff_s, longest_backoff_s, mixed_arithmetic)
        self._slots: list[WorkerSlot] = []  # one for each device: where windows go
        self._running: set[WorkerSlot] = set()  # also those that a hot swap brings in, or takes out
        self._queue: deque[Part] = deque()
        self._swapping = asyncio.Lock()
        self._generations = 0
        self._closed: PoolError | None = None
        self._past_restarts = 0

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
        return len(self._devices) * self._limits.windows

    @property
    def description(self) -> ModelDescription:
        """The model that scores new windows, as the first device runs it.

        Raises
        ------
        PoolError
            Before `start`.
        """
        if not self._slots or (description := self._slots[0].description) is None:
            raise PoolError("the pool has not been started")
        return description

    @property
    def in_flight(self) -> int:
        """Windows, or parts of them, that workers hold. At most `capacity`, except during a hot swap."""
        return sum(slot.in_flight for slot in self._running)

    @property
    def waiting(self) -> int:
        """Windows, or parts of them, that wait for a worker."""
        return len(self._queue)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready for windows; of both models during a hot swap."""
        return sorted(slot.pid for slot in self._running if slot.pid is not None)

    @property
    def restarts(self) -> int:
        """Worker deaths so far, each followed by a restart."""
        return self._past_restarts + sum(slot.restarts for slot in self._running)

    async def start(self) -> ModelDescription:
        """Start the workers and return when each of them has built and warmed up its scorer.

        Raises
        ------
        PoolError
            A scorer cannot be built or warmed up (with the reason), the scorers' answers would differ, or the pool was
            started before. No worker is left running.
        """
        if self._slots or self._closed is not None:
            raise PoolError("the pool was started before; create a new one")
        async with self._swapping:
            self._slots = await self._start_slots(self._make_scorer)
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
            if not self._slots:
                raise PoolError("the pool has not been started")
            new = await self._start_slots(make_scorer)
            old, self._slots = self._slots, new
        self._dispatch()
        log.info("model_replaced", revision=self.description.served_revision)
        for slot in old:
            slot.retire()
        await asyncio.wait([slot.task for slot in old])
        return self.description

    async def score(self, texts: Sequence[str], dial: float | None = None) -> WindowResult:
        """Score one window. Waits while every worker holds as many windows as it may.

        With a dial of its own, the window's policy is `worker_slot.ADAPTIVE`.
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
        self._refuse(self._closed or PoolError("the pool was stopped"))
        await self._stop_slots(list(self._running))

    def _refuse(self, reason: PoolError) -> None:
        """Fail the callers whose parts wait for a worker, and all later ones."""
        self._closed = reason
        for part in self._queue:
            part.reject(reason)
        self._queue.clear()

    async def _score_part(self, texts: list[str], timeout_s: float, dial: float | None, first: bool) -> Outcome:
        if self._closed is not None:
            raise self._closed
        part = Part(texts, timeout_s, dial, not first, asyncio.get_running_loop().create_future())
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
        """Send waiting parts to the least loaded workers until none has room for the next."""
        while self._queue:
            free = [slot for slot in self._slots if slot.has_room_for(self._queue[0])]
            if not free:
                return
            part = self._queue.popleft()
            if not part.outcome.done():  # else its caller was cancelled
                min(free, key=lambda slot: slot.in_flight).take(part)

    async def _start_slots(self, make_scorer: MakeScorer) -> list[WorkerSlot]:
        """Start a worker on each device and wait for all to be ready; if one fails, stop them and raise `PoolError`."""
        try:
            pickled = pickle.dumps(make_scorer)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise PoolError(
                f"make_scorer cannot be sent to a worker ({error}); it must be a module's function or a partial of one"
            ) from error
        self._generations += 1
        slots = [
            WorkerSlot(device, pickled, self._generations, self._limits, dispatch=self._dispatch)
            for device in self._devices
        ]
        for slot in slots:
            self._running.add(slot)
            slot.task.add_done_callback(partial(self._end, slot))
        try:
            descriptions = await asyncio.gather(*(slot.ready for slot in slots))
            if not all(self._limits.compatible(descriptions[0], description) for description in descriptions):
                answers = ", ".join(f"{each.device} as {each.served_revision}" for each in descriptions)
                raise PoolError(
                    f"the workers' answers would differ ({answers}): choose one precision and one kind of device, "
                    "or allow it with EARLYBELL_MIXED_ARITHMETIC=true"
                )
            if self._closed is not None:
                raise self._closed
        except BaseException:
            await self._stop_slots(slots)
            raise
        return slots

    async def _stop_slots(self, slots: Sequence[WorkerSlot]) -> None:
        for slot in slots:
            slot.stop()
        if slots:
            await asyncio.wait([slot.task for slot in slots])

    def _end(self, slot: WorkerSlot, task: asyncio.Task[None]) -> None:
        """Wake everyone who waits for a slot whose task has ended; after an error, every caller of the pool."""
        self._running.discard(slot)
        self._past_restarts += slot.restarts
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pool_failed", error=type(error).__name__, exc_info=error)
            self._refuse(PoolError(f"the pool failed: {type(error).__name__}: {error}"))
        slot.reject(self._closed or PoolError(f"the worker on {slot.device} was stopped"))
