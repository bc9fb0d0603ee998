"""A Faust transport in which a fetch is one event.

Faust's overhead is per event: two tasks, a queue and a stream step. This transport hands an agent up to a few hundred
messages of one partition as one event, whose value is a `Chunk`, which divides the overhead by that number. Everything
else is still Faust's: agents, groups, rebalances and commits.

The exception is the book of offsets (`streams.offsets`), because Faust acknowledges in several places where nothing was
processed: when an agent raises, when ``take()`` is cancelled, when a stream skips an event during a rebalance. Here a
chunk is safe only once `Chunk.acknowledge` has been called.

It overrides internals of faust-streaming 0.15.3, which is pinned; ``tests/streams/test_transport.py`` fails if they
change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import aiokafka
import faust
import structlog
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from earlybell.streams.offsets import OffsetBook, Ticket

log = structlog.get_logger(__name__)

#: How long a rebalance or a shutdown waits for work that was handed out. What is not safe by then is read again by the
#: partition's next owner, and its signals have the same ids.
DRAIN_S = 10.0


class Chunk:
    """Messages fetched from one partition, in offset order: the value of an event."""

    __slots__ = ("_ticket", "partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[aiokafka.ConsumerRecord], ticket: Ticket) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self._ticket = ticket

    def acknowledge(self) -> None:
        """Mark every message as safe: their offsets may be committed, unless the partition has been revoked since."""
        self._ticket.safe = True

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<Chunk {self.topic}-{self.partition} [{self._ticket.first}, {self._ticket.end})>"


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread, except that a failed commit is retried later instead of crashing the app."""

    logger = driver.logger

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        assignment = self.assignment()
        assigned = {
            driver.ensure_aiokafka_TP(tp): aiokafka.structs.OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assignment
        }
        if not assigned:  # all were revoked in the meantime; aiokafka refuses an empty commit
            return False
        try:
            await consumer.commit(assigned)
        except KafkaError as error:
            # A rebalance has overtaken the commit, or the broker is away. The offsets are committed at the next
            # interval, or the messages are read again by the partition's next owner.
            log.warning("commit_failed", reason=repr(error))
            return False
        return len(assigned) == len(offsets)


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

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # Fetching

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109 (Faust's name)
        """Fetch once, and yield the messages in chunks, taking turns between partitions."""
        while not (self.flow_active or self.should_stop):
            await self.wait(self.can_resume_flow)
        if self.should_stop:
            return
        if not self._positions_agree:
            await self._rewind()
        upheavals = self._upheavals
        # A partition is fetched only once its committed position is known.
        active = self._get_active_partitions() & self.book.partitions
        if not active:
            await self.sleep(0.05)
            return
        records = await self._getmany(active_partitions=active, timeout=timeout)
        generation = self.app.consumer_generation_id
        for tp, chunk in _in_turns(records, self.transport.chunk_messages):
            if upheavals != self._upheavals:
                # A rebalance began during the fetch. These are thrown away, so the client's position no longer
                # agrees with the book: see _rewind.
                self._positions_agree = False
                return
            ticket = self.book.hand_out(tp, chunk[0].offset, chunk[-1].offset + 1)
            yield tp, self._event(tp, chunk, ticket, generation)

    async def _rewind(self) -> None:
        """Set the client back to the book's positions, after fetched messages were thrown away."""
        upheavals = self._upheavals
        positions = {tp: self.book.position(tp) for tp in self.book.partitions & self.assignment()}
        if positions:
            await self.seek_wait(positions)
        if upheavals == self._upheavals:
            self._positions_agree = True

    def _event(self, tp: TP, records: Sequence[Any], ticket: Ticket, generation: int) -> ConsumerMessage:
        first = records[0]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            first.offset,
            first.timestamp / 1000.0,
            first.timestamp_type,
            None,
            None,
            Chunk(tp.topic, tp.partition, records, ticket),
            None,
            None,
            None,
            tp,
            generation_id=generation,
        )

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

    # Rebalancing

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

    async def perform_seek(self) -> None:
        """Seek to the committed offsets, or to the earliest if the group has none, and open the book there."""
        self._upheavals += 1
        self._positions_agree = False
        committed = {driver.TP(*tp): offset for tp, offset in (await self.seek_to_committed()).items()}
        positions = {tp: offset for tp, offset in committed.items() if offset is not None and offset >= 0}
        if uncommitted := self.assignment() - positions.keys():
            earliest = await self.earliest_offsets(*uncommitted)
            positions |= {driver.TP(*tp): offset for tp, offset in earliest.items()}
        self._upheavals += 1
        self.book.begin(positions)

    async def wait_empty(self) -> None:
        """Wait for what was handed out to become safe, for a limited time, and commit it."""
        await self.transport.drain(DRAIN_S)
        await self.commit()

    # Committing

    def ack(self, message: ConsumerMessage) -> bool:
        """Ignore Faust's acknowledgement, which says nothing about the work (see the module's docstring)."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what the book says is safe."""
        offsets = self.book.committable()
        if not offsets or not await self._commit(offsets):
            return False
        self.book.committed(offsets)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Skip Faust's livelock detector, which reads bookkeeping that this consumer does not do."""


