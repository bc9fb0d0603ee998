"""How a window is cut for an engine's threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.batching.planning import SMALLEST_CHUNK, cut_for_threads

LONGEST = 300
windows = st.lists(st.integers(0, LONGEST).map("x".__mul__), min_size=1, max_size=200)


@given(windows, st.integers(1, 64))
def test_no_chunk_is_smaller_than_it_must_be(window: list[str], threads: int) -> None:
    chunks = cut_for_threads(window, threads)
    assert [text for start, stop in chunks for text in window[start:stop]] == window
    sizes = [sum(len(text) + 1 for text in window[start:stop]) for start, stop in chunks]
    # Texts are not cut, so a chunk may end a text early.
    assert len(sizes) == 1 or min(sizes) >= SMALLEST_CHUNK - LONGEST - 1


def test_a_window_of_less_than_two_chunks_is_not_cut() -> None:
    assert cut_for_threads(["x" * 79] * 29, 2) == [(0, 29)]
    assert cut_for_threads(["x" * 79] * 31, 2) == [(0, 16), (16, 31)]


def test_a_large_window_begins_with_large_chunks() -> None:
    chunks = cut_for_threads(["x" * 79] * 1_000, 4)
    texts = [stop - start for start, stop in chunks]
    assert texts == sorted(texts, reverse=True)
    assert texts[0] > 8 * texts[-1]
    assert len(texts) > 4
