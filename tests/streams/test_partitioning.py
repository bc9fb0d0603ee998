"""Keys go to the partitions that every other Kafka client would choose."""

from __future__ import annotations

from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from earlybell.streams.partitioning import murmur2, partitions_of


@given(st.lists(st.binary(max_size=40) | st.binary(min_size=500, max_size=520), max_size=20))
def test_murmur2_is_that_of_the_clients(keys: list[bytes]) -> None:
    assert murmur2(keys).tolist() == [reference(key) & 0xFFFFFFFF for key in keys]


@given(st.lists(st.text(max_size=80).map(str.encode), min_size=1, max_size=50), st.integers(1, 100))
def test_partitions_are_those_of_the_clients(keys: list[bytes], partitions: int) -> None:
    choose, numbers = DefaultPartitioner(), list(range(partitions))
    assert partitions_of(keys, partitions).tolist() == [choose(key, numbers, numbers) for key in keys]


def test_vectors_of_the_java_client() -> None:
    """From org.apache.kafka.common.utils.UtilsTest."""
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    assert murmur2(list(known)).astype("int32").tolist() == list(known.values())
