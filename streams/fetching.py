"""Takes fetched messages out of aiokafka's fetcher, by number and by size, and passes over what cannot be decoded.

aiokafka raises when it meets a batch that it cannot decode (a wrong checksum, an unknown codec), fetches it again and
raises again: one such batch would stop its partition for good. Here it becomes an `Unreadable`, which takes the place
of the batch's messages. It overrides internals of aiokafka 0.14.0, which is pinned; ``tests/streams/test_transport.py``
fails if they change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchError, FetchResult, PartitionRecords
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from earlybell.streams.message_size import bytes_in_batch

log = structlog.get_logger(__name__)

#: How often a damaged batch is fetched before it is passed over: the damage may have happened on the network.
ATTEMPTS = 3


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message that was fetched. It takes two thirds of the time that the client's own ``ConsumerRecord`` takes."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # in ms since the epoch
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    size: int  # `size_of` it


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Offsets of one partition whose messages cannot be decoded: takes their place in a `streams.transport.Chunk`.

    It has a message's attributes, all empty.
    """

    topic: str
    partition: int
    offset: int
    end: int
    reason: str
    key: None = None
    value: None = None
    timestamp: int = -1
    timestamp_type: None = None
    size: int = 0

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """A message's headers: none."""
        return ()


@dataclass(slots=True)
class Fetched:
    """What one call took out of the fetcher.

    Attributes
    ----------
    records
        Messages, and `Unreadable` in place of those that cannot be decoded, in offset order.
    out_of_range
        Partitions whose position does not exist on the broker, and that position.
    """

    records: dict[TopicPartition, list[Any]] = field(default_factory=dict)
    out_of_range: dict[TopicPartition, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.records or self.out_of_range)


