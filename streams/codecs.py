"""Decompresses Kafka's batches up to a limit, in place of aiokafka's decoders, which have none.

A batch of 1 MiB can decompress to gigabytes, and aiokafka decompresses it as a whole before its first message can be
looked at: such a batch would kill every worker that reads it. `install` replaces the decoders in aiokafka 0.14.0,
which is pinned; ``tests/streams/test_codecs.py`` fails if it no longer uses them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import aiokafka.record.default_records
import aiokafka.record.legacy_records
import cramjam
import numpy as np

#: The most bytes that a batch may have when it is decompressed: many times the largest message that we accept.
MAX_BATCH_BYTES = 16 * 1_048_576

#: What the snappy library for Java writes before its blocks: a magic, its version, and the oldest that can read it.
_XERIAL = struct.Struct("!8s2i")
_XERIAL_MAGIC = b"\x82SNAPPY\0"
_BLOCK_LENGTH = struct.Struct("!I")


class TooLargeError(ValueError):
    """A batch decompresses to more bytes than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"larger than {limit} bytes when it is decompressed")


def gzip_decode(payload: Any, limit: int = MAX_BATCH_BYTES) -> bytes:
    """Decompress gzip, which may have several members.

    Raises
    ------
    TooLargeError
        The result has more than `limit` bytes.
    ValueError
        The payload is not gzip, or is cut short.
    """
    parts: list[bytes] = []
    rest, left = bytes(payload), limit
    while rest:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(rest, left + 1)
        except zlib.error as error:
            raise ValueError(f"not gzip: {error}") from error
        if len(part) > left:
            raise TooLargeError(limit)
        if not member.eof:
            raise ValueError("gzip that is cut short")
        parts.append(part)
        left -= len(part)
        rest = member.unused_data
    return b"".join(parts)


def snappy_decode(payload: Any, limit: int = MAX_BATCH_BYTES) -> bytes:
    """Decompress snappy: one block, or the Java library's sequence of blocks. Raises as `gzip_decode` does."""
    data = memoryview(bytes(payload))
    if len(data) < _XERIAL.size or data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return _snappy_block(data, limit, limit)
    blocks: list[bytes] = []
    left, position = limit, _XERIAL.size
    while position < len(data):
        if len(data) - position < _BLOCK_LENGTH.size:
            raise ValueError("snappy that is cut short")
        (length,) = _BLOCK_LENGTH.unpack_from(data, position)
        position += _BLOCK_LENGTH.size
        if length > len(data) - position:
            raise ValueError("snappy that is cut short")
        blocks.append(_snappy_block(data[position : position + length], left, limit))
        left -= len(blocks[-1])
        position += length
    return b"".join(blocks)


def _snappy_block(block: memoryview, left: int, limit: int) -> bytes:
    # A block starts with its decompressed length, which the decoder holds it to.
    try:
        if cramjam.snappy.decompress_raw_len(block) > left:
            raise TooLargeError(limit)
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as error:
        raise ValueError(f"not snappy: {error}") from error


def lz4_decode(payload: Any, limit: int = MAX_BATCH_BYTES) -> bytes:
    """Decompress an lz4 frame. Raises as `gzip_decode` does."""
    return _into_buffer(cramjam.lz4.decompress_into, "lz4", payload, limit)


def zstd_decode(payload: Any, limit: int = MAX_BATCH_BYTES) -> bytes:
    """Decompress zstd. Raises as `gzip_decode` does."""
    return _into_buffer(cramjam.zstd.decompress_into, "zstd", payload, limit)


def _into_buffer(decompress: Callable[[Any, Any], int], name: str, payload: Any, limit: int) -> bytes:
    # Uninitialised memory: the system hands out its pages when they are first written, so an unused rest costs nothing.
    buffer = np.empty(limit, np.uint8)
    try:
        length = decompress(bytes(payload), buffer)
    except cramjam.DecompressionError as error:
        if "whole buffer" in str(error):
            raise TooLargeError(limit) from error
        raise ValueError(f"not {name}: {error}") from error
    return buffer[:length].tobytes()


def install() -> None:
    """Make aiokafka use these decoders."""
    decoders = {decoder.__name__: decoder for decoder in (gzip_decode, snappy_decode, lz4_decode, zstd_decode)}
    for module in _modules():
        for name, decoder in decoders.items():
            # Messages of the formats before Kafka 0.11 know no zstd.
            if hasattr(module, name):
                setattr(module, name, decoder)


def _modules() -> list[ModuleType]:
    """Return aiokafka's modules that decompress: those in Python, and the compiled ones that stand in for them."""
    modules = [aiokafka.record.default_records, aiokafka.record.legacy_records]
    try:
        from aiokafka.record._crecords import default_records, legacy_records
    except ImportError:  # no wheel for this platform
        return modules
    return [*modules, default_records, legacy_records]
