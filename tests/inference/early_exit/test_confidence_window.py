from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earlybell.inference.early_exit.confidence_window import ConfidenceWindow, exit_depths, normalised_entropy
from earlybell.inference.early_exit.exit_rule import ExitRule


def probabilities(seed: int, texts: int = 40, exits: int = 8, classes: int = 3, sharpness: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # A random walk over depths: neighbouring exits mostly agree, as in a model.
    steps = torch.randn((texts, exits, classes), generator=generator) * sharpness
    return steps.cumsum(1).softmax(-1)


rules = st.builds(
    ExitRule,
    threshold=st.floats(0, 1),
    window_rule=st.sampled_from(["off", "agreement", "trend"]),
    window=st.integers(1, 6),
    margin=st.floats(0, 0.9),
)
seeds = st.integers(0, 10_000)


def test_entropy_is_0_when_certain_and_1_when_uniform() -> None:
    entropy = normalised_entropy(torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]))
    assert entropy.tolist() == pytest.approx([0.0, 1.0, 0.6309], abs=1e-4)


@given(seed=seeds, patience=st.integers(1, 5))
def test_two_classes_without_margin_or_entropy_is_pabee(seed: int, patience: int) -> None:
    """PABEE (arXiv 2006.04152): exit when the answer has stayed the same ``patience`` times in a row."""
    batch = probabilities(seed, classes=2)
    expected = []
    for text in batch:
        unchanged, exit_depth = 0, len(text)
        for depth, p in enumerate(text, start=1):
            unchanged = unchanged + 1 if depth > 1 and p.argmax() == text[depth - 2].argmax() else 0
            if unchanged == patience:
                exit_depth = depth
                break
        expected.append(exit_depth)
    rule = ExitRule(window_rule="agreement", window=patience + 1)
    assert exit_depths(batch, rule, first_depth=1).tolist() == expected


@given(seed=seeds, threshold=st.floats(0, 1))
def test_without_a_window_it_is_fastberts_entropy_exit(seed: int, threshold: float) -> None:
    batch = probabilities(seed)
    certain = normalised_entropy(batch.flatten(0, 1)).view(batch.shape[:2]) < threshold
    certain[:, -1] = True
    assert exit_depths(batch, ExitRule(threshold), 1).tolist() == (certain.int().argmax(1) + 1).tolist()


@given(seed=seeds, rule=st.sampled_from(["off", "agreement", "trend"]))
def test_threshold_0_and_a_window_longer_than_the_model_is_full_depth(seed: int, rule: str) -> None:
    batch = probabilities(seed)
    never = ExitRule(0.0, rule, 9, 0.0)  # type: ignore[arg-type]
    assert exit_depths(batch, never, 1).tolist() == [8] * len(batch)


@given(seed=seeds, rule=rules, higher=st.floats(0, 1))
def test_a_higher_threshold_never_exits_later(seed: int, rule: ExitRule, higher: float) -> None:
    low, high = sorted((rule.threshold, higher))
    by_threshold = {
        threshold: exit_depths(probabilities(seed), ExitRule(threshold, rule.window_rule, rule.window, rule.margin), 0)
        for threshold in (low, high)
    }
    assert bool((by_threshold[high] <= by_threshold[low]).all())


@given(seed=seeds, rule=rules)
def test_an_exit_does_not_depend_on_the_batch(seed: int, rule: ExitRule) -> None:
    """Permuting the batch permutes the exits, and each text alone exits where it does in the batch."""
    batch = probabilities(seed, texts=12)
    together = exit_depths(batch, rule, 0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    assert exit_depths(batch[order], rule, 0).tolist() == together[order].tolist()
    assert [int(exit_depths(text[None], rule, 0)) for text in batch] == together.tolist()


def test_the_window_does_not_count_depth_0() -> None:
    constant = torch.tensor([0.1, 0.8, 0.1]).repeat(1, 5, 1)
    rule = ExitRule(window_rule="agreement", window=2)
    assert exit_depths(constant, rule, first_depth=0).tolist() == [2]
    assert exit_depths(constant, rule, first_depth=1).tolist() == [2]
    assert exit_depths(constant, ExitRule(threshold=0.9), first_depth=0).tolist() == [0]


def test_agreement_and_trend_differ_where_confidence_falls() -> None:
    falling = torch.tensor([[[0.1, 0.8, 0.1], [0.15, 0.7, 0.15], [0.2, 0.6, 0.2], [0.1, 0.65, 0.25]]])
    assert exit_depths(falling, ExitRule(window_rule="agreement", window=2, margin=0.3), 1).tolist() == [2]
    assert exit_depths(falling, ExitRule(window_rule="trend", window=2), 1).tolist() == [4]
    # Depth 3 leads by only 0.4: a margin of 0.45 breaks the run, and depth 4 cannot restore it.
    assert exit_depths(falling, ExitRule(window_rule="agreement", window=3, margin=0.45), 1).tolist() == [4]


@given(seed=seeds, rule=rules)
@settings(max_examples=50)
def test_refilled_slots_exit_as_a_batch_does(seed: int, rule: ExitRule) -> None:
    """`reset` and a depth per row, which continuous batching needs, change no exit."""
    batch = probabilities(seed, texts=9)
    expected = exit_depths(batch, rule, 0)
    slots, queue = [0, 1, 2], [3, 4, 5, 6, 7, 8]
    window, depth, exit_depth = ConfidenceWindow(rule, 3), torch.zeros(3, dtype=torch.int64), {}
    while slots:
        p = torch.stack([batch[text, int(depth[slot])] for slot, text in enumerate(slots)])
        exits = window.decide(p, depth) | (depth == 7)
        for slot in exits.nonzero().flatten().tolist():
            exit_depth[slots[slot]] = int(depth[slot])
        depth += 1
        stays = ~exits
        for slot in exits.nonzero().flatten().tolist():
            if queue:
                slots[slot] = queue.pop(0)
                window.reset(torch.tensor([slot]))
                depth[slot] = 0
                stays[slot] = True
        window.select(stays)
        depth, slots = depth[stays], [text for text, stay in zip(slots, stays.tolist(), strict=True) if stay]
    assert [exit_depth[text] for text in range(9)] == expected.tolist()


@pytest.mark.parametrize("values", [{"threshold": 1.5}, {"threshold": -0.1}, {"window": 0}, {"margin": 1.1}])
def test_an_invalid_rule_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|at least"):
        ExitRule(**values)  # type: ignore[arg-type]
