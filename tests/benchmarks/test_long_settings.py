"""How settings for long texts are judged and chosen, on made-up answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.model.elbert import Config
from tests.benchmarks.long_settings import PRECISIONS, Seen, Setting, Subject, candidates, fastest


def setting(threshold: float, lost: float, seconds: float, alpha: float = 1.0) -> Setting:
    losses = {"counted": lost, "cautious": lost}
    return Setting("made", "int8", alpha, ExitRule(threshold), losses, losses, seconds)  # type: ignore[arg-type]


def test_a_hasty_setting_is_not_chosen_for_its_luck() -> None:
    full, early, worse, lucky = setting(0, 0, 9), setting(0.2, 0.004, 5), setting(0.4, 0.02, 3), setting(0.6, 0.001, 1)
    everything = [lucky, full, worse, early]
    assert fastest(everything, 0.005, lambda one: one.lost["counted"]) is early
    assert fastest(everything, 0.02, lambda one: one.lost["counted"]) is lucky
    assert fastest(everything, -1.0, lambda one: one.lost["counted"]) is None


def test_pruning_competes_with_none() -> None:
    off, on = setting(0, 0, 9), setting(0, 0.004, 4, alpha=0.8)
    assert fastest([off, on], 0.005, lambda one: one.lost["counted"]) is on
    assert fastest([off, on], 0.003, lambda one: one.lost["counted"]) is off


def test_a_setting_costs_the_depths_that_it_runs_and_loses_what_it_gets_wrong() -> None:
    """Ten texts, two exits: the first is sure of half of them and wrong on one of these; the last is right."""
    truth = np.zeros(10, np.int64)
    early = np.tile([0.5, 0.5], (10, 1))
    early[:4], early[4] = [0.999, 0.001], [0.001, 0.999]
    said = np.stack([early, np.tile([0.9, 0.1], (10, 1))], axis=1).astype(np.float32)
    config = Config(hidden=16, embedding=16, heads=2, layers=2, depth_zero=False, labels=("negative", "positive"))
    subject = Subject(Path(), {}, config)
    subject.seconds = {(precision, 1.0): np.array([1.0, 2.0, 4.0]) for precision in PRECISIONS}
    found = list(
        candidates("made", subject, {1.0: Seen(said, np.ones(3))}, truth, [ExitRule(), ExitRule(0.5)], reference=1.0)
    )
    full, exits = (next(one for one in found if one.rule.threshold == threshold) for threshold in (0.0, 0.5))
    assert (full.seconds, full.lost["counted"]) == (7.0, 0.0)
    assert exits.seconds == pytest.approx(1.0 + 2.0 + 4.0 / 2)
    assert exits.lost["counted"] == pytest.approx(0.1)
    assert exits.lost["cautious"] > 0.1
