"""GEEP: predict the depth at which a text will exit, from its tokens alone.

Source: Li et al. 2024, doi 10.1007/s11704-022-2341-9; the table and how it is combined are ours. The prediction orders
work (`batching`); it never decides an answer, except in the strategy ``predict``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.token_ids import TokenIds


@dataclass(frozen=True, slots=True)
class DepthPrediction:
    """The token table, as far as a prediction needs it."""

    expected_depth: NDArray[np.float32] | None  # (V,) mean exit depth by token; None: nothing to predict from
    unseen_id: int  # a token that calibration never saw: its row is the table's prior

    def predict(self, texts: TokenIds) -> NDArray[np.float32]:
        """Return the mean over each text's tokens, the first and last being special: (texts,); NaN without a table."""
        if self.expected_depth is None:
            return np.full(len(texts), np.nan, np.float32)
        first, last = texts.offsets[:-1] + 1, texts.offsets[1:] - 1
        depths = self.expected_depth[texts.ids].astype(np.float64)
        # Every other sum is of the special tokens between two texts.
        sums = np.add.reduceat(depths, np.stack([first, last], 1).ravel())[::2]
        prior = float(self.expected_depth[self.unseen_id])  # of a text without tokens of its own
        return np.where(last > first, sums / np.maximum(last - first, 1), prior).astype(np.float32)
