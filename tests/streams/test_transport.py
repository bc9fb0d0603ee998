"""The transport on a real broker, with a test for each known trap of Faust and its clients."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from earlybell.streams import codecs
from earlybell.streams.consumer_thread import FETCH_BYTES_PER_MS, IDLE_FETCH_WAIT_MS, ConsumerThread
from earlybell.streams.fetching import Fetched, Taker
from earlybell.streams.producer import Producer
from earlybell.streams.settings import Settings
from earlybell.streams.transport import Chunk, Consumer, Transport, _gathered, _Piece
from tests.streams.chunk_workers import ChunkWorker, acknowledge, committed, ends, publish, until, working


def test_the_overridden_internals_have_not_changed() -> None:
    """Read streams/transport.py against the new Faust before changing this."""
    assert faust.__version__ == "0.15.3"
    overridden = {
        driver.Consumer: (Consumer, {
            "_new_consumer_thread", "getmany", "_drain_messages", "stop_flow", "on_partitions_revoked",
            "on_partitions_assigned", "perform_seek", "wait_empty", "force_commit", "verify_event_path",
            "on_buffer_full", "on_buffer_drop",
        }),
        driver.AIOKafkaConsumerThread: (ConsumerThread, {
            "__post_init__", "_commit", "_create_worker_consumer", "on_thread_stop",
        }),
        driver.Producer: (Producer, {"_settings_extra", "flush", "on_stop"}),
    }  # fmt: skip
    for base, (ours, names) in overridden.items():
        for name in names:
            expected = inspect.signature(getattr(base, name)).parameters
            assert list(expected) == list(inspect.signature(getattr(ours, name)).parameters), name
    used = {"_commit", "_get_active_partitions", "seek_wait", "earliest_offsets", "wait_first", "assignment",
            "callback"}  # fmt: skip
    source = inspect.getsource(driver.Consumer) + "".join(map(inspect.getsource, driver.Consumer.__mro__[1:-1]))
    assert {name for name in used if name not in source} == set()
    # wait_empty is where rebalances and shutdowns drain; perform_seek is where an assignment's positions are settled.
    assert "wait_empty" in inspect.getsource(faust.App)
    assert Transport.Consumer is Consumer


def test_the_internals_of_the_client_have_not_changed() -> None:
    """Read streams/fetching.py, producer.py and codecs.py against the new aiokafka before changing this."""
    assert aiokafka.__version__ == "0.14.0"
    for module in codecs._modules():
        assert module.gzip_decode is codecs.gzip_decode
        assert module.lz4_decode is codecs.lz4_decode
        assert module.snappy_decode is codecs.snappy_decode
    from aiokafka.record._crecords import default_records

    assert default_records.zstd_decode is codecs.zstd_decode


async def test_every_message_once_in_chunks_and_commits_the_ends(settings: Settings) -> None:
    publish(settings, (str(n).encode() for n in range(5_000)))
    small = settings.model_copy(update={"chunk_messages": 100})
    async with working(small, acknowledge) as worker:
        await until(lambda: len(worker.values) >= 5_000)
        await until(lambda: committed(settings) == ends(settings))
    assert Counter(worker.values) == Counter(str(n).encode() for n in range(5_000))
    assert max(map(len, worker.chunks)) <= 100
    for partition in range(settings.partitions):
        offsets = [offset for p, offset in worker.offsets if p == partition]
        assert offsets == sorted(offsets)


async def test_faust_notes_no_acknowledgement(settings: Settings) -> None:
    """Faust's streams note the offset of every event: 10 MB in an hour at 25 events/s."""
    async with working(settings, acknowledge) as worker:
        for number in range(20):
            await asyncio.to_thread(publish, settings, [b"%d" % number])
        await until(lambda: len(worker.values) == 20)
        assert len(worker.chunks) > 1
        consumer = worker.app.consumer
        await until(lambda: committed(settings) == ends(settings))
        assert not consumer._acked
        assert not consumer._acked_index


