"""GEEP: predict the depth at which a text will exit, from its tokens alone.

Source: Li et al. 2024, doi 10.1007/s11704-022-2341-9; the table and how it is combined are ours. The prediction orders
work (`batching`); it never decides an answer, except in the strategy ``predict``.

The tokens are combined as a tempered naive Bayes, and the prediction is the median of the posterior:
log P(l | text) = log P(l) + w sum_t [log P(l | t) - log P(l)] + constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.token_ids import TokenIds

#: w; below 1 because a text's tokens are not independent. Chosen on the dev slices (docs/experiments.md).
TOKEN_WEIGHT = 0.5
#: The smallest probability of a token table, which is stored in half precision.
_LEAST = 2.0**-24


@dataclass(frozen=True, slots=True, eq=False)
class DepthPrediction:
    """A token table, prepared for prediction."""

    evidence: NDArray[np.float64] | None  # (V, exits) w [log P(l | t) - log P(l)]; None: nothing to predict from
    log_prior: NDArray[np.float64]  # (exits,)
    first_depth: int

    @classmethod
    def of(
        cls, table: NDArray[np.float32] | None, unseen_id: int, first_depth: int, weight: float = TOKEN_WEIGHT
    ) -> Self:
        """Prepare a table, (V, exits) P(exit depth | token); None: depths are not predicted.

        Parameters
        ----------
        unseen_id
            A token that calibration never saw: its row is the table's prior.
        first_depth
            The depth of the first exit.
        """
        if table is None:
            return cls(None, np.empty(0), first_depth)
        logs = np.log(np.maximum(table.astype(np.float64), _LEAST))
        return cls(weight * (logs - logs[unseen_id]), logs[unseen_id], first_depth)

    def predict(self, texts: TokenIds) -> NDArray[np.float32]:
        """Return the median of each text's posterior, between depths too: (texts,); NaN without a table.

        Each depth's probability is spread evenly from half a depth below it to half a depth above, so that the result,
        rounded, is the median depth.
        """
        if self.evidence is None:
            return np.full(len(texts), np.nan, np.float32)
        posterior = self.posterior(texts)
        reached = posterior.cumsum(1)
        median = np.minimum((reached < 0.5).sum(1), posterior.shape[1] - 1)[:, None]
        share = np.take_along_axis(posterior, median, 1)
        before = np.take_along_axis(reached, median, 1) - share
        depths: NDArray[np.float64] = self.first_depth + median - 0.5 + (0.5 - before) / share
        return depths[:, 0].astype(np.float32)

    def posterior(self, texts: TokenIds) -> NDArray[np.float64]:
        """Return P(exit depth | text), (texts, exits). A text's first and last tokens are special and do not count.

        Raises
        ------
        ValueError
            If there is no table.
        """
        if self.evidence is None:
            raise ValueError("no token table to predict from")
        first, last = texts.offsets[:-1] + 1, texts.offsets[1:] - 1
        # Every other sum is of the special tokens between two texts.
        sums = np.add.reduceat(self.evidence.take(texts.ids, axis=0), np.stack([first, last], 1).ravel(), axis=0)[::2]
        logs = np.where((last > first)[:, None], sums, 0.0) + self.log_prior
        posterior: NDArray[np.float64] = np.exp(logs - logs.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        return posterior
