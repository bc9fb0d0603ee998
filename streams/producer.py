"""An idempotent producer that sends a window's messages as a few batches.

It overrides internals of faust-streaming 0.15.3, which is pinned; ``tests/streams/test_transport.py`` fails if they
change. It knows nothing of what the messages are.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import aiokafka
import structlog
from aiokafka.conn import CloseReason
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    RecordListTooLargeError,
)
from faust.transport.drivers import aiokafka as driver

from earlybell.streams.message_size import size_of
from earlybell.streams.partitioning import partitions_of

log = structlog.get_logger(__name__)

#: How long a stop waits for the broker to acknowledge what is on its way. What is lost by then is sent again by the
#: partition's next owner, and has the same ids.
STOP_S = 5.0


_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class Outgoing(NamedTuple):
    """A message to send."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class MessagesTooLargeError(MessageSizeTooLargeError):
    """Some messages are larger than their topic takes. All others were acknowledged.

    Attributes
    ----------
    indices
        Their places among the messages that were to be sent.
    """

    def __init__(self, topic: str, indices: Sequence[int]) -> None:
        super().__init__(f"{len(indices)} messages are larger than topic {topic} takes")
        self.indices = indices


class _Failed(NamedTuple):
    """A batch that was not acknowledged."""

    indices: Sequence[int]  # of its messages
    size: int  # in bytes
    error: BaseException


