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
    safe: bool = False


@dataclass(slots=True)
class _Column:
    position: int  # the next offset to hand out
    committed: int
    open: deque[Ticket] = field(default_factory=deque)  # not committed yet, in offset order


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
        self._columns = {partition: _Column(offset, offset) for partition, offset in positions.items()}

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop partitions: their tickets no longer count."""
        for partition in partitions:
            self._columns.pop(partition, None)

    def position(self, partition: Partition) -> int:
        """Return the offset of the next message to hand out; earlier ones were handed out or do not exist."""
        return self._columns[partition].position

    def hand_out(self, partition: Partition, first: int, end: int) -> Ticket:
        """Record that ``[first, end)`` is handed out. Offsets skipped before it do not exist (a compacted topic).

        Raises
        ------
        ValueError
            The chunk is empty, or overlaps one that was handed out before.
        """
        column = self._columns[partition]
        if not column.position <= first < end:
            raise ValueError(f"chunk [{first}, {end}) does not follow position {column.position}")
        ticket = Ticket(first, end)
        column.position = end
        column.open.append(ticket)
        return ticket

    def committable(self) -> dict[Partition, int]:
        """Return the offset to commit (the next one to read) of each partition that can advance."""
        offsets = {}
        for partition, column in self._columns.items():
            safe = column.committed
            for ticket in column.open:
                if not ticket.safe:
                    break
                safe = ticket.end
            if safe > column.committed:
                offsets[partition] = safe
        return offsets

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Record that the broker has these offsets."""
        for partition, offset in offsets.items():
            if column := self._columns.get(partition):
                column.committed = max(column.committed, offset)
                while column.open and column.open[0].end <= offset:
                    column.open.popleft()

    @property
    def unsafe(self) -> int:
        """The number of chunks that were handed out and are not safe yet."""
        return sum(not ticket.safe for column in self._columns.values() for ticket in column.open)
