"""The token ids of some texts, one text after the other: two arrays instead of an array a text.

Plain data: it knows nothing of tokenizers, batches or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

#: The token ids of one text, special tokens included.
Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class TokenIds(Sequence[Ids]):
    """The ids of any number of texts; an element is one text's ids, a view.

    Parameters
    ----------
    ids
        (tokens,) of all texts.
    offsets
        (texts + 1,) where each text begins, and where the last one ends.
    """

    ids: Ids
    offsets: NDArray[np.int64]

    @classmethod
    def pack(cls, texts: Iterable[Ids]) -> TokenIds:
        """Copy the ids of each text into one array."""
        rows = list(texts)
        ids = np.concatenate(rows).astype(np.int32, copy=False) if rows else np.empty(0, np.int32)
        return cls(ids, offsets_of(np.fromiter(map(len, rows), np.int64, len(rows))))

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(texts,) the tokens of each text."""
        return np.diff(self.offsets).astype(np.int32)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Ids: ...
    @overload
    def __getitem__(self, index: slice) -> TokenIds: ...
    def __getitem__(self, index: int | slice) -> Ids | TokenIds:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index]
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def take(self, rows: NDArray[np.int64]) -> TokenIds:
        """Return these texts, in this order."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = offsets_of(lengths)
        return TokenIds(self.ids[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)], offsets)

    def filled(self, rows: NDArray[np.int64], texts: TokenIds) -> TokenIds:
        """Return these texts with others in place of some rows, which must be empty."""
        lengths = np.diff(self.offsets)
        lengths[rows] = np.diff(texts.offsets)
        ids = np.insert(self.ids, np.repeat(self.offsets[rows], lengths[rows]), texts.ids)
        return TokenIds(ids, offsets_of(lengths))


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where texts of these lengths begin, one after the other, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
