from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inference.checkpoint import load
from inference.confidence_window import ExitRule
from inference.training.comparisons import at_equal_depth, compare, exit_curves, prediction, rank_correlation
from inference.training.data import LABELS, Example

numbers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40)


@given(pairs=numbers)
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(side, np.float64) for side in zip(*pairs, strict=True))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert rank_correlation(one, other) == 0.0
    else:
        assert rank_correlation(one, other) == pytest.approx(float(stats.spearmanr(one, other).statistic), abs=1e-9)


def test_a_perfect_prediction_beats_its_controls() -> None:
    actual = np.random.default_rng(0).integers(0, 7, 500)
    lengths = np.random.default_rng(1).normal(size=500)
    found = prediction(actual.astype(np.float64), actual, lengths)
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert abs(found["rank_correlation_of_length"]) < 0.15
    assert abs(found["rank_correlation_at_random"]) < 0.15
    assert found["mean_absolute_error"] == 0.0
    assert found["mean_absolute_error_of_a_constant"] > 1.0


def test_every_curve_ends_at_full_depth_and_says_the_same_there() -> None:
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(300, 6, 3)).cumsum(1).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    truth = probabilities[:, -1].argmax(-1)
    curves = exit_curves(probabilities, truth, 1, [ExitRule(), ExitRule(0.5, "agreement", 3, 0.2)])
    assert {name: curve[-1] for name, curve in curves.items() if name != "pabee"} == dict.fromkeys(
        ("cwb", "entropy", "fixed"), (6.0, 1.0)
    )
    equal = at_equal_depth(curves, 6)
    assert equal["fixed"]["50%"] == pytest.approx(curves["fixed"][2][1], abs=1e-4)
    assert all(0 <= value <= 1 for curve in equal.values() for value in curve.values())


def test_a_checkpoint_is_compared_on_a_labelled_set(tiny_checkpoint: Path, texts: list[str]) -> None:
    examples = [Example(text, LABELS[place % 3], "made") for place, text in enumerate(texts)]
    found = compare(load(tiny_checkpoint), examples)
    assert found["n"] == len(texts)
    assert len(found["accuracy_per_exit"]) == 5
    assert found["pruning"][0] == {
        "speed_up": 1.0, "alpha": 1.0, "tokens": found["pruning"][0]["tokens"],
        "accuracy": found["accuracy_per_exit"][-1],
    }  # fmt: skip
    assert [one["speed_up"] for one in found["pruning"]][:2] == [1.0, 1.5]
    assert found["pure_prediction"]["mean_depth"] <= 4
