"""Which offsets may be committed: a pure book of what was handed out and what is safe.

Faust's own book treats any hole in the offsets as acknowledged, forgets what it knew in the middle of a rebalance and
commits whatever run of acknowledged offsets comes first, so that a message between two acknowledged ones can be lost.
This one knows the chunks themselves: a partition is committed up to its first chunk that is not safe, never past it.
It knows nothing of Kafka clients, clocks or threads; all calls come from one event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Partition = TypeVar("Partition", bound=Hashable)


@dataclass(slots=True)
class Ticket:
    """One chunk that was handed out: every offset in ``[first, end)``."""

    first: int
    end: int
    safe: bool = False


@dataclass(slots=True)
class _Column:
    position: int  # the next offset to hand out
    committed: int
    open: deque[Ticket] = field(default_factory=deque)  # in offset order, the first of them not safe


class OffsetBook(Generic[Partition]):
    """The chunks handed out in the present assignment, partition by partition."""

    def __init__(self) -> None:
        self._columns: dict[Partition, _Column] = {}

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions whose position is known: only these may be fetched."""
        return frozenset(self._columns)

    def begin(self, positions: Mapping[Partition, int]) -> None:
        """Start anew, with these partitions at these offsets. Tickets handed out before no longer count."""
        self._columns = {partition: _Column(offset, offset) for partition, offset in positions.items()}

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Give partitions up: their tickets no longer count."""
        for partition in partitions:
            self._columns.pop(partition, None)

    def position(self, partition: Partition) -> int:
        """The offset of the next message to hand out; every earlier one was handed out or does not exist."""
        return self._columns[partition].position

    def hand_out(self, partition: Partition, first: int, end: int) -> Ticket:
        """Take note that ``[first, end)`` goes out. Offsets missing before ``first`` do not exist (a compacted topic).

        Raises
        ------
        ValueError
            When the chunk was handed out before, or is empty.
        """
        column = self._columns[partition]
        if not column.position <= first < end:
            raise ValueError(f"chunk [{first}, {end}) does not follow position {column.position}")
        ticket = Ticket(first, end)
        column.position = end
        column.open.append(ticket)
        return ticket

    def committable(self) -> dict[Partition, int]:
        """For each partition that has moved on since its last commit: the offset to commit (the next one to read)."""
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
        """Take note that the broker has these offsets."""
        for partition, offset in offsets.items():
            if column := self._columns.get(partition):
                column.committed = max(column.committed, offset)
                while column.open and column.open[0].end <= offset:
                    column.open.popleft()

    @property
    def unsafe(self) -> int:
        """How many chunks were handed out and are not safe yet."""
        return sum(not ticket.safe for column in self._columns.values() for ticket in column.open)
