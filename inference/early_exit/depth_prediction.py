"""GEEP: predict the depth at which a text will exit, from its tokens alone.

Source: Li et al. 2024, doi 10.1007/s11704-022-2341-9; the table and how it is combined are ours. The prediction orders
work (`batching`); it never decides an answer, except in the strategy ``predict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DepthPrediction:
    """The token table, as far as a prediction needs it."""

    expected_depth: NDArray[np.float32] | None  # (V,) mean exit depth by token; None: nothing to predict from
    unseen_id: int  # a token that calibration never saw: its row is the table's prior

    def predict(self, texts: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Return the mean over each text's tokens, special ones excluded: (texts,); NaN without a table.

        Parameters
        ----------
        texts
            Token ids of each text, the first and last being special.
        """
        if self.expected_depth is None:
            return np.full(len(texts), np.nan, np.float32)
        lengths = np.array([len(ids) - 2 for ids in texts])
        # In double precision a text's mean does not depend on what was summed before it.
        depths = self.expected_depth[np.concatenate([ids[1:-1] for ids in texts])].astype(np.float64)
        starts = np.minimum(np.cumsum(lengths) - lengths, len(depths))
        sums = np.add.reduceat(np.append(depths, 0.0), starts)
        prior = float(self.expected_depth[self.unseen_id])  # of a text without tokens of its own
        return np.where(lengths > 0, sums / np.maximum(lengths, 1), prior).astype(np.float32)
