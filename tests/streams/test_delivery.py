"""The offset book, the windows and the consumer together, against a model of Kafka: nothing is ever lost.

hypothesis draws what happens: messages, gaps, expiry, logs that become shorter, rebalances, crashes, a broker that
does not answer, work that fails, and windows that settle late. Time is virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import structlog
from faust.types import TP, ConsumerMessage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from earlybell.streams import app as pipeline_app
from earlybell.streams.fetching import Message
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.transport import Chunk, Consumer
from earlybell.streams.windows import Limits, Windows
from tests.streams.kafka_model import Broker, ConsumerThread, VirtualTime

PARTITIONS = [TP("news", number) for number in range(3)]
PARTITION = st.sampled_from(PARTITIONS)
SECONDS = st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.1, 2.5, 12.0])
SETTINGS = Settings(chunk_messages=2, fetched_chunks=2, fetched_bytes=600, commit_interval_s=1.0)


class Desk:
    """The windows' work: waits for permission, and may fail before or after its messages are safe."""

    def __init__(self, settled: set[bytes]) -> None:
        self.settled = settled
        self.may_work, self.may_settle = asyncio.Event(), asyncio.Event()
        self.may_work.set()
        self.may_settle.set()
        self.failures: list[str] = []

    async def work(self, items: Sequence[Message]) -> int:
        await self.may_work.wait()
        # Later windows may be done first.
        await asyncio.sleep(items[0].offset % 3 * 0.02)
        self._fail("work")
        return len(items)

    async def settle(self, items: Sequence[Message], result: int) -> None:
        assert result == len(items)
        await self.may_settle.wait()
        self._fail("before")
        self.settled |= {item.value for item in items if item.value is not None}
        self._fail("after")

    def _fail(self, moment: str) -> None:
        if moment in self.failures:
            self.failures.remove(moment)
            raise RuntimeError(f"failed as told: {moment}")


