"""Test how settings for long texts are rated and chosen, on made-up answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.model.config import Config
from tests.benchmarks.long_settings import PRECISIONS, ExitOutputs, MeasuredModel, Setting, candidates, fastest


def setting(threshold: float, lost: float, seconds: float, alpha: float = 1.0) -> Setting:
    losses = {"counted": lost, "cautious": lost}
    return Setting("made-up", "int8", alpha, ExitRule(threshold), losses, losses, seconds)  # type: ignore[arg-type]


def counted_loss(chosen: Setting) -> float:
    return chosen.lost["counted"]


def test_a_fast_setting_is_not_chosen_by_luck() -> None:
    full, early, worse, lucky = setting(0, 0, 9), setting(0.2, 0.004, 5), setting(0.4, 0.02, 3), setting(0.6, 0.001, 1)
    settings = [lucky, full, worse, early]
    assert fastest(settings, 0.005, counted_loss) is early
    assert fastest(settings, 0.02, counted_loss) is lucky
    assert fastest(settings, -1.0, counted_loss) is None


def test_a_pruned_setting_competes_with_an_unpruned_one() -> None:
    off, on = setting(0, 0, 9), setting(0, 0.004, 4, alpha=0.8)
    assert fastest([off, on], 0.005, counted_loss) is on
    assert fastest([off, on], 0.003, counted_loss) is off


def test_a_settings_time_and_loss_follow_from_its_exits() -> None:
    """Ten texts, two exits: the first is sure of half of them and wrong on one of these; the last is right."""
    truth = np.zeros(10, np.int64)
    early = np.tile([0.5, 0.5], (10, 1))
    early[:4], early[4] = [0.999, 0.001], [0.001, 0.999]
    probabilities = np.stack([early, np.tile([0.9, 0.1], (10, 1))], axis=1).astype(np.float32)
    config = Config(hidden=16, embedding=16, heads=2, layers=2, depth_zero=False, labels=("negative", "positive"))
    model = MeasuredModel(Path(), {}, config)
    model.seconds = {(precision, 1.0): np.array([1.0, 2.0, 4.0]) for precision in PRECISIONS}
    outputs, rules = {1.0: ExitOutputs(probabilities, np.ones(3))}, [ExitRule(), ExitRule(0.5)]
    settings = list(candidates("made-up", model, outputs, truth, rules, reference=1.0))
    full, exits = (next(item for item in settings if item.rule.threshold == threshold) for threshold in (0.0, 0.5))
    assert (full.seconds, full.lost["counted"]) == (7.0, 0.0)
    assert exits.seconds == pytest.approx(1.0 + 2.0 + 4.0 / 2)
    assert exits.lost["counted"] == pytest.approx(0.1)
    assert exits.lost["cautious"] > 0.1
