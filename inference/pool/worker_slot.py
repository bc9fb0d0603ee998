"""A place for one worker in a pool: start it, send it parts of windows, and replace it with back-off when it dies.

A slot knows its own worker and the parts that this worker holds. Which part goes where is for the pool to decide: it
hands out parts with `WorkerSlot.take`. A worker may begin a part before it has finished the one before, so when it dies
each part that it holds is a suspect. A suspect is scored alone from then on, which shows what it does to a worker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from earlybell.inference.pool.bisection import Died, Outcome
from earlybell.inference.pool.devices import PoolError
from earlybell.inference.pool.process import WorkerGone, WorkerProcess
from earlybell.inference.pool.worker import Answered, Broken, BuildFailed, Failed, Ready
from earlybell.inference.predictions import ModelDescription

log = structlog.get_logger(__name__)

#: The policy of answers whose dial was chosen window by window. It does not name the dial, since a story that is scored
#: again, after a crash, must have the same id.
ADAPTIVE = "adaptive"


@dataclass(eq=False, slots=True)
class Part:
    """A window or part of one, from the queue to a worker and back."""

    texts: list[str]
    timeout_s: float
    dial: float | None  # None: the scorer's own
    alone: bool  # a suspect: its worker may hold nothing else meanwhile
    outcome: asyncio.Future[Outcome]

    def described(self, description: ModelDescription) -> ModelDescription:
        """Return the model as it scores this part."""
        return description if self.dial is None else replace(description, dial=self.dial, policy=ADAPTIVE)

    def settle(self, outcome: Outcome) -> None:
        """Wake the caller with an outcome, unless it was cancelled."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def reject(self, reason: PoolError) -> None:
        """Wake the caller with an error, unless it was cancelled."""
        if not self.outcome.done():
            self.outcome.set_exception(reason)


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """What a pool's slots have in common; see `Pool` for the meaning of each."""

    windows: int
    start_timeout_s: float
    backoff_s: float
    longest_backoff_s: float
    mixed_arithmetic: bool

    def backoff_after(self, deaths: int) -> float:
        """Return the seconds to wait before a restart, after this many earlier deaths without a reply in between."""
        return min(self.longest_backoff_s, self.backoff_s * 2.0 ** min(deaths, 32))

    def compatible(self, one: ModelDescription, other: ModelDescription) -> bool:
        """Return whether two workers of one pool may answer as these descriptions say."""
        same_model = (one.model_revision, one.policy) == (other.model_revision, other.policy)
        return same_model and (one.arithmetic == other.arithmetic or self.mixed_arithmetic)


