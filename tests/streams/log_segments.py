"""Damage batches in the broker's own log files, as a failing disk or a newer client would."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiokafka.record.util import calc_crc32c

from earlybell.deploy.local.stack import Stack

#: Positions in a batch (magic 2): its checksum, attributes and last offset, and the number of bytes before the records.
CHECKSUM, ATTRIBUTES, LAST_OFFSET_DELTA, RECORDS = 17, 21, 23, 61
#: The length does not count the base offset and itself.
PREFIX = 12


@dataclass(frozen=True)
class Batch:
    """A batch in a log file."""

    file: Path
    position: int
    base_offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset after its last message."""
        (delta,) = struct.unpack_from(">i", self.data, LAST_OFFSET_DELTA)
        return self.base_offset + int(delta) + 1

    def overwrite(self, data: bytes) -> None:
        """Replace the batch in the file, which the broker goes on reading."""
        assert len(data) == len(self.data)
        with self.file.open("r+b") as log:
            log.seek(self.position)
            log.write(data)

    def flip_a_byte(self) -> None:
        """Make the checksum wrong."""
        data = bytearray(self.data)
        data[RECORDS + (len(data) - RECORDS) // 2] ^= 0xFF
        self.overwrite(bytes(data))

    def change_codec(self, codec: int) -> None:
        """Claim another codec, with a checksum that is right."""
        data = bytearray(self.data)
        (attributes,) = struct.unpack_from(">h", data, ATTRIBUTES)
        struct.pack_into(">h", data, ATTRIBUTES, (attributes & ~7) | codec)
        struct.pack_into(">I", data, CHECKSUM, calc_crc32c(bytes(data[ATTRIBUTES:])))
        self.overwrite(bytes(data))

    def scramble_records(self) -> None:
        """Replace the records with bytes that are none, with a checksum that is right."""
        data = bytearray(self.data)
        data[RECORDS:] = b"\xff" * (len(data) - RECORDS)
        struct.pack_into(">I", data, CHECKSUM, calc_crc32c(bytes(data[ATTRIBUTES:])))
        self.overwrite(bytes(data))


def batches(stack: Stack, topic: str, partition: int) -> list[Batch]:
    """Return the batches of a partition, in offset order."""
    file = stack.home / "kafka" / "data" / f"{topic}-{partition}" / f"{0:020d}.log"
    return list(_batches(file))


def _batches(file: Path) -> Iterator[Batch]:
    data, position = file.read_bytes(), 0
    while position + RECORDS <= len(data):
        base_offset, length = struct.unpack_from(">qi", data, position)
        yield Batch(file, position, base_offset, data[position : position + PREFIX + length])
        position += PREFIX + length
