"""An idempotent producer that sends a window's messages as a few batches.

It overrides internals of faust-streaming 0.15.3, which is pinned; ``tests/streams/test_transport.py`` fails if they
change. It knows nothing of what the messages are.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import aiokafka
import structlog
from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError, ProducerClosed
from faust.transport.drivers import aiokafka as driver

from earlybell.streams.partitioning import partitions_of

log = structlog.get_logger(__name__)

#: How long a stop waits for the broker to acknowledge what is on its way. What is lost by then is sent again by the
#: partition's next owner, and has the same ids.
STOP_S = 5.0


class Outgoing(NamedTuple):
    """A message to send."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Producer(driver.Producer):
    """Sends messages in batches, and is replaced when a batch has failed."""

    logger = driver.logger
    _producer: aiokafka.AIOKafkaProducer | None
    _unanswered_since: float | None = None

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
            await _send_batches(producer, topic, messages)
        except KafkaError:
            # An idempotent producer numbers its batches, and aiokafka does not reuse the number of a batch that failed:
            # the broker would refuse every later batch as out of order. A new producer starts from zero.
            await self._replace(producer)
            raise

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


async def _send_batches(producer: Any, topic: str, messages: Sequence[Outgoing]) -> None:
    partitions = sorted(await producer.partitions_for(topic))
    by_partition: dict[int, list[Outgoing]] = {}
    for message, place in zip(messages, _places(messages, len(partitions)), strict=True):
        by_partition.setdefault(partitions[place], []).append(message)
    pending: list[Awaitable[Any]] = []
    for partition, outgoing in by_partition.items():
        pending += [
            await producer.send_batch(batch, topic, partition=partition) for batch in _batches(producer, outgoing)
        ]
    results = await asyncio.gather(*pending, return_exceptions=True)
    for failure in (result for result in results if isinstance(result, BaseException)):
        raise failure


def _places(messages: Sequence[Outgoing], partitions: int) -> list[int]:
    """Return each message's place among the partitions: by its key, or at random without one."""
    places: list[int] = partitions_of([message.key or b"" for message in messages], partitions).tolist()
    return [
        random.randrange(partitions) if message.key is None else place
        for message, place in zip(messages, places, strict=True)
    ]


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
