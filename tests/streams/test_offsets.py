"""The book of offsets, against a model that is too simple to be wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.streams.offsets import OffsetBook, Ticket


@st.composite
def chunks(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Consecutive chunks of one partition, with gaps between them as in a compacted topic."""
    position, drawn = draw(st.integers(0, 50)), []
    for _ in range(draw(st.integers(0, 12))):
        first = position + draw(st.sampled_from([0, 0, 0, 1, 7]))
        position = first + draw(st.integers(1, 5))
        drawn.append((first, position))
    return drawn


@given(chunks(), st.data())
def test_never_commits_past_an_unsafe_chunk(spans: list[tuple[int, int]], data: st.DataObject) -> None:
    book: OffsetBook[str] = OffsetBook()
    start = spans[0][0] if spans else 0
    book.begin({"p": start})
    tickets = [book.hand_out("p", first, end) for first, end in spans]
    committed = start
    for ticket in data.draw(st.permutations(tickets)):
        ticket.safe = True
        offsets = book.committable()
        unsafe = [ticket.first for ticket in tickets if not ticket.safe]
        if "p" in offsets:
            assert offsets["p"] > committed
            assert all(offsets["p"] <= first for first in unsafe)
            if data.draw(st.booleans()):
                book.committed(offsets)
                committed = offsets["p"]
        else:
            # Nothing to commit, so the first uncommitted chunk is not safe.
            assert any(committed <= first for first in unsafe) or committed == tickets[-1].end
    final = book.committable().get("p", committed)
    assert final == (spans[-1][1] if spans else start)


def test_a_gap_before_a_chunk_does_not_hold_the_commit_back() -> None:
    book: OffsetBook[str] = OffsetBook()
    book.begin({"p": 10})
    for ticket in (book.hand_out("p", 15, 16), book.hand_out("p", 90, 100)):
        ticket.safe = True
    assert book.committable() == {"p": 100}


@pytest.mark.parametrize(("first", "end"), [(9, 12), (10, 10), (12, 11)])
def test_refuses_a_chunk_that_goes_back_or_is_empty(first: int, end: int) -> None:
    book: OffsetBook[str] = OffsetBook()
    book.begin({"p": 10})
    with pytest.raises(ValueError, match="does not follow position 10"):
        book.hand_out("p", first, end)


def test_a_ticket_of_an_earlier_assignment_moves_nothing() -> None:
    book: OffsetBook[str] = OffsetBook()
    book.begin({"p": 0, "q": 0})
    old = book.hand_out("p", 0, 5)
    book.begin({"p": 0})
    again = book.hand_out("p", 0, 3)
    old.safe = True
    assert book.committable() == {}
    again.safe = True
    assert book.committable() == {"p": 3}
    book.forget(["p"])
    assert book.committable() == {}
    assert book.partitions == frozenset()


def test_a_commit_that_failed_is_offered_again() -> None:
    book: OffsetBook[str] = OffsetBook()
    book.begin({"p": 0})
    book.hand_out("p", 0, 5).safe = True
    assert book.committable() == {"p": 5}
    assert book.committable() == {"p": 5}
    book.committed({"p": 5, "gone": 7})
    assert book.committable() == {}


def test_partitions_do_not_wait_for_each_other() -> None:
    book: OffsetBook[str] = OffsetBook()
    book.begin({"p": 0, "q": 0})

    def tickets() -> Iterator[Ticket]:
        for partition in "pq":
            yield book.hand_out(partition, 0, 5)

    slow, quick = tickets()
    quick.safe = True
    assert book.committable() == {"q": 5}
    assert book.unsafe == 1
    slow.safe = True
    assert book.committable() == {"p": 5, "q": 5}
