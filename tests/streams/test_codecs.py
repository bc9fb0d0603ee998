"""Feeds may compress with any of Kafka's codecs, and both of our clients read them."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress

import aiokafka.codec
import pytest
from aiokafka import AIOKafkaConsumer
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer, KafkaProducer

from earlybell.streams import codecs
from tests.patience import PATIENCE_S

CODECS = ["gzip", "lz4", "snappy", "zstd"]


@pytest.mark.parametrize("codec", CODECS)
async def test_every_codec_arrives_at_both_clients(kafka_bootstrap: str, topic_prefix: str, codec: str) -> None:
    topic, value = f"{topic_prefix}news", b"Meridian Freight raises its full-year outlook. " * 100
    with closing(KafkaProducer(bootstrap_servers=kafka_bootstrap, compression_type=codec)) as producer:
        producer.send(topic, value).get(PATIENCE_S)

    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), PATIENCE_S)
    finally:
        await consumer.stop()
    assert record.value == value

    with closing(
        KafkaConsumer(
            topic,
            bootstrap_servers=kafka_bootstrap,
            auto_offset_reset="earliest",
            consumer_timeout_ms=PATIENCE_S * 1000,
        )
    ) as synchronous:
        assert next(synchronous).value == value


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(max_size=300), repeats=st.integers(0, 200))
def test_decoders_agree_with_the_client(codec: str, data: bytes, repeats: int) -> None:
    payload = getattr(aiokafka.codec, f"{codec}_encode")(data * repeats)
    assert getattr(codecs, f"{codec}_decode")(payload, limit=len(data) * repeats) == data * repeats


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(max_size=300), limit=st.integers(0, 100_000))
def test_decoders_stop_at_the_limit(codec: str, data: bytes, limit: int) -> None:
    payload = getattr(aiokafka.codec, f"{codec}_encode")(data + b"\0" * (limit + 1))
    with pytest.raises(codecs.TooLargeError, match=f"larger than {limit} bytes"):
        getattr(codecs, f"{codec}_decode")(payload, limit=limit)


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(min_size=1, max_size=300), payload=st.binary(max_size=100), position=st.integers(0, 10_000))
def test_damaged_payloads_raise_only_value_errors(codec: str, data: bytes, payload: bytes, position: int) -> None:
    encoded = getattr(aiokafka.codec, f"{codec}_encode")(data)
    cut = position % len(encoded)
    for damaged in (payload, encoded[:cut], encoded[:cut] + payload + encoded[cut + 1 :]):
        with suppress(ValueError):
            assert len(getattr(codecs, f"{codec}_decode")(damaged, limit=1_000)) <= 1_000