class Taker:
    """Takes messages out of a consumer's fetcher. All calls come from the consumer's thread."""

    def __init__(self) -> None:
        self._attempts: Counter[tuple[TopicPartition, int]] = Counter()

    def take(self, fetcher: Fetcher, active: Iterable[TopicPartition], *, messages: int, size: int) -> Fetched:
        """Take what has been fetched of the `active` partitions, and request more.

        Parameters
        ----------
        messages
            The most messages to take.
        size
            Stop after this many bytes; at least one message is taken.

        Raises
        ------
        KafkaError
            The fetcher found a fault that does not lie in the messages, such as a missing authorisation.
        """
        fetched = Fetched()
        # First: a rebalance may have revoked partitions that `active` still lists.
        for tp in [tp for tp in fetcher._records if not fetcher._subscriptions.is_assigned(tp)]:
            del fetcher._records[tp]
        ready = [tp for tp in fetcher._records if tp in active]
        for number, tp in enumerate(ready):
            if messages <= 0 or size <= 0:
                break
            entry = fetcher._records[tp]
            if isinstance(entry, FetchError):
                if not fetched.records:  # what has been taken must not be lost if this raises: it comes next time
                    self._remove(fetcher, tp)
                    self._note_error(entry, fetched)
                continue
            # Each partition gets its share, so that one full of messages does not hold up the others.
            share = max(1, messages // (len(ready) - number))
            records, taken = self._take_from(entry, tp, share, max(1, size // (len(ready) - number)))
            if not entry.has_more():
                self._remove(fetcher, tp)
            if records:
                fetched.records[tp] = records
                messages -= len(records)
                size -= taken
        return fetched

    def _take_from(self, result: FetchResult, tp: TopicPartition, messages: int, size: int) -> tuple[list[Any], int]:
        """Return messages of one partition and their size, and advance the partition's position past them."""
        if not result.has_more() or not result.check_assignment(tp):
            return [], 0
        partition_records = result._partition_records
        if not isinstance(partition_records._records_iterator, _Unpacking):
            partition_records._records_iterator = _Unpacking(partition_records, self._attempts)
        records: list[Any] = []
        taken = 0
        for record in partition_records._records_iterator:
            records.append(record)
            taken += record.size
            if len(records) >= messages or taken >= size:
                result._update_position()
                break
        else:
            result._update_position()
            result._partition_records = None
        return records, taken

    @staticmethod
    def _remove(fetcher: Fetcher, tp: TopicPartition) -> None:
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)

    @staticmethod
    def _note_error(entry: FetchError, fetched: Fetched) -> None:
        try:
            entry.check_raise()
        except OffsetOutOfRangeError as error:
            fetched.out_of_range.update(error.args[0])
        except NoOffsetForPartitionError:
            # The fetcher looked before the consumer had set the position, which it always does.
            return


class _Unpacking:
    """Iterates over the messages of a fetch, as `PartitionRecords` does, but survives what cannot be decoded."""

    def __init__(self, fetch: PartitionRecords, attempts: Counter[tuple[TopicPartition, int]]) -> None:
        self._fetch = fetch
        self._attempts = attempts
        self._messages = self._unpack()

    def __iter__(self) -> Iterator[Message | Unreadable]:
        return self._messages

    def __next__(self) -> Message | Unreadable:
        return next(self._messages)

    def _unpack(self) -> Iterator[Message | Unreadable]:
        fetch, batches = self._fetch, self._fetch._records
        topic, partition = fetch._tp
        while True:
            try:
                if not batches.has_next():
                    return
                batch = batches.next_batch()
                intact = batch.validate_crc()
            except Exception as fault:
                # Without its header nothing is known of the batch, not even where it ends.
                yield from self._pass_over(fetch.next_fetch_offset + 1, f"no batch: {_sentence(fault)}", damaged=True)
                return
            if batch.next_offset <= fetch.next_fetch_offset:
                continue
            if not intact:
                yield from self._pass_over(batch.next_offset, "the batch's checksum is wrong", damaged=True)
                if fetch.next_fetch_offset < batch.next_offset:
                    return
                continue
            try:
                for record in batch if self._is_for_consumers(batch) else ():
                    if (offset := record.offset) < fetch.next_fetch_offset:
                        continue  # before the position, in a batch that began earlier
                    key, value, headers = record.key, record.value, tuple(record.headers)
                    size = bytes_in_batch(key, value, headers)
                    fetch.next_fetch_offset = offset + 1
                    yield Message(
                        topic, partition, offset, record.timestamp, record.timestamp_type, key, value, headers, size
                    )
            except Exception as fault:
                yield from self._pass_over(batch.next_offset, _sentence(fault), damaged=False)
            # Offsets at the end of a batch may be missing: a compacted topic.
            fetch.next_fetch_offset = batch.next_offset

    def _is_for_consumers(self, batch: Any) -> bool:
        """Return whether the batch has messages that were committed, if it is part of a transaction."""
        fetch = self._fetch
        if fetch._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            fetch._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and fetch._contains_abort_marker(batch):
                fetch._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in fetch._aborted_producers:
                return False
        return not batch.is_control_batch

    def _pass_over(self, end: int, reason: str, *, damaged: bool) -> Iterator[Unreadable]:
        """Yield the `Unreadable` up to `end`; nothing if the batch is damaged and worth another fetch."""
        fetch, tp = self._fetch, self._fetch._tp
        first = fetch.next_fetch_offset
        self._attempts[tp, first] += 1
        if damaged and self._attempts[tp, first] < ATTEMPTS:
            log.warning("batch_damaged", topic=tp.topic, partition=tp.partition, offset=first, reason=reason)
            return
        del self._attempts[tp, first]
        log.error("batch_passed_over", topic=tp.topic, partition=tp.partition, offset=first, end=end, reason=reason)
        fetch.next_fetch_offset = end
        yield Unreadable(tp.topic, tp.partition, first, end, reason)


def end_of(record: Message | Unreadable) -> int:
    """Return the offset after a message, or after the messages that an `Unreadable` stands for."""
    return record.end if isinstance(record, Unreadable) else record.offset + 1


def _sentence(fault: Exception) -> str:
    return str(fault) or type(fault).__name__
