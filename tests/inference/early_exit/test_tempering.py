"""Tempering against its formula; `backends/test_int8.py` compares its twin in C."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.early_exit.tempering import tempered, unsharpened
from earlybell.inference.training.measures import softmax

LOGITS = (np.random.default_rng(0).normal(size=(200, 2, 3)) * 4).astype(np.float32)


def test_each_exit_has_its_own_temperature() -> None:
    probabilities = tempered(LOGITS, unsharpened([1.0, 4.0]))
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities[:, 0], softmax(LOGITS[:, 0]), rtol=1e-5)
    assert np.allclose(probabilities[:, 1], softmax(LOGITS[:, 1] / 4), rtol=1e-5)


def test_sharpening_raises_the_scale_by_the_lead() -> None:
    logits = np.array([[[3.0, 1.0, -4.0]], [[0.5, 0.5, 0.0]]], np.float32)
    probabilities = tempered(logits, np.array([[2.0, 0.25]], np.float32))
    assert np.allclose(probabilities[0, 0], softmax(logits[0, 0] / 2 * (1 + 0.25 * 1.0)))
    assert np.allclose(probabilities[1, 0], softmax(logits[1, 0] / 2)), "no lead, nothing to sharpen"


@given(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3), st.floats(0.125, 8), st.floats(0, 1))
def test_the_order_of_the_classes_stays(logits: list[float], temperature: float, sharpening: float) -> None:
    answer = tempered(np.array([[logits]], np.float32), np.array([[temperature, sharpening]], np.float32))[0, 0]
    assert (np.diff(answer[np.argsort(logits, kind="stable")]) >= 0).all()
    assert answer.sum() == pytest.approx(1.0, abs=1e-5)