class WorkerSlot:
    """Keeps one worker running, from its creation in the event loop until `retire` or `stop`.

    Parameters
    ----------
    device
        What the worker's scorer is built for.
    make_scorer
        The pickled ``Callable[[str], Scorer]``.
    generation
        The hot swaps so far, for the outcomes.
    limits
        How many parts the worker may hold, and how it is started and restarted.
    dispatch
        Called when the worker can take another part.
    """

    def __init__(
        self,
        device: str,
        make_scorer: bytes,
        generation: int,
        limits: SlotLimits,
        *,
        dispatch: Callable[[], None],
    ) -> None:
        self.device = device
        self._make_scorer = make_scorer
        self._generation = generation
        self._limits = limits
        self._dispatch = dispatch
        self._process: WorkerProcess | None = None  # None while it is not ready for parts
        self._description: ModelDescription | None = None
        self._in_flight: deque[Part] = deque()  # in the order of their answers; all of them may have begun
        self._deaths = 0  # since the last reply
        self._retiring = False
        self._timer: asyncio.TimerHandle | None = None
        #: Worker deaths so far, each followed by a restart.
        self.restarts = 0
        #: The model, once the first worker has built it; an error if it could not.
        self.ready: asyncio.Future[ModelDescription] = asyncio.get_running_loop().create_future()
        #: Ends when the slot is empty for good.
        self.task = asyncio.create_task(self._supervise(), name=f"pool-{device}")

    @property
    def description(self) -> ModelDescription | None:
        """The model as the latest worker runs it; None before the first was ready."""
        return self._description

    @property
    def pid(self) -> int | None:
        """Process id of the worker, while it is ready for parts."""
        return None if self._process is None else self._process.pid

    @property
    def in_flight(self) -> int:
        """Parts that the worker holds."""
        return len(self._in_flight)

    def has_room_for(self, part: Part) -> bool:
        """Return whether the worker can take this part now."""
        if self._process is None or not self._process.connected:
            return False
        if part.alone or any(held.alone for held in self._in_flight):
            return not self._in_flight
        return len(self._in_flight) < self._limits.windows

    def take(self, part: Part) -> None:
        """Send a part to the worker, which has room for it."""
        assert self._process is not None
        self._process.send(part.texts, part.dial)
        self._in_flight.append(part)
        if len(self._in_flight) == 1:
            self._restart_timer()

    def retire(self) -> None:
        """Let the worker finish the parts that it holds, then exit."""
        self._retiring = True
        if self._process is None:
            self.task.cancel()  # dead and waiting to be restarted
        elif not self._in_flight:
            self._process.disconnect()

    def stop(self) -> None:
        """Stop the worker, even mid-part."""
        self._retiring = True
        self.task.cancel()

    def reject(self, reason: PoolError) -> None:
        """Fail everyone who still waits for the slot, whose task has ended."""
        for part in self._in_flight:
            part.reject(reason)
        if not self.ready.done():
            self.ready.set_exception(reason)

    async def _supervise(self) -> None:
        """Keep a worker process running, restarting it with back-off when it dies."""
        while True:
            cause = await self._run_process()
            if self._retiring:
                return
            if not self.ready.done():
                self.ready.set_exception(PoolError(f"no worker could be started on {self.device}: {cause}"))
                return
            self.restarts += 1
            backoff_s = self._limits.backoff_after(self._deaths)
            self._deaths += 1
            log.warning("worker_died", device=self.device, cause=cause, restart_in_s=backoff_s)
            await asyncio.sleep(backoff_s)

    async def _run_process(self) -> str:
        """Run one process until it ends; return the cause."""
        try:
            process = await WorkerProcess.start(self.device, self._make_scorer)
        except OSError as error:
            return f"no process could be started: {error}"
        try:
            try:
                async with asyncio.timeout(self._limits.start_timeout_s):
                    message = await process.receive()
            except TimeoutError:
                process.kill(f"was not ready within {self._limits.start_timeout_s:g} s")
                return await process.end()
            if isinstance(message, BuildFailed):
                log.error("scorer_build_failed", device=self.device, where=message.where)
                return message.reason
            assert isinstance(message, Ready)
            description = message.description
            if self._description is not None and not self._limits.compatible(self._description, description):
                before, now = self._description.served_revision, description.served_revision
                return f"would answer as {now}, not as {before} like the worker that it replaces"
            log.info("worker_started", device=self.device, pid=process.pid, revision=description.served_revision)
            self._description = description
            self._process = process
            if not self.ready.done():
                self.ready.set_result(description)
            self._dispatch()
            return await self._serve(process, description)
        except WorkerGone as death:
            return str(death)
        finally:
            self._process = None
            self._restart_timer()
            await process.end()

    async def _serve(self, process: WorkerProcess, description: ModelDescription) -> str:
        """Receive replies until the process dies or is retired; hand back what it held and return the cause."""
        try:
            while not (self._retiring and not self._in_flight):
                message = await process.receive()
                if isinstance(message, Answered | Failed):
                    part = self._in_flight.popleft()
                    self._restart_timer()
                    self._deaths = 0
                    part.settle(Outcome(message, part.described(description), self._generation))
                if isinstance(message, Failed | Broken):
                    log.warning("scorer_raised", device=self.device, error=message.error, where=message.where)
                if isinstance(message, Broken):
                    raise WorkerGone(message.reason)
                self._dispatch()
        except WorkerGone as death:
            self._process = None
            lost, self._in_flight = self._in_flight, deque()
            died = Died(str(death), hung=process.killed, shared=len(lost) > 1)
            for suspect in lost:
                suspect.settle(Outcome(died, description, self._generation))
            return str(death)
        return "retired"

    def _restart_timer(self) -> None:
        """Restart the time-out for the part that the worker answers next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._in_flight and self._process is not None:
            timeout_s = self._in_flight[0].timeout_s
            self._timer = asyncio.get_running_loop().call_later(
                timeout_s, self._process.kill, f"sent no answer within {timeout_s:g} s"
            )
