"""A Faust transport in which a fetch is one event.

Faust's overhead is per event: two tasks, a queue and a stream step. This transport hands an agent up to a few hundred
messages of a topic, whatever their partitions, as one event, whose value is a `Chunk`, which divides the overhead by
that number. Everything else is still Faust's: agents, groups, rebalances and commits.

The exception is the book of offsets (`streams.offsets`), because Faust acknowledges in several places where nothing was
processed: when an agent raises, when ``take()`` is cancelled, when a stream skips an event during a rebalance. Here a
chunk is safe only once `Chunk.acknowledge` has been called.

It overrides internals of faust-streaming 0.15.3, which is pinned; ``tests/streams/test_transport.py`` fails if they
change.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import faust
import structlog
import uvloop
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from earlybell.streams import connections, metrics
from earlybell.streams.consumer_thread import STOP_S, ConsumerThread
from earlybell.streams.fetching import Message, Unreadable, end_of
from earlybell.streams.offsets import OffsetBook, Ticket
from earlybell.streams.producer import Producer

log = structlog.get_logger(__name__)

connections.install()

#: How long a rebalance or a shutdown waits for work that was handed out. What is not safe by then is read again by the
#: partition's next owner, and its signals have the same ids.
DRAIN_S = 10.0
#: How often a role asks whether it is kept out of its group.
GROUP_CHECK_S = 1.0
#: A chunk is also full at this part of the bytes that may be waiting.
CHUNKS_PER_BUDGET = 16


class Chunk:
    """Messages fetched from a topic, those of each partition in offset order: the value of an event."""

    __slots__ = ("_tickets", "records", "topic")

    def __init__(self, topic: str, records: Sequence[Message | Unreadable], tickets: Sequence[Ticket]) -> None:
        self.topic = topic
        self.records = records
        self._tickets = tickets

    def acknowledge(self) -> None:
        """Mark every message as safe: their offsets may be committed, unless the partition has been revoked since."""
        for ticket in self._tickets:
            ticket.safe = True

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<Chunk of {self.topic}: {len(self.records)} messages of {len(self._tickets)} partitions>"


class Lag(NamedTuple):
    """How far behind a partition is."""

    messages: int  # from the first that is not safe to the end of the log
    oldest_s: float  # age of the oldest message in work, since the broker took it in; 0 if there is none


class Consumer(driver.Consumer):
    """Hands over chunks, and commits what the book says is safe."""

    logger = driver.logger
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.book: OffsetBook[TP] = OffsetBook()
        # Counts the moments after which a fetch under way may no longer follow what was handed out.
        self._upheavals = 0
        self._positions_agree = True
        self._committing = asyncio.Lock()
        self._abandoned = False  # the role stops, and the broker does not answer

    def _new_consumer_thread(self) -> ConsumerThread:
        thread = ConsumerThread(self, loop=self.loop, beacon=self.beacon, thread_loop=uvloop.new_event_loop())
        thread._close_thread_loop_on_stop = True  # as if it had made the loop, which would be asyncio's slower one
        return thread

    # Fetching

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109 (Faust's name)
        """Fetch once, and yield the messages in chunks: one of each topic, or more that are full."""
        while not (self.flow_active or self.should_stop):
            await self.wait(self.can_resume_flow)
        if self.should_stop:
            return
        if not self._positions_agree:
            await self._rewind()
        upheavals = self._upheavals
        # A partition is fetched only once its committed position is known.
        active = self._get_active_partitions() & self.book.partitions
        budgets = self._budgets(active)
        active = {tp for tp in active if budgets[tp.topic] > 0}
        if not active:
            await self.sleep(0.02)
            return
        # Whatever ends this early (a rebalance, a cancellation) throws fetched messages away, so that the client's
        # position no longer agrees with the book: see _rewind.
        self._positions_agree = False
        fetched = await self._thread.fetch(active, timeout, min(budgets[tp.topic] for tp in active))
        generation = self.app.consumer_generation_id
        limits = self.transport.chunk_messages, self.transport.fetched_bytes // CHUNKS_PER_BUDGET
        pieces = [list(_pieces(tp, records, *limits)) for tp, records in fetched.records.items()]
        for gathered in _gathered(_in_turns(pieces), *limits):
            if upheavals != self._upheavals:
                return
            yield gathered[0].tp, self._event(gathered, generation)
        if fetched.out_of_range:
            await self._reopen(fetched.out_of_range)
        elif upheavals == self._upheavals:
            self._positions_agree = True

    def _budgets(self, active: Iterable[TP]) -> dict[str, int]:
        """Return how many bytes of each topic may be fetched now. Each has its own, so that no topic stops another."""
        budgets = dict.fromkeys({tp.topic for tp in active}, self.transport.fetched_bytes)
        for tp, unsafe in self.book.unsafe_bytes().items():
            if tp.topic in budgets:
                budgets[tp.topic] -= unsafe
        return budgets

    async def _rewind(self) -> None:
        """Set the client back to the book's positions, after fetched messages were thrown away."""
        upheavals = self._upheavals
        positions = {tp: self.book.position(tp) for tp in self.book.partitions & self.assignment()}
        if positions:
            await self.seek_wait(positions)
        if upheavals == self._upheavals:
            self._positions_agree = True

    async def _reopen(self, out_of_range: Mapping[TP, int]) -> None:
        """Go on where there are messages, after positions turned out not to exist on the broker.

        Either they have expired unread, or the log has become shorter: the topic was made again, or a replica that
        lagged behind has become the leader. What is read again has the same ids, so go back to the group's committed
        offset, or to the earliest if that does not exist either.
        """
        upheavals = self._upheavals
        try:
            committed = await self._thread.committed_offsets(out_of_range)
            earliest = await self.earliest_offsets(*out_of_range)
        except KafkaError as error:
            log.warning("partition_not_reopened", reason=repr(error))  # the next fetch comes here again
            return
        if upheavals != self._upheavals:
            return
        for tp, position in out_of_range.items():
            offset, first = committed[tp], earliest[driver.ensure_aiokafka_TP(tp)]
            expired = position < first
            metrics.PARTITIONS_REOPENED.labels(reason="expired" if expired else "shortened").inc()
            reopened_at = offset if offset is not None and offset != position and offset >= first else first
            log.error(
                "partition_reopened",
                topic=tp.topic,
                partition=tp.partition,
                position=position,
                committed=offset,
                earliest=first,
                reopened_at=reopened_at,
                reason="messages have expired unread" if expired else "the log has become shorter",
            )
            self.book.reopen(tp, reopened_at)
        # At once: when the new log has grown past the offset that the broker has, nothing tells that it is an old one.
        await self.force_commit()

    def on_buffer_full(self, tp: TP) -> None:
        """Pause the whole topic: the event that fills the buffer may have messages of each of its partitions."""
        for active in [active for active in self._get_active_partitions() if active.topic == tp.topic]:
            super().on_buffer_full(active)

    def on_buffer_drop(self, tp: TP) -> None:
        """Fetch the topic again, at once: a fetch of the other topics may be waiting."""
        for paused in [paused for paused in self._buffered_partitions if paused.topic == tp.topic]:
            super().on_buffer_drop(paused)
        self._thread.wake()

    def _event(self, pieces: Sequence[_Piece], generation: int) -> ConsumerMessage:
        tickets = []
        for tp, records, size in pieces:
            first = records[0]
            tickets.append(self.book.hand_out(tp, first.offset, end_of(records[-1]), size, first.timestamp / 1000))
        tp, records, _ = pieces[0]
        first = records[0]
        message = ConsumerMessage(
            tp.topic,
            tp.partition,
            first.offset,
            first.timestamp / 1000.0,
            first.timestamp_type,
            None,
            None,
            Chunk(tp.topic, [record for piece in pieces for record in piece.records], tickets),
            None,
            None,
            None,
            tp,
            generation_id=generation,
        )
        # Faust's acknowledgement says nothing about the work (see the module's docstring). One that is made already is
        # not noted, which would keep the event's offset for a commit that never comes.
        message.acked = True
        return message

    async def _drain_messages(self, fetcher: Any) -> None:
        """Read for as long as the fetcher runs; each chunk waits until its agent's buffer has space."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                async for _, message in self.getmany(timeout=1.0):
                    await self.wait_first(self.callback(message), self.suspend_flow.wait())
                await asyncio.sleep(0)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    def lags(self) -> dict[TP, Lag]:
        """Return how far behind each partition is. May be called from any thread."""
        lags = {}
        for tp in self.book.partitions:
            end = self._thread.highwater(driver.ensure_aiokafka_TP(tp))
            with contextlib.suppress(KeyError):  # revoked in the meantime
                offset, since = self.book.oldest(tp)
                age = 0.0 if since is None else max(0.0, time.time() - since)
                lags[tp] = Lag(max(0, (end or offset) - offset), age)
        return lags

    # Rebalancing

    @Service.task
    async def _watch_group(self) -> None:
        """End the role if it cannot be a member of its group. A supervisor starts it again, when it may be one."""
        while not self.should_stop:
            await self.sleep(GROUP_CHECK_S)
            if (error := self._thread.group_error) is not None:
                raise error

    def stop_flow(self) -> None:
        """Hand over nothing more."""
        self._upheavals += 1
        super().stop_flow()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit what was handed out (Faust calls `wait_empty`), then forget the partitions."""
        self._upheavals += 1
        await super().on_partitions_revoked(revoked)
        self._upheavals += 1
        self.book.forget(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Start with an empty book; `perform_seek` fills it once the assignment is settled."""
        self._upheavals += 1
        self.book.begin({})
        await super().on_partitions_assigned(assigned, generation_id)
        log.info("partitions_assigned", group=self.app.conf.id, partitions=len(assigned))

    async def perform_seek(self) -> None:
        """Open the book at the committed offsets, or at the earliest if the group has none."""
        self._upheavals += 1
        self._positions_agree = False  # the next fetch sets the client to the book's positions
        committed = await self._thread.committed_offsets(self.assignment())
        positions = {tp: offset for tp, offset in committed.items() if offset is not None}
        if uncommitted := committed.keys() - positions.keys():
            earliest = await self.earliest_offsets(*uncommitted)
            positions |= {driver.TP(*tp): offset for tp, offset in earliest.items()}
        self._upheavals += 1
        self.book.begin(positions)

    async def wait_empty(self) -> None:
        """Wait for what was handed out to become safe, for a limited time, and commit it.

        A stop calls this twice. If nothing could be committed the first time, it does not wait again.
        """
        if self._abandoned:
            return
        await self.transport.drain(DRAIN_S)
        try:
            async with asyncio.timeout(STOP_S):
                # Not Faust's `commit`, which takes a cancellation for that of another commit and begins again.
                await self.force_commit()
        except TimeoutError:
            self._abandoned = self.should_stop or self.app.should_stop
        except asyncio.CancelledError:
            # A crash cancels the consumer's thread, and a commit in it: that must not cancel the stop of the rest.
            if (task := asyncio.current_task()) and task.cancelling():
                raise

    # Committing

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what the book says is safe."""
        async with self._committing:  # in order: of two commits under way, the older could arrive last
            offsets = self.book.committable()
            if not offsets or not await self._commit(offsets):
                return False
            self.book.committed(offsets)
            return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Skip Faust's livelock detector, which reads bookkeeping that this consumer does not do."""


class Transport(driver.Transport):
    """The transport of a Faust app.

    Parameters
    ----------
    chunk_messages
        The most messages in one event.
    fetched_bytes
        Fetch nothing more of a topic while messages of this many bytes of it are handed out and not safe.
    fetch_wait_ms
        While messages arrive, let the broker collect them for this long before it answers a fetch; 0: not at all.

    Attributes
    ----------
    drain
        Called before partitions are revoked, with a time limit in seconds: returns when what was handed out is safe,
        or the time is up. Set by whoever gathers chunks.
    """

    Consumer = Consumer
    Producer = Producer

    def __init__(
        self, url: Any, app: faust.App, *, chunk_messages: int, fetched_bytes: int, fetch_wait_ms: int
    ) -> None:
        super().__init__(url, app)
        self.chunk_messages = chunk_messages
        self.fetched_bytes = fetched_bytes
        self.fetch_wait_ms = fetch_wait_ms
        self.drain: Callable[[float], Awaitable[None]] = _nothing_to_drain


class ChunkSchema(faust.Schema):
    """Passes chunks through; the roles decode messages themselves, so that each fault can be told apart."""

    def loads_key(self, app: Any, message: Any, **options: Any) -> None:
        """A chunk has no key."""

    def loads_value(self, app: Any, message: Any, **options: Any) -> Chunk:
        """Return the chunk itself."""
        chunk: Chunk = message.value
        return chunk


async def _nothing_to_drain(timeout_s: float) -> None:
    """Return at once: without windows, no chunk is held back."""


class _Piece(NamedTuple):
    """Messages that follow each other in a partition."""

    tp: TP
    records: Sequence[Any]
    size: int  # in bytes


def _pieces(tp: TP, records: Sequence[Any], messages: int, size: int) -> Iterator[_Piece]:
    """Cut one partition's messages into pieces of up to `messages`, or fewer if they reach `size` bytes."""
    start = taken = 0
    for number, record in enumerate(records, start=1):
        taken += record.size
        if number - start >= messages or taken >= size:
            yield _Piece(tp, records[start:number], taken)
            start, taken = number, 0
    if start < len(records):
        yield _Piece(tp, records[start:], taken)


def _in_turns(queues: Iterable[Sequence[_Piece]]) -> Iterator[_Piece]:
    """Yield one piece of each partition in turn."""
    for turn in zip_longest(*queues):
        yield from (piece for piece in turn if piece is not None)


def _gathered(pieces: Iterable[_Piece], messages: int, size: int) -> Iterator[list[_Piece]]:
    """Put pieces of a topic together while they have up to `messages` and `size` bytes between them."""
    waiting: dict[str, tuple[list[_Piece], int, int]] = {}  # of each topic, with their messages and bytes
    for piece in pieces:
        before, count, taken = waiting.get(piece.tp.topic, ([], 0, 0))
        count, taken = count + len(piece.records), taken + piece.size
        if before and (count > messages or taken > size):
            yield before
            before, count, taken = [], len(piece.records), piece.size
        before.append(piece)
        waiting[piece.tp.topic] = before, count, taken
    for gathered, _, _ in waiting.values():
        yield gathered