class Producer(driver.Producer):
    """An idempotent producer that sends a window's messages as a few batches instead of one by one."""

    logger = driver.logger

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def send_all(self, topic: str, messages: Sequence[Outgoing]) -> None:
        """Send messages and return when the broker has acknowledged every one of them.

        Raises
        ------
        KafkaError
            At least one was not acknowledged; any of the others may or may not be on the topic.
        """
        producer = self._ensure_producer()
        try:
            await self._send_batches(producer, topic, messages)
        except KafkaError:
            # An idempotent producer numbers its batches, and aiokafka does not reuse the number of a batch that failed:
            # the broker would refuse every later batch as out of order. A new producer starts from zero.
            await self._replace(producer)
            raise

    async def _send_batches(self, producer: Any, topic: str, messages: Sequence[Outgoing]) -> None:
        partitions = sorted(await producer.partitions_for(topic))
        choose = DefaultPartitioner()
        by_partition: dict[int, list[Outgoing]] = {}
        for message in messages:
            by_partition.setdefault(choose(message.key, partitions, partitions), []).append(message)
        pending: list[Awaitable[Any]] = []
        for partition, outgoing in by_partition.items():
            pending += [
                await producer.send_batch(batch, topic, partition=partition) for batch in _batches(producer, outgoing)
            ]
        results = await asyncio.gather(*pending, return_exceptions=True)
        for failure in (result for result in results if isinstance(result, BaseException)):
            raise failure

    async def _replace(self, producer: Any) -> None:
        replacement = self._new_producer()
        try:
            await replacement.start()
        except KafkaError as error:
            # There is no broker: the next attempt fails like this one, and tries again to replace the producer.
            log.warning("producer_replacement_failed", reason=repr(error))
            await replacement.stop()
            return
        self._producer = replacement
        await producer.stop()


class Outgoing(NamedTuple):
    """A message to send."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Transport(driver.Transport):
    """The transport of a Faust app.

    Parameters
    ----------
    chunk_messages
        The most messages in one event.

    Attributes
    ----------
    drain
        Called before partitions are revoked, with a time limit in seconds: returns when what was handed out is safe,
        or the time is up. Set by whoever gathers chunks.
    """

    Consumer = Consumer
    Producer = Producer

    def __init__(self, url: Any, app: faust.App, *, chunk_messages: int) -> None:
        super().__init__(url, app)
        self.chunk_messages = chunk_messages
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


def _in_turns(records: Mapping[TP, Sequence[Any]], size: int) -> Iterator[tuple[TP, Sequence[Any]]]:
    """Cut each partition's messages into chunks of `size`, and yield one of each partition in turn."""
    offset = 0
    left = {tp: messages for tp, messages in records.items() if messages}
    while left:
        for tp, messages in left.items():
            yield tp, messages[offset : offset + size]
        offset += size
        left = {tp: messages for tp, messages in left.items() if len(messages) > offset}


def _batches(producer: aiokafka.AIOKafkaProducer, messages: Sequence[Outgoing]) -> Iterator[Any]:
    batch = producer.create_batch()
    for message in messages:
        fields = {"timestamp": None, "key": message.key, "value": message.value, "headers": [*message.headers]}
        if batch.append(**fields) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(**fields)
    batch.close()
    yield batch
