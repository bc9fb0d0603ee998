from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from earlybell.inference.early_exit.confidence_window import exit_depths
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.training.exit_methods import Exits, ExitWindow, all_windows, at_equal_depth


def walk(seed: int, texts: int = 60, exits: int = 9, classes: int = 3) -> NDArray[np.float32]:
    """Return probabilities whose neighbouring exits mostly agree, as in a model."""
    logits = np.random.default_rng(seed).normal(size=(texts, exits, classes)).cumsum(1)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    normalised: NDArray[np.float32] = (probabilities / probabilities.sum(-1, keepdims=True)).astype(np.float32)
    return normalised


def of_one_class(*values: float) -> NDArray[np.float32]:
    """Return (1, exits, 3): one class has these probabilities, and the others share the rest."""
    return np.array([[[p, (1 - p) / 2, (1 - p) / 2] for p in values]], np.float32)


seeds = st.integers(0, 10_000)
windows = st.builds(
    ExitWindow,
    rule=st.sampled_from(["agreement", "trend"]),
    depths=st.integers(1, 10),
    margin=st.floats(0, 0.9),
)


@given(seed=seeds, window=windows, threshold=st.floats(0, 1), first=st.sampled_from([0, 1]))
def test_without_a_range_or_a_trends_margin_the_windows_are_those_that_are_served(
    seed: int, window: ExitWindow, threshold: float, first: int
) -> None:
    window = window if window.rule == "agreement" else replace(window, margin=0.0)
    probabilities = walk(seed)
    served = ExitRule(threshold, window.rule, window.depths, window.margin)
    exits = Exits(probabilities, first)
    depths = exits.depths(threshold, window.holds(probabilities, first))
    assert depths.tolist() == exit_depths(torch.from_numpy(probabilities), served, first).tolist()
    assert ExitWindow.of(served) == window


@given(seed=seeds, window=windows, stricter=st.floats(0, 1))
def test_a_smaller_range_or_a_larger_margin_only_holds_texts_back(
    seed: int, window: ExitWindow, stricter: float
) -> None:
    probabilities = walk(seed)
    held = window.holds(probabilities, 1)
    assert not (replace(window, range=stricter).holds(probabilities, 1) & ~held).any()
    wider = replace(window, margin=min(1.0, window.margin + stricter))
    assert not (wider.holds(probabilities, 1) & ~held).any()


def test_an_agreement_with_a_range_by_hand() -> None:
    values = of_one_class(0.6, 0.8, 0.75, 0.78, 0.95)

    def held(range_: float) -> list[bool]:
        return list(ExitWindow("agreement", 3, 0.2, range_).holds(values, 1)[0])

    assert held(1.0) == [False, False, True, True, True]
    assert held(0.1) == [False, False, False, True, False], "within .1: .8, .75, .78 alone"
    assert held(0.201) == [False, False, True, True, True]
    assert held(0.04) == [False] * 5


def test_a_trend_with_a_margin_by_hand() -> None:
    values = of_one_class(0.5, 0.6, 0.8, 0.7, 0.75, 0.75)  # margins .25, .4, .7, .55, .625, .625

    def held(margin: float) -> list[bool]:
        return list(ExitWindow("trend", 3, margin).holds(values, 1)[0])

    assert held(0.0) == [False, False, True, False, False, True]
    assert held(0.3) == [False, False, False, False, False, True], "the oldest of the first three leads by .25 only"
    assert held(0.6) == [False] * 6


def test_depth_0_is_in_no_window() -> None:
    constant = of_one_class(0.8, 0.8, 0.8, 0.8)
    assert ExitWindow("agreement", 2).holds(constant, 0)[0].tolist() == [False, False, True, True]
    assert ExitWindow("trend", 2, 0.5).holds(constant, 1)[0].tolist() == [False, True, True, True]
    assert not ExitWindow("trend", 4).holds(constant, 0).any(), "longer than the model is deep"


def test_the_best_window_is_the_one_that_settled_answers_reward() -> None:
    """Exits are sure and wrong until they settle, and agree by chance twice in a row; thrice is safe."""
    generator = np.random.default_rng(0)
    texts, exits = 1500, 10
    truth = generator.integers(0, 3, texts)
    answers = np.where(
        np.arange(exits) >= generator.integers(0, 5, texts)[:, None],
        truth[:, None],
        generator.integers(0, 3, (texts, exits)),
    )
    sure = np.where(np.eye(3)[answers] == 1, 0.9, 0.05).astype(np.float32)
    best = Exits(sure, 1).best_of_each_rule(truth)
    assert set(best) == set(all_windows(exits))
    assert best["agreement"].depths > 2
    assert best["trend_with_a_margin"].margin > 0
    assert best["agreement_with_a_range"].range < 1


def test_every_curve_ends_at_full_depth_with_the_same_accuracy() -> None:
    probabilities = walk(2, texts=300, exits=6)
    truth = probabilities[:, -1].argmax(-1)
    windows = {"cwb": ExitWindow("agreement", 3, 0.2), "none": None, "trend": ExitWindow("trend", 3, 0.3)}
    curves = Exits(probabilities, 1).curves(truth, windows)
    assert {name: curve[-1] for name, curve in curves.items() if name != "pabee"} == dict.fromkeys(
        ("cwb", "none", "trend", "entropy", "fixed"), (6.0, 1.0)
    )
    assert curves["none"] == curves["entropy"]
    equal = at_equal_depth(curves, 6)
    assert equal["fixed"]["50%"] == pytest.approx(curves["fixed"][2][1], abs=1e-4)
    assert all(0 <= value <= 1 for curve in equal.values() for value in curve.values())