class Producer(driver.Producer):
    """Sends messages in batches, and is replaced when a batch has failed."""

    logger = driver.logger
    _producer: aiokafka.AIOKafkaProducer | None
    _unanswered_since: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._batch_bytes: dict[str, float] = {}  # of topics that take less than a full batch

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    async def send_all(self, topic: str, messages: Sequence[Outgoing]) -> None:
        """Send messages and return when the broker has acknowledged every one of them.

        A topic limits the size of a batch (``max.message.bytes``). What it refuses is sent again in smaller ones.

        Raises
        ------
        MessagesTooLargeError
            Single messages are too large. All others were acknowledged.
        KafkaError
            At least one was not acknowledged; any of the others may or may not be on the topic.
        """
        left: Sequence[int] = range(len(messages))
        too_large: list[int] = []
        while left:
            producer = self._ensure_producer()
            try:
                failed = await _send_batches(producer, topic, messages, left, self._batch_bytes.get(topic, math.inf))
            except KafkaError:
                await self._replace(producer)
                raise
            if failed:
                await self._replace(producer)
            refused = [batch for batch in failed if isinstance(batch.error, _TOO_LARGE)]
            # The broker refuses what follows a refused batch, too: numbers are missing.
            followers = [batch for batch in failed if refused and isinstance(batch.error, OutOfOrderSequenceNumber)]
            if len(refused) + len(followers) < len(failed):
                raise next(batch.error for batch in failed if batch not in refused + followers)
            divided = [batch for batch in refused if len(batch.indices) > 1]
            if divided:
                # Smaller each time: at last each message has a batch of its own.
                before = self._batch_bytes.get(topic, math.inf)
                self._batch_bytes[topic] = min(before, *(batch.size for batch in divided)) / 2
                log.warning("batches_made_smaller", topic=topic, bytes=int(self._batch_bytes[topic]))
            too_large += [batch.indices[0] for batch in refused if len(batch.indices) == 1]
            left = sorted(index for batch in divided + followers for index in batch.indices)
        if too_large:
            raise MessagesTooLargeError(topic, too_large)

    async def flush(self) -> None:
        """Do nothing: `send_all` has waited already, and aiokafka would wait for ever for a broker that is away."""

    async def ping(self, timeout_s: float) -> None:
        """Return when a broker has answered.

        Raises
        ------
        KafkaError
            None does within the time.
        """
        if self._producer is None:
            raise KafkaConnectionError("there is no connection yet")
        client, now = self._producer.client, time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                answered = await client.force_metadata_update()
        except TimeoutError:
            answered = False
        if answered:
            self._unanswered_since = None
            return
        self._unanswered_since = self._unanswered_since or now
        if time.monotonic() - self._unanswered_since > client._request_timeout_ms / 1000:
            # aiokafka gives up a metadata request, but not its connection, which may be half-open for good. What else
            # was sent on it has been given up by now, too.
            for connection in list(client._conns.values()):
                connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            self._unanswered_since = None
        raise KafkaConnectionError(f"not within {timeout_s:g} s")

    async def on_stop(self) -> None:
        """Send what is on its way, but do not wait for a broker that does not answer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                async with asyncio.timeout(STOP_S):
                    await producer.stop()
            except TimeoutError:
                log.warning("producer_abandoned", after_s=STOP_S)
                await _abandon(producer)
        await super().on_stop()

    async def _replace(self, producer: Any) -> None:
        """Start a new producer.

        An idempotent producer numbers its batches, and aiokafka does not reuse the number of a batch that failed: the
        broker would refuse every later batch as out of order. A new producer starts from zero.
        """
        if self._producer is not producer:
            return  # stopped, or replaced by another call that failed
        replacement = self._new_producer()
        try:
            await replacement.start()
        except BaseException as error:
            await _abandon(replacement)
            if not isinstance(error, KafkaError):
                raise
            # There is no broker: the next attempt fails like this one, and tries again to replace the producer.
            log.warning("producer_replacement_failed", reason=repr(error))
            return
        self._producer = replacement
        await _abandon(producer)


async def _send_batches(
    producer: Any, topic: str, messages: Sequence[Outgoing], indices: Sequence[int], batch_bytes: float
) -> list[_Failed]:
    """Send some of the messages, in batches of this size or one message, and return the batches that failed."""
    partitions = sorted(await producer.partitions_for(topic))
    by_partition: dict[int, list[int]] = {}
    places = _places([messages[index] for index in indices], len(partitions))
    for index, place in zip(indices, places, strict=True):
        by_partition.setdefault(partitions[place], []).append(index)
    pending: list[Awaitable[Any]] = []
    sent: list[tuple[Sequence[int], int]] = []
    for partition, part in by_partition.items():
        for batch, contents in _batches(producer, messages, part, batch_bytes):
            sent.append((contents, batch.size()))
            pending.append(await producer.send_batch(batch, topic, partition=partition))
    results = await asyncio.gather(*pending, return_exceptions=True)
    return [
        _Failed(contents, size, result)
        for (contents, size), result in zip(sent, results, strict=True)
        if isinstance(result, BaseException)
    ]


def _places(messages: Sequence[Outgoing], partitions: int) -> list[int]:
    """Return each message's place among the partitions: by its key, or at random without one."""
    places: list[int] = partitions_of([message.key or b"" for message in messages], partitions).tolist()
    return [
        random.randrange(partitions) if message.key is None else place
        for message, place in zip(messages, places, strict=True)
    ]


def _batches(
    producer: aiokafka.AIOKafkaProducer, messages: Sequence[Outgoing], indices: Sequence[int], batch_bytes: float
) -> Iterator[tuple[Any, Sequence[int]]]:
    """Yield batches, each with the indices of its messages."""
    batch, contents = producer.create_batch(), list[int]()
    for index in indices:
        message = messages[index]
        fields = {"timestamp": None, "key": message.key, "value": message.value, "headers": [*message.headers]}
        full = contents and batch.size() + size_of(message) > batch_bytes
        if full or batch.append(**fields) is None:
            batch.close()
            yield batch, contents
            batch, contents = producer.create_batch(), []
            batch.append(**fields)
        contents.append(index)
    batch.close()
    yield batch, contents


async def _abandon(producer: Any) -> None:
    """Close a producer without waiting for what it was sending."""
    producer._closed = True
    producer._message_accumulator.fail_all(ProducerClosed())
    # Without a connection its requests fail at once; its sender waits for them before it ends.
    client = producer.client
    await client.close()
    # One that failed earlier waits for new metadata, which a closed client does not ask for.
    if client._md_update_fut is not None:
        client._md_update_fut.set_result(False)
    with contextlib.suppress(KeyError):  # a request that wanted to put back its batch, which has failed by now
        await producer._sender.close()
