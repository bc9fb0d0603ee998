"""The thread in which a role's Kafka client runs: its settings, fetches by number and bytes, commits that may fail.

It overrides internals of faust-streaming 0.15.3, which is pinned; ``tests/streams/test_transport.py`` fails if they
change. It knows nothing of chunks or of the book of offsets: see `streams.transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence

import aiokafka
import structlog
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import ConsumerStoppedError, KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from earlybell.streams import codecs, metrics
from earlybell.streams.fetching import Fetched, Taker

log = structlog.get_logger(__name__)

#: How long a stop waits for the broker to hear of it. Without that the group learns of it when the session ends.
STOP_S = 5.0
#: How long the broker holds a fetch while no messages come; it answers at the first. aiokafka has one fetch per broker
#: under way, so this is how long a partition with messages may wait for those without.
IDLE_FETCH_WAIT_MS = 50
#: While messages come, the broker gathers them for the transport's `fetch_wait_ms`, unless they come faster than this:
#: a fetch costs the client as much as dozens of messages, however few it brings.
FETCH_BYTES_PER_MS = 6_400

codecs.install()


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread with our settings of the client, and without crashes where a retry will do."""

    logger = driver.logger

    def __post_init__(self) -> None:
        super().__post_init__()
        self._taker = Taker()

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            # The consumer sets every position itself, so that no message is skipped or read again in silence.
            auto_offset_reset="none",
            # Messages of a transaction count when it is committed, not before, and not if it is aborted.
            isolation_level="read_committed",
            fetch_max_wait_ms=IDLE_FETCH_WAIT_MS,
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )

    async def fetch(self, active: Iterable[TP], timeout: float, size: int) -> Fetched:  # noqa: ASYNC109 (Faust's name)
        """Take what has been fetched, up to `size` bytes; wait for it for up to `timeout` seconds, or until `wake`."""
        # Not `call_thread`, whose queue makes several tasks of each call.
        fetching = self._fetch(frozenset(active), timeout, size)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetching, self.thread_loop))

    async def _fetch(self, active: frozenset[TP], timeout: float, size: int) -> Fetched:  # noqa: ASYNC109
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if not self.consumer.flow_active:
            return Fetched()
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():
            if fetcher._subscriptions.reassignment_in_progress:
                await fetcher._subscriptions.wait_for_assignment()
            if fetched := self._taker.take(fetcher, active, messages=consumer._max_poll_records, size=size):
                self._gather(fetcher)
                return fetched
            waiter = fetcher._create_fetch_waiter()
            gathering_s = min(timeout, 2 * fetcher._fetch_max_wait_ms / 1000)
            await asyncio.wait([waiter], timeout=gathering_s)
            if not waiter.done():
                self._gather(fetcher, idle=True)
                await asyncio.wait([waiter], timeout=timeout - gathering_s)
            if not waiter.done():
                waiter.cancel()
                return Fetched()
            waiter.result()  # raises if the group cannot be joined
            self._gather(fetcher)
            return self._taker.take(fetcher, active, messages=consumer._max_poll_records, size=size)

    def _gather(self, fetcher: Fetcher, *, idle: bool = False) -> None:
        """Set what the next fetch asks the broker for: the first message that comes, or those of a short time."""
        wait_ms = self.consumer.transport.fetch_wait_ms
        idle = idle or wait_ms == 0
        # A partition brings no more than its limit, however long it is waited for.
        enough = min(wait_ms * FETCH_BYTES_PER_MS, fetcher._max_partition_fetch_bytes)
        fetcher._fetch_min_bytes = 1 if idle else enough
        fetcher._fetch_max_wait_ms = IDLE_FETCH_WAIT_MS if idle else wait_ms

    def wake(self) -> None:
        """Make a `fetch` that is waiting return."""
        with contextlib.suppress(RuntimeError):  # the thread has stopped
            self.thread_loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._consumer is not None:
            fetcher = self._consumer._fetcher
            for waiter in list(fetcher._fetch_waiters):
                fetcher._notify(waiter)

    @property
    def group_error(self) -> BaseException | None:
        """What keeps the client from being a member of its group. May be read from any thread.

        The group may not be joined, or no longer, or its members are of another kind: aiokafka's coordinator keeps the
        error and waits until somebody asks for it.
        """
        if self._consumer is None or (coordinator := self._consumer._coordinator) is None:
            return None
        running = coordinator._coordination_task
        error: BaseException | None = coordinator._pending_exception
        if running.done() and not running.cancelled():
            error = running.exception() or error
        return error

    async def committed_offsets(self, partitions: Iterable[TP]) -> dict[TP, int | None]:
        """Return the group's committed offset of each partition, None where there is none."""
        committed: dict[TP, int | None] = await self.call_thread(self._committed_offsets, list(partitions))
        return committed

    async def _committed_offsets(self, partitions: Sequence[TP]) -> dict[TP, int | None]:
        consumer = self._ensure_consumer()
        offsets = await asyncio.gather(*(consumer.committed(driver.ensure_aiokafka_TP(tp)) for tp in partitions))
        return dict(zip(partitions, offsets, strict=True))

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
            async with asyncio.timeout(self.app.conf.broker_request_timeout):
                await consumer.commit(assigned)
        except (KafkaError, TimeoutError) as error:
            # A rebalance has overtaken the commit, or the broker is away. The offsets are committed at the next
            # interval, or the messages are read again by the partition's next owner.
            metrics.COMMIT_FAILURES.inc()
            log.warning("commit_failed", reason=repr(error))
            return False
        return len(assigned) == len(offsets)

    async def on_thread_stop(self) -> None:
        """Leave the group, but do not wait for a broker that does not answer."""
        try:
            async with asyncio.timeout(STOP_S):
                await super().on_thread_stop()
        except TimeoutError:
            log.warning("consumer_abandoned", after_s=STOP_S)
            if self._consumer is not None:
                await self._consumer._client.close()
