from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.token_ids import TokenIds
from earlybell.inference.training.calibrate import count_tokens
from earlybell.inference.training.depth_predictions import best_weight, predicted_depths, prediction, rank_correlation

numbers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40)


@given(pairs=numbers)
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    from scipy import stats  # takes seconds

    x, y = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert rank_correlation(x, y) == 0.0
    else:
        assert rank_correlation(x, y) == pytest.approx(float(stats.spearmanr(x, y).statistic), abs=1e-9)


def test_a_perfect_prediction_beats_its_controls() -> None:
    actual = np.random.default_rng(0).integers(0, 7, 500)
    lengths = np.random.default_rng(1).integers(3, 60, 500)
    figures = prediction({"perfect": actual.astype(np.float64)}, actual, lengths)
    assert figures["rank_correlation"]["perfect"] == pytest.approx(1.0)
    assert abs(figures["rank_correlation"]["length"]) < 0.15
    assert abs(figures["rank_correlation"]["random"]) < 0.15
    assert figures["mean_absolute_error"]["perfect"] == 0.0
    assert figures["mean_absolute_error"]["constant"] > 1.0


def test_by_hand() -> None:
    table = np.array([[0.5, 0.25, 0.25], [0, 0, 0], [0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]], np.float32)
    rows = TokenIds.pack([np.array(row, np.int32) for row in ([1, 3, 4, 2], [1, 4, 4, 4, 3, 2], [1, 2])])
    predicted = predicted_depths(rows, table, unseen_id=0)
    assert predicted["mean"].tolist() == [1.0, 1.5, 0.75]
    assert predicted["upper_quantile"].tolist() == [2.0, 2.0, 1.0]


def test_naive_bayes_predicts_what_a_mean_dilutes() -> None:
    """One word in ten decides a text's depth, and the mean of all ten hardly differs between texts."""
    generator = np.random.default_rng(0)
    depths = generator.integers(0, 6, 4_000)
    words = generator.integers(10, 40, (4_000, 10))
    words[:, 0] = 3 + depths
    texts = TokenIds.pack([np.array([1, *row, 2], np.int32) for row in words])
    table = count_tokens(texts[:2_000], depths[:2_000], 40, 6, 1.0)
    figures = prediction(predicted_depths(texts[2_000:], table, 0), depths[2_000:], texts[2_000:].lengths)
    error = figures["mean_absolute_error"]
    assert error["naive_bayes"] < 0.5
    assert 1.0 < error["mean"] <= error["constant"] + 0.1
    assert best_weight(texts[2_000:], depths[2_000:], table, 0) >= 0.5


def test_a_smaller_weight_is_chosen_where_tokens_repeat_each_other() -> None:
    generator = np.random.default_rng(0)
    depths = generator.integers(0, 6, 4_000)
    hint = np.where(generator.random(4_000) < 0.2, depths, generator.integers(0, 6, 4_000))
    texts = TokenIds.pack([np.array([1, *[3 + int(value) + 6 * copy for copy in range(12)], 2]) for value in hint])
    table = count_tokens(texts[:2_000], depths[:2_000], 80, 6, 1.0)
    assert best_weight(texts[2_000:], depths[2_000:], table, 0) <= 0.25
