"""GEEP's predicted depths against the depths that texts take, beside controls.

Depths count from the first exit, which is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.early_exit.depth_prediction import DepthPrediction
from earlybell.inference.token_ids import TokenIds

#: An alternative prediction: the depth by which this share of the tokens' mean histogram has exited.
UPPER_QUANTILE = 0.75
#: Weights of a token to choose from (`depth_prediction.TOKEN_WEIGHT`).
WEIGHTS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


def predicted_depths(rows: TokenIds, table: NDArray[np.float32], unseen_id: int) -> dict[str, NDArray[np.float64]]:
    """Return each text's predicted depth, (texts,), by how its tokens' rows of the table are combined.

    ``naive_bayes`` is what is served; ``mean`` is the expectation of the rows' mean, and ``upper_quantile`` its
    `UPPER_QUANTILE`.
    """
    shares = mean_rows(rows, table, unseen_id)
    return {
        "naive_bayes": DepthPrediction.of(table, unseen_id, 0).predict(rows).astype(np.float64),
        "mean": shares @ np.arange(table.shape[1]),
        "upper_quantile": (shares.cumsum(1) < UPPER_QUANTILE - 1e-9).sum(1).clip(max=table.shape[1] - 1).astype(float),
    }


def mean_rows(rows: TokenIds, table: NDArray[np.float32], unseen_id: int) -> NDArray[np.float64]:
    """Return the mean of the table over each text's tokens, (texts, exits); the prior for a text that has none."""
    wide = table.astype(np.float64)
    return np.stack([wide[row[1:-1]].mean(0) if len(row) > 2 else wide[unseen_id] for row in rows])


def best_weight(rows: TokenIds, actual: NDArray[np.int64], table: NDArray[np.float32], unseen_id: int) -> float:
    """Return the weight of a token with the least mean absolute error on these texts."""
    return min(
        WEIGHTS,
        key=lambda weight: float(np.abs(DepthPrediction.of(table, unseen_id, 0, weight).predict(rows) - actual).mean()),
    )


def prediction(
    predicted: Mapping[str, NDArray[np.float64]], actual: NDArray[np.int64], lengths: NDArray[np.integer[Any]]
) -> dict[str, dict[str, float]]:
    """Return the rank correlation and mean absolute error of predicted depths, beside those of controls.

    Controls need no token table: the text's length, a seeded random order, and one constant depth for all.
    """
    depths = actual.astype(np.float64)
    at_random = np.random.default_rng(1).permutation(len(depths)).astype(np.float64)
    controls = {"length": lengths.astype(np.float64), "random": at_random}
    return {
        "rank_correlation": {
            name: round(rank_correlation(values, depths), 4) for name, values in (*predicted.items(), *controls.items())
        },
        "mean_absolute_error": {
            name: round(float(np.abs(values - depths).mean()), 4)
            for name, values in (*predicted.items(), ("constant", np.full(len(depths), np.median(depths))))
        },
    }


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, ties sharing their mean rank; 0 if either argument is constant."""
    x_ranks, y_ranks = _ranks(x), _ranks(y)
    if np.ptp(x_ranks) == 0 or np.ptp(y_ranks) == 0:
        return 0.0
    return float(np.corrcoef(x_ranks, y_ranks)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, value_index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[value_index]
    return mean_ranks