async def test_while_messages_come_the_broker_gathers_them_for_a_fetch(settings: Settings) -> None:
    """A fetch per message would cost the broker and the roles several times as much as the message itself."""
    gathering = settings.model_copy(update={"fetch_wait_ms": 500})
    async with working(gathering, acknowledge) as worker:
        publish(settings, [b"the first"], partition=0)
        await until(lambda: worker.values == [b"the first"])
        fetcher = worker.app.consumer._thread._ensure_consumer()._fetcher
        requests = count_fetches(fetcher)
        # The first message may answer a fetch that was sent while idle; the others cannot.
        for number in range(40):
            await asyncio.to_thread(publish, settings, [b"%d" % number], partition=0)
        await until(lambda: len(worker.values) == 41)
        # A partition brings 1 MiB at most, so the broker waits for no more.
        assert 500 * FETCH_BYTES_PER_MS > 2**20
        assert {(wait, least) for wait, least in requests if least > 1} == {(500, 2**20)}
        assert len(worker.chunks) < 30
        # When messages stop, the next fetch is not held back.
        await until(lambda: requests[-1] == (IDLE_FETCH_WAIT_MS, 1))


async def test_a_fetch_is_one_event_whatever_its_partitions(settings: Settings) -> None:
    gathering = settings.model_copy(update={"fetch_wait_ms": 500})
    async with working(gathering, acknowledge) as worker:
        publish(settings, [b"the first"], partition=0)
        await until(lambda: worker.values == [b"the first"])
        # They may answer two fetches: one is under way, and does not wait.
        await asyncio.to_thread(publish, settings, (b"%d" % number for number in range(100)))
        await until(lambda: len(worker.values) == 101)
        await until(lambda: committed(settings) == ends(settings))
    every = set(range(settings.partitions))
    assert any({record.partition for record in chunk.records} == every for chunk in worker.chunks)


def test_pieces_are_gathered_up_to_the_limits_of_a_chunk() -> None:
    def piece(topic: str, partition: int, first: int, messages: int, size: int) -> _Piece:
        return _Piece(TP(topic, partition), range(first, first + messages), size)

    pieces = [
        piece("news", 0, 0, 3, 30),
        piece("backfill", 0, 0, 1, 10),
        piece("news", 1, 0, 3, 30),
        piece("news", 2, 0, 5, 10),  # too many with the others
        piece("news", 0, 3, 1, 80),
        piece("news", 1, 3, 1, 20),  # too large with the others
        piece("news", 2, 5, 10, 500),  # too large, and alone
    ]
    events = list(_gathered(iter(pieces), messages=10, size=100))
    assert [[pieces.index(piece) for piece in event] for event in events] == [[0, 2], [3, 4], [5], [6], [1]]


def count_fetches(fetcher: Any) -> list[tuple[int, int]]:
    """Return a list to which each fetch that is sent from now on adds its wait and its least bytes."""
    requests: list[tuple[int, int]] = []
    send = fetcher._proc_fetch_request

    async def counting(assignment: Any, node: int, request: Any) -> Any:
        requests.append((fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes))
        return await send(assignment, node, request)

    fetcher._proc_fetch_request = counting
    return requests


async def test_a_partition_revoked_during_a_fetch_is_skipped(settings: Settings) -> None:
    """A rebalance in the consumer's thread can revoke a partition that the caller still lists as active."""
    publish(settings, [b"kept"], partition=0)
    publish(settings, [b"another's"], partition=1)
    kept, lost = (TopicPartition(settings.news_topic, partition) for partition in (0, 1))
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([kept, lost])
        fetcher = consumer._fetcher
        await until(lambda: {kept, lost} <= set(fetcher._records))
        consumer.assign([kept])
        fetched = Taker().take(fetcher, [kept, lost], messages=10, size=10_000)
        assert lost not in fetched.records
        assert lost not in fetcher._records
    finally:
        await consumer.stop()


