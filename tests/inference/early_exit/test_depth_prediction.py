from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from earlybell.inference.early_exit.depth_prediction import DepthPrediction
from earlybell.inference.token_ids import TokenIds

UNSEEN, CLS, SEP = 0, 1, 2
VOCABULARY, EXITS = 9, 4


def made_up_table(seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).gamma(0.7, size=(VOCABULARY, EXITS)) + 1e-3
    table: NDArray[np.float32] = (rows / rows.sum(1, keepdims=True)).astype(np.float32)
    return table


def pack(*texts: list[int]) -> TokenIds:
    return TokenIds.pack([np.array([CLS, *text, SEP], np.int32) for text in texts])


token_lists = st.lists(st.lists(st.integers(3, VOCABULARY - 1), max_size=12), min_size=1, max_size=6)


@given(seed=st.integers(0, 1000), texts=token_lists, weight=st.floats(0, 1))
def test_the_posterior_is_that_of_a_tempered_naive_bayes(seed: int, texts: list[list[int]], weight: float) -> None:
    table = made_up_table(seed)
    posterior = DepthPrediction.of(table, UNSEEN, 1, weight).posterior(pack(*texts))
    prior = [float(p) for p in table[UNSEEN]]
    for row, text in zip(posterior, texts, strict=True):
        products = [
            prior[depth] * math.prod((float(table[token, depth]) / prior[depth]) ** weight for token in text)
            for depth in range(EXITS)
        ]
        assert row == pytest.approx([product / sum(products) for product in products], rel=1e-6)


@given(seed=st.integers(0, 1000), texts=token_lists)
def test_the_rounded_prediction_is_the_median_depth(seed: int, texts: list[list[int]]) -> None:
    prediction = DepthPrediction.of(made_up_table(seed), UNSEEN, 1)
    posterior, predicted = prediction.posterior(pack(*texts)), prediction.predict(pack(*texts))
    for row, depth in zip(posterior.cumsum(1), predicted, strict=True):
        median = 1 + next(exit_ for exit_, reached in enumerate(row) if reached >= 0.5)
        assert depth == pytest.approx(median, abs=0.5 + 1e-6)
        assert 1 <= depth <= EXITS


def test_a_prediction_by_hand() -> None:
    table = np.full((VOCABULARY, 2), 0.5, np.float32)
    table[3] = [0.8, 0.2]
    prediction = DepthPrediction.of(table, UNSEEN, 0)
    # Twice a ratio of 4 at weight one half: odds of 4, so .8 at depth 0, and the median 5/8 into it.
    assert prediction.predict(pack([3, 3]))[0] == pytest.approx(-0.5 + 0.5 / 0.8)
    assert prediction.predict(pack([4, 3, 4, 3]))[0] == pytest.approx(-0.5 + 0.5 / 0.8), "4 tells nothing"
    assert prediction.predict(pack([], [4, 5])).tolist() == [0.5, 0.5], "half and half lies between the two depths"


@given(texts=token_lists)
def test_a_prediction_does_not_depend_on_other_texts(texts: list[list[int]]) -> None:
    prediction = DepthPrediction.of(made_up_table(4), UNSEEN, 0)
    together = prediction.predict(pack(*texts))
    assert [float(prediction.predict(pack(text))[0]) for text in texts] == together.tolist()


def test_a_depth_that_no_text_took_is_not_predicted() -> None:
    table = np.tile(np.array([0.6, 0.0, 0.4], np.float32), (VOCABULARY, 1))
    table[3] = [0.0, 0.0, 1.0]
    posterior = DepthPrediction.of(table, UNSEEN, 0).posterior(pack([3, 3, 3], [4]))
    assert np.isfinite(posterior).all()
    assert posterior[:, 1].max() < 1e-6
    assert posterior[0, 2] > 0.99


def test_without_a_table_nothing_is_predicted() -> None:
    prediction = DepthPrediction.of(None, UNSEEN, 0)
    assert np.isnan(prediction.predict(pack([3], [4]))).all()
    with pytest.raises(ValueError, match="no token table"):
        prediction.posterior(pack([3]))
