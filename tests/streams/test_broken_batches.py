"""Batches that cannot be decoded are passed over, loudly; those before and after them arrive."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
from kafka import KafkaProducer

from earlybell.deploy.local.stack import Stack
from earlybell.streams.brokers import client_options
from earlybell.streams.settings import Settings
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import acknowledge, committed, ends, publish, until, working
from tests.streams.log_segments import Batch, batches

CODECS = ["gzip", "lz4", "snappy", "zstd"]


@pytest.fixture
def own_broker(private_stack: Stack) -> Stack:
    if not private_stack.kafka.ours:
        pytest.skip("the broker's files are out of reach: unset EARLYBELL_KAFKA_BOOTSTRAP")
    return private_stack


@pytest.mark.parametrize("codec", CODECS)
async def test_every_codec_arrives_in_chunks(settings: Settings, codec: str) -> None:
    publish_compressed(settings, codec, [b"first" * 100, b"second" * 100, b"third" * 100])
    async with working(settings, acknowledge) as worker:
        await until(lambda: committed(settings) == ends(settings))
    assert worker.values == [b"first" * 100, b"second" * 100, b"third" * 100]


DAMAGE: dict[str, Callable[[Batch], None]] = {
    "bad checksum": Batch.flip_a_byte,
    "unknown codec": lambda batch: batch.change_codec(7),
    "not of that codec": lambda batch: batch.change_codec(4),
    "no records": Batch.scramble_records,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_a_broken_batch_is_passed_over(
    settings: Settings, own_broker: Stack, damage: Callable[[Batch], None]
) -> None:
    for start in (0, 10, 20):
        publish(settings, (str(n).encode() for n in range(start, start + 10)), partition=0)
    middle = next(batch for batch in batches(own_broker, settings.news_topic, 0) if batch.base_offset == 10)
    damage(middle)
    async with working(settings, acknowledge) as worker:
        await until(lambda: committed(settings) == ends(settings))
    assert worker.values == [str(n).encode() for n in [*range(10), *range(middle.end, 30)]]
    (unreadable,) = worker.unreadable
    assert (unreadable.offset, unreadable.end) == (10, middle.end)
    assert unreadable.reason


@pytest.mark.parametrize("codec", CODECS)
async def test_a_decompression_bomb_is_passed_over(settings: Settings, codec: str) -> None:
    """The messages of a batch are decompressed together, so a small batch could take all the memory there is."""
    publish_compressed(settings, codec, [b"before"])
    publish_compressed(settings, codec, [b"\0" * (18 if codec == "snappy" else 110) * 1_000_000])
    publish_compressed(settings, codec, [b"after"])
    async with working(settings, acknowledge) as worker:
        await until(lambda: committed(settings) == ends(settings))
    assert worker.values == [b"before", b"after"]
    (unreadable,) = worker.unreadable
    assert (unreadable.offset, unreadable.end) == (1, 2)
    assert "larger than" in unreadable.reason


def publish_compressed(settings: Settings, codec: str, values: list[bytes]) -> None:
    with closing(KafkaProducer(**client_options(settings), compression_type=codec, max_request_size=2**30)) as producer:
        for value in values:
            producer.send(settings.news_topic, value, partition=0).get(PATIENCE_S)
