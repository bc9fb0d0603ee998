from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.training.measures import (
    accuracy,
    calibrated_error,
    confusion,
    expected_calibration_error,
    macro_f1,
    softmax,
)

labelled = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


@given(pairs=labelled)
def test_they_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn import metrics  # takes seconds

    truth, answers = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    assert accuracy(truth, answers) == pytest.approx(metrics.accuracy_score(truth, answers))
    expected = metrics.f1_score(truth, answers, labels=[0, 1, 2], average="macro", zero_division=0)
    assert macro_f1(truth, answers, 3) == pytest.approx(expected)
    assert (confusion(truth, answers, 3) == metrics.confusion_matrix(truth, answers, labels=[0, 1, 2])).all()


def test_calibration_error_by_hand() -> None:
    # Two texts at 0.9, one right: off by 0.4. Two at 0.6, both right: off by 0.4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    truth = np.array([0, 1, 0, 0], np.int64)
    assert expected_calibration_error(probabilities, truth) == pytest.approx(0.4)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0], np.int64)) == 0.0


def test_a_calibrated_models_error_shrinks_with_the_number_of_texts() -> None:
    generator = np.random.default_rng(3)
    probabilities = softmax(generator.normal(size=(20_000, 3)) * 2)
    few, many = calibrated_error(probabilities[:200]), calibrated_error(probabilities)
    assert few > 5 * many > 0
    truth = np.minimum((probabilities.cumsum(1) <= generator.random((20_000, 1))).sum(1), 2)
    assert expected_calibration_error(probabilities, truth) < 2 * many
    assert expected_calibration_error(softmax(np.log(probabilities) * 2), truth) > 5 * many, "overconfident"
    assert calibrated_error(np.array([[1.0, 0.0]])) == 0.0


def test_softmax_does_not_overflow() -> None:
    assert softmax(np.array([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]
