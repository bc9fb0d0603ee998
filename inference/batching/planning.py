"""Cut a window: into chunks for an engine's threads, and into batches that fit a token budget, in some order.

It knows lengths and predicted depths; nothing of models or of how a batch is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.batching.backend import Batch, Window

Order = Literal["arrival", "length", "predicted"]
#: A budget that every window fits: all texts of one width form one queue.
UNLIMITED = 2**62
#: Characters that a thread reads and computes at a time.
SMALLEST_CHUNK, LARGEST_CHUNK, CHUNKS_PER_THREAD = 1_200, 18_000, 1.5
#: Characters counted per text: about as many as are read of a long one.
COUNTED_CHARACTERS = 2_500


def bucket(tokens: int) -> int:
    """Return the width that a text is padded to: steps of 4 up to 32, of 8 up to 64, then of 32.

    A headline is padded by a few tokens and a body by a few per cent, yet a window has few distinct shapes.
    """
    step = 4 if tokens <= 32 else 8 if tokens <= 64 else 32
    return max(8, -(-tokens // step) * step)


def cut_for_threads(texts: Sequence[str], threads: int) -> list[tuple[int, int]]:
    """Cut a window into ever smaller chunks (start, stop), so that the threads which take them finish together.

    A chunk reads all the weights, however few its texts: at the end the rest is cut into equal parts of at least
    `SMALLEST_CHUNK` characters, and a window of less than two of them not at all.
    """
    ends = np.cumsum(np.minimum(np.fromiter(map(len, texts), np.int64, len(texts)), COUNTED_CHARACTERS) + 1)
    done, start, chunks = 0.0, 0, []
    while start < len(texts):
        left = float(ends[-1]) - done
        smallest = left / max(1, left // SMALLEST_CHUNK)
        wanted = min(max(left / (CHUNKS_PER_THREAD * threads), smallest), LARGEST_CHUNK)
        stop = min(int(np.searchsorted(ends, done + wanted)) + 1, len(texts))
        chunks.append((start, stop))
        done, start = float(ends[stop - 1]), stop
    return chunks


def texts_within(batch_tokens: int, width: int) -> int:
    """Return how many texts of this width fit the budget, at least one."""
    return max(1, batch_tokens // width)


def batches(
    window: Window, order: Order, batch_tokens: int, pads: bool, among: NDArray[np.int64] | None = None
) -> Iterator[Batch]:
    """Cut a window into batches of at most ``batch_tokens`` tokens, or of one text, in the given order.

    If texts are padded, the width takes precedence over the order (ours): a batch holds one `bucket`, so little padding
    is computed and a text's shape depends on that text alone. Sorts are stable: equal texts stay in order of arrival.

    Parameters
    ----------
    among
        The rows of the window to be batched; None: all of them.
    """
    rows = np.arange(len(window.texts)) if among is None else among
    lengths = window.texts.lengths[rows]
    key: NDArray[np.float32] = np.zeros(len(rows), np.float32)
    if order == "length":
        key = lengths.astype(np.float32)
    elif order == "predicted":
        key = np.nan_to_num(window.predicted[rows], nan=0.0)
    if not pads:
        arranged = np.lexsort((lengths, key)) if order == "predicted" else np.argsort(key, kind="stable")
        number = np.cumsum(lengths[arranged]) // max(1, batch_tokens)
        for part in np.split(arranged, np.flatnonzero(np.diff(number)) + 1) if len(rows) else ():
            yield Batch(rows[part], 0)
        return
    distinct, which = np.unique(lengths, return_inverse=True)
    widths = np.array([bucket(length) for length in distinct.tolist()], np.int64)[which]
    arranged = np.lexsort((key, widths))
    for width in np.unique(widths):
        of_width = arranged[widths[arranged] == width]
        size = texts_within(batch_tokens, int(width))
        for start in range(0, len(of_width), size):
            yield Batch(rows[of_width[start : start + size]], int(width))


def batches_as_they_come(window: Window, batch_tokens: int) -> Iterator[Batch]:
    """Cut a window in order of arrival, each batch padded to its longest text: shapes depend on the neighbours."""
    start, lengths = 0, window.texts.lengths.tolist()
    while start < len(lengths):
        stop, longest = start, 0
        while stop < len(lengths):
            longest = max(longest, lengths[stop])
            if stop > start and (stop + 1 - start) * longest > batch_tokens:
                break
            stop += 1
        yield Batch(np.arange(start, stop), max(lengths[start:stop]))
        start = stop
