"""Tracks which offsets may be committed: what was handed out, and what of it is safe.

Faust's own bookkeeping treats any gap in the offsets as acknowledged, is reset in the middle of a rebalance and commits
the first run of acknowledged offsets, so a message between two acknowledged ones can be lost. This book tracks whole
chunks: a partition is committed up to its first unsafe chunk, never past it. It is pure bookkeeping and knows nothing
of Kafka clients, clocks or threads; all calls come from one event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Partition = TypeVar("Partition", bound=Hashable)


@dataclass(slots=True)
class Ticket:
    """A chunk that was handed out: the offsets ``[first, end)``."""

    first: int
    end: int
    size: int = 0  # in bytes
    since: float = 0.0  # when the broker took the first message in, in seconds since the epoch
    safe: bool = False


@dataclass(slots=True)
class _Column:
    position: int  # the next offset to hand out
    committed: int  # what the broker has
    base: int  # everything before it is safe
    open: deque[Ticket] = field(default_factory=deque)  # from `base` on, in offset order

    @property
    def safe_end(self) -> int:
        """The offset of the first message that is not safe."""
        end = self.base
        for ticket in self.open:
            if not ticket.safe:
                break
            end = ticket.end
        return end


class OffsetBook(Generic[Partition]):
    """The chunks handed out under the current assignment, by partition."""

    def __init__(self) -> None:
        self._columns: dict[Partition, _Column] = {}

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions whose position is known; only these may be fetched."""
        return frozenset(self._columns)

    def begin(self, positions: Mapping[Partition, int]) -> None:
        """Start over with these partitions at these offsets. Tickets handed out before no longer count."""
        self._columns = {partition: _Column(offset, offset, offset) for partition, offset in positions.items()}

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop partitions: their tickets no longer count."""
        for partition in partitions:
            self._columns.pop(partition, None)

    def reopen(self, partition: Partition, position: int) -> None:
        """Go on at another offset, which may be lower; the partition's tickets no longer count.

        The new position itself is then to be committed: what the broker has may be the offset that does not exist.
        """
        self._columns[partition] = _Column(position, committed=-1, base=position)

    def position(self, partition: Partition) -> int:
        """Return the offset of the next message to hand out; earlier ones were handed out or do not exist."""
        return self._columns[partition].position

    def hand_out(self, partition: Partition, first: int, end: int, size: int = 0, since: float = 0.0) -> Ticket:
        """Record that ``[first, end)`` is handed out. Offsets skipped before it do not exist (a compacted topic).

        Parameters
        ----------
        size
            The bytes of its messages.
        since
            When the broker took the first of them in, in seconds since the epoch.

        Raises
        ------
        ValueError
            The chunk is empty, or overlaps one that was handed out before.
        """
        column = self._columns[partition]
        if not column.position <= first < end:
            raise ValueError(f"chunk [{first}, {end}) does not follow position {column.position}")
        ticket = Ticket(first, end, size, since)
        column.position = end
        column.open.append(ticket)
        return ticket

    def committable(self) -> dict[Partition, int]:
        """Return the offset to commit (the next one to read) of each partition that can advance."""
        return {
            partition: column.safe_end
            for partition, column in self._columns.items()
            if column.safe_end > column.committed
        }

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Record that the broker has these offsets, which `committable` returned.

        The partition may have been opened elsewhere in the meantime: nothing counts as committed that is not safe.
        """
        for partition, offset in offsets.items():
            column = self._columns.get(partition)
            if column and column.committed < offset <= column.safe_end:
                column.committed = column.base = offset
                while column.open and column.open[0].end <= offset:
                    column.open.popleft()

    def oldest(self, partition: Partition) -> tuple[int, float | None]:
        """Return the offset of a partition's first message that is not safe, and since when it has been in work."""
        column = self._columns[partition]
        return column.safe_end, next((ticket.since for ticket in list(column.open) if not ticket.safe), None)

    @property
    def unsafe(self) -> int:
        """The number of chunks that were handed out and are not safe yet."""
        return sum(not ticket.safe for column in self._columns.values() for ticket in column.open)

    def unsafe_bytes(self) -> dict[Partition, int]:
        """Return the bytes of each partition's messages that were handed out and are not safe yet."""
        return {
            partition: sum(ticket.size for ticket in column.open if not ticket.safe)
            for partition, column in self._columns.items()
        }