async def test_gaps_in_the_offsets_are_skipped(settings: Settings) -> None:
    """A transaction's markers take up offsets that no consumer ever sees."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, transactional_id=settings.group_prefix)
    await producer.start()
    for number in range(30):
        async with producer.transaction():
            await producer.send(settings.news_topic, str(number).encode(), partition=0)
    await producer.stop()
    async with working(settings, acknowledge) as worker:
        await until(lambda: len(worker.values) >= 30)
        # The last marker is after the last message: nothing is left to read, although the end offset is higher.
        await until(lambda: committed(settings)[0] == worker.offsets[-1][1] + 1)
    assert [int(value) for value in worker.values] == list(range(30))
    assert worker.offsets[-1][1] > 30


async def test_an_unsafe_chunk_holds_the_commit_back(settings: Settings) -> None:
    publish(settings, (str(n).encode() for n in range(100)), partition=0)
    small = settings.model_copy(update={"chunk_messages": 10, "fetched_chunks": 20})
    held: list[Chunk] = []

    async def acknowledge_all_but_the_fourth(chunk: Chunk) -> None:
        if chunk.records[0].offset == 30:
            held.append(chunk)
        else:
            chunk.acknowledge()

    async with working(small, acknowledge_all_but_the_fourth) as worker:
        await until(lambda: len(worker.values) >= 100)
        await until(lambda: committed(settings)[0] == 30)
        await asyncio.sleep(3 * settings.commit_interval_s)
        assert committed(settings)[0] == 30
        held[0].acknowledge()
        await until(lambda: committed(settings)[0] == 100)


async def test_unsafe_chunks_of_a_stopped_worker_are_read_again(settings: Settings) -> None:
    publish(settings, (str(n).encode() for n in range(100)), partition=1)
    small = settings.model_copy(update={"chunk_messages": 10, "fetched_chunks": 20})

    async def acknowledge_the_first_half(chunk: Chunk) -> None:
        if chunk.records[0].offset < 50:
            chunk.acknowledge()

    async with working(small, acknowledge_the_first_half) as worker:
        await until(lambda: len(worker.values) >= 100)
    assert committed(settings)[1] == 50
    async with working(small, acknowledge) as second:
        await until(lambda: len(second.values) >= 50)
        await until(lambda: committed(settings)[1] == 100)
    assert [int(value) for value in second.values] == list(range(50, 100))


async def test_an_agent_that_raises_acknowledges_nothing(settings: Settings) -> None:
    """Faust acknowledges the event that an agent raised on. The book does not; the commit of a crash may not arrive."""
    publish(settings, (str(n).encode() for n in range(30)), partition=0)
    small = settings.model_copy(update={"chunk_messages": 10})

    async def raise_on_the_second(chunk: Chunk) -> None:
        if chunk.records[0].offset == 10:
            raise RuntimeError("an agent's bug")
        chunk.acknowledge()

    async with working(small, raise_on_the_second) as worker:
        await until(lambda: len(worker.values) >= 20)
        await asyncio.sleep(3 * settings.commit_interval_s)
    safe = committed(settings)[0] or 0
    assert safe in (0, 10)
    async with working(small, acknowledge) as second:
        await until(lambda: committed(settings)[0] == 30)
    assert [int(value) for value in second.values] == list(range(safe, 30))


async def test_a_full_buffer_pauses_its_partitions_and_nothing_is_lost(settings: Settings) -> None:
    publish(settings, (str(n).encode() for n in range(4_000)))
    small = settings.model_copy(update={"chunk_messages": 10, "fetched_chunks": 2})
    gate = asyncio.Event()

    async def wait_at_the_gate(chunk: Chunk) -> None:
        await gate.wait()
        chunk.acknowledge()

    async with working(small, wait_at_the_gate) as worker:
        await until(lambda: bool(worker.chunks))
        consumer: Consumer = worker.app.consumer
        await until(lambda: not consumer._get_active_partitions())
        await asyncio.sleep(1.0)
        # One in the agent, two in its buffer, and one waiting for the buffer.
        tickets = [ticket for column in consumer.book._columns.values() for ticket in column.open]
        assert sum(ticket.end - ticket.first for ticket in tickets) <= 4 * small.chunk_messages
        gate.set()
        await until(lambda: len(worker.values) >= 4_000)
        await until(lambda: committed(settings) == ends(settings))
    assert len(set(worker.offsets)) == len(worker.offsets) == 4_000


async def test_rebalances_under_load_lose_nothing(settings: Settings) -> None:
    """A second worker joins and leaves, twice, while messages keep coming and some chunks are slow."""
    least, sent = 6_000, 0
    done = asyncio.Event()
    small = settings.model_copy(update={"chunk_messages": 20})

    async def sometimes_slow(chunk: Chunk) -> None:
        await asyncio.sleep(0.2 if chunk.records[0].offset % 200 == 0 else 0.001)
        chunk.acknowledge()

    async def feed() -> None:
        nonlocal sent
        while sent < least or not done.is_set():  # until both have had some, however long it takes them to join
            await asyncio.to_thread(publish, settings, [str(n).encode() for n in range(sent, sent + 500)])
            sent += 500
            await asyncio.sleep(0.2)

    workers: list[ChunkWorker] = []
    async with working(small, sometimes_slow) as first:
        workers.append(first)
        feeding = asyncio.create_task(feed())
        for _ in range(2):
            await until(lambda: bool(first.chunks))
            async with working(small, sometimes_slow) as second:
                workers.append(second)
                await until(lambda second=second: bool(second.chunks))  # type: ignore[misc]
        done.set()
        await feeding
        await until(lambda: committed(settings) == ends(settings))
    seen = Counter(value for worker in workers for value in worker.values)
    assert set(seen) == {str(n).encode() for n in range(sent)}


async def test_what_was_fetched_before_a_rebalance_is_not_handed_out_after_it(settings: Settings) -> None:
    """It follows positions that no longer count: what lies before it would be skipped, and then committed over."""
    one = settings.model_copy(update={"commit_interval_s": 600.0})

    async def keep(chunk: Chunk) -> None:
        """Neither acknowledge nor forget: the group's offset stays at the start."""

    async with working(one, keep) as worker:
        await asyncio.to_thread(publish, one, [b"first"] * 50, partition=0)
        await until(lambda: len(worker.values) == 50)
        consumer: Consumer = worker.app.consumer
        fetch, armed, sought = consumer._thread.fetch, asyncio.Event(), asyncio.Event()

        async def overtaken(*arguments: Any) -> Fetched:
            fetched = await fetch(*arguments)
            if fetched.records and armed.is_set() and not sought.is_set():
                sought.set()
                await consumer.perform_seek()
            return fetched

        consumer._thread.fetch = overtaken  # type: ignore[assignment, method-assign]
        await asyncio.to_thread(publish, one, [b"second"] * 50, partition=0)  # for the fetch that waits already
        await until(lambda: len(worker.values) == 100)
        armed.set()
        await asyncio.to_thread(publish, one, [b"third"] * 50, partition=0)
        await until(lambda: len(worker.values) >= 250)
    assert [offset for _, offset in worker.offsets] == [*range(100), *range(150)]


async def test_a_stopped_worker_has_committed_what_was_safe(settings: Settings) -> None:
    patient = settings.model_copy(update={"commit_interval_s": 600.0})
    publish(settings, (str(n).encode() for n in range(500)))
    async with working(patient, acknowledge) as worker:
        await until(lambda: len(worker.values) >= 500)
        assert sum(committed(settings).values()) == 0
    assert committed(settings) == ends(settings)


async def test_a_commit_of_revoked_partitions_is_skipped(settings: Settings) -> None:
    async with working(settings, acknowledge) as worker:
        consumer: Consumer = worker.app.consumer
        await until(lambda: bool(consumer.book.partitions))
        assert not await consumer._commit({TP("another.topic", 0): 5})
    assert worker.app.crash_reason is None


@pytest.mark.parametrize("size", [0, 1, 255])
async def test_values_arrive_unchanged_and_a_tombstone_is_none(settings: Settings, size: int) -> None:
    value = bytes(range(256))[:size]
    publish(settings, [value, None], partition=0)  # type: ignore[list-item]
    async with working(settings, acknowledge) as worker:
        await until(lambda: len(worker.values) >= 2)
    assert worker.values == [value, None]