class Worker:
    """A consumer with an agent and windows behind it, as a role has them; the tasks are those that Faust runs."""

    def __init__(self, broker: Broker, settled: set[bytes]) -> None:
        self.desk = Desk(settled)
        self.windows = Windows[Message, int](self.desk.work, self.desk.settle, limits=Limits(3, 3, 0.0), in_flight=2)
        app = pipeline_app._app(Role.SCORING, SETTINGS)
        app.transport.drain = self.windows.drain
        self._buffer: asyncio.Queue[Chunk] = asyncio.Queue(SETTINGS.fetched_chunks)
        self.consumer: Consumer = app.transport.create_consumer(
            callback=self._deliver, on_partitions_revoked=self._revoked, on_partitions_assigned=self._assigned
        )
        self.thread = ConsumerThread(broker)
        self.consumer._thread = self.thread
        self.consumer.stop_flow()
        self.tasks: list[asyncio.Task[None]] = []
        self.generation = 0

    def start(self) -> None:
        self.windows.start()
        self.tasks = [asyncio.create_task(run()) for run in (self._fetch, self._agent, self._commit)]

    async def rebalance(self, partitions: Sequence[TP]) -> None:
        """Give up all partitions, then take these: what Faust does when its group changes."""
        self.consumer.stop_flow()
        await self.consumer.on_partitions_revoked(self.thread.assignment())
        self.thread.assign(partitions)
        self.generation += 1
        await self.consumer.on_partitions_assigned(set(partitions), self.generation)

    async def crash(self) -> None:
        """End everything at once, without a commit."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.windows.stop()

    async def _revoked(self, revoked: set[TP]) -> None:
        await self.consumer.wait_empty()
        while not self._buffer.empty():  # Faust clears its agents' buffers
            self._buffer.get_nowait()

    async def _assigned(self, assigned: set[TP], generation: int) -> None:
        self.consumer.app.consumer_generation_id = generation
        await self.consumer.perform_seek()
        self.consumer.resume_flow()

    async def _deliver(self, message: ConsumerMessage) -> None:
        await self._buffer.put(message.value)
        if self._buffer.full():
            self.consumer.on_buffer_full(message.tp)

    async def _fetch(self) -> None:
        await self.consumer._drain_messages(self.consumer)

    async def _agent(self) -> None:
        while True:
            chunk = await self._buffer.get()
            for tp in PARTITIONS:
                self.consumer.on_buffer_drop(tp)
            await self.windows.add(chunk, [(record, 1) for record in chunk.records])  # type: ignore[misc]

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(SETTINGS.commit_interval_s)
            await self.consumer.commit()


class Delivery(RuleBasedStateMachine):
    """What may happen to a role, and what must always hold."""

    def __init__(self) -> None:
        super().__init__()
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
        self.loop = VirtualTime()
        asyncio.set_event_loop(self.loop)
        self.broker = Broker(PARTITIONS)
        self.settled: set[bytes] = set()
        self.rebalancing: asyncio.Task[None] | None = None
        self.worker = self._start()

    def _start(self) -> Worker:
        async def start() -> Worker:
            worker = Worker(self.broker, self.settled)
            worker.start()
            return worker

        return self.loop.run_until_complete(start())

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            return await work()

        return self.loop.run_until_complete(run())

    def pass_time(self, seconds: float) -> None:
        self.run(lambda: asyncio.sleep(seconds))

    @initialize()
    def join(self) -> None:
        self.rebalance(set(PARTITIONS))
        self.publish()

    def publish(self) -> None:
        """Append a few messages to each partition; now and then after a gap."""
        for number, (tp, log) in enumerate(self.broker.logs.items()):
            # Once a shortened log has grown past an old position again, no client can tell: Kafka's own limit.
            positions = self.broker.committed.get(tp, 0), self.worker.thread.positions.get(tp, 0), self._book(tp)
            if max(positions) <= log.end:
                self.broker.append(tp, 1 + number, gap=2 if self.broker.published % 3 == 0 else 0)

    def suspend(self, event: asyncio.Event, seconds: float) -> None:
        """Clear an event for a while, in which other things happen."""
        event.clear()
        self.loop.call_later(seconds, event.set)

    # What happens on the broker

    @rule(tp=PARTITION, share=st.floats(0, 1))
    def expire(self, tp: TP, share: float) -> None:
        self.broker.expire(tp, share)

    @rule(tp=PARTITION, share=st.sampled_from([0.0, 0.0, 0.5, 0.9]))
    def shorten(self, tp: TP, share: float) -> None:
        self.broker.shorten(tp, int(self.broker.logs[tp].end * share))

    @rule(seconds=SECONDS)
    def answer_nothing(self, seconds: float) -> None:
        self.suspend(self.worker.thread.reachable, seconds)

    @rule(seconds=SECONDS)
    def delay_commits(self, seconds: float) -> None:
        self.suspend(self.worker.thread.commits_arrive, seconds)

    @rule(refuses=st.booleans())
    def refuse_commits(self, refuses: bool) -> None:
        self.worker.thread.refuses_commits = refuses

    # What happens in the group

    @precondition(lambda self: self.rebalancing is None or self.rebalancing.done())
    @rule(assigned=st.sets(PARTITION))
    def rebalance(self, assigned: set[TP]) -> None:
        async def begin() -> asyncio.Task[None]:
            return asyncio.create_task(self.worker.rebalance(sorted(assigned)))

        self.rebalancing = self.run(begin)

    @rule()
    def crash(self) -> None:
        if self.rebalancing is not None:
            self.rebalancing.cancel()
        self.run(self.worker.crash)
        self.worker = self._start()
        self.rebalance(set(PARTITIONS))

    # What happens in the role

    @rule(seconds=SECONDS)
    def work_slowly(self, seconds: float) -> None:
        self.suspend(self.worker.desk.may_work, seconds)

    @rule(seconds=SECONDS)
    def settle_slowly(self, seconds: float) -> None:
        self.suspend(self.worker.desk.may_settle, seconds)

    @rule(seconds=SECONDS)
    def commit_while_a_window_settles(self, seconds: float) -> None:
        """By chance this is rare: without it, windows that acknowledge too early pass some runs of 200 examples."""
        self.settle_slowly(SETTINGS.commit_interval_s + seconds)
        self.run_for(SETTINGS.commit_interval_s + 0.1)

    @rule(moment=st.sampled_from(["work", "before", "after"]))
    def fail(self, moment: str) -> None:
        self.worker.desk.failures.append(moment)

    @rule(seconds=SECONDS)
    def run_for(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.publish()

    # What must hold

    @invariant()
    def time_passes(self) -> None:
        """Not an invariant, but what happens between any two of the rules."""
        self.pass_time(0.05)
        self.publish()

    @invariant()
    def no_task_has_ended(self) -> None:
        for task in [*self.worker.tasks, *([self.rebalancing] if self.rebalancing else [])]:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error
        assert not any(task.done() for task in self.worker.tasks)

    @invariant()
    def the_budget_holds(self) -> None:
        """Bytes that are waiting: the budget, and one fetch more."""
        assert sum(self.worker.consumer.book.unsafe_bytes().values()) <= SETTINGS.fetched_bytes + 18 * 50

    @invariant()
    def nothing_is_committed_that_is_not_safe(self) -> None:
        for tp, committed in self.broker.committed.items():
            log = self.broker.logs[tp]
            if committed <= log.end:
                unsafe = [o for o, m in log.messages.items() if o < committed and m.value not in self.settled]
                assert not unsafe, f"{tp} was committed at {committed}, but {unsafe} are not safe"

    def teardown(self) -> None:
        """Let everything go well, and wait: every message that the broker still has must be safe, and committed."""
        try:
            self.worker.thread.reachable.set()
            self.worker.thread.commits_arrive.set()
            self.worker.thread.refuses_commits = False
            self.worker.desk.may_work.set()
            self.worker.desk.may_settle.set()
            self.worker.desk.failures.clear()
            self.pass_time(30.0)  # longer than the longest back-off, and than a drain
            self.rebalance(set(PARTITIONS))
            self.pass_time(30.0)
            self.no_task_has_ended()
            self.nothing_is_committed_that_is_not_safe()
            for tp, log in self.broker.logs.items():
                assert {m.value for m in log.messages.values()} <= self.settled, f"messages of {tp} were lost"
                assert self.broker.committed.get(tp, 0) <= log.end, f"{tp}: the committed offset does not exist"
                if log.messages:
                    assert max(log.messages) < self.broker.committed[tp]
        finally:
            self.run(self.worker.crash)
            self.loop.close()

    def _book(self, tp: TP) -> int:
        book = self.worker.consumer.book
        return book.position(tp) if tp in book.partitions else 0


@pytest.mark.parametrize("wait_s", [0.05, 0.15, 0.25])  # before a commit that is tried again, or after it
def test_a_commit_that_arrives_late_does_not_count_for_a_log_that_was_made_again(wait_s: float) -> None:
    state = Delivery()
    try:
        state.join()
        tp = PARTITIONS[2]
        state.pass_time(0.5)
        state.worker.thread.commits_arrive.clear()
        state.pass_time(1.0)  # a commit is under way
        state.broker.shorten(tp, 0)
        state.pass_time(1.0 + wait_s)  # the fetch finds that its position is gone
        state.settle_slowly(5.0)
        state.worker.thread.commits_arrive.set()
        state.pass_time(0.7)
        for _ in range(3):
            state.broker.append(tp, 3, gap=0)
            state.pass_time(0.05)
            state.nothing_is_committed_that_is_not_safe()
    finally:
        state.teardown()


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    derandomize=True,
)


@pytest.mark.nightly
class TestDeliveryAtLength(TestDelivery):  # type: ignore[misc, valid-type]
    """The same with more of everything, and different each time."""

    settings = settings(max_examples=2_000, stateful_step_count=60)
