"""The forward pass in one call against the same kernels step by step, and CWB in C against CWB in Python."""

from __future__ import annotations

from ctypes import byref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from earlybell.inference.backends.int8 import WINDOW_RULES, exit_rule
from earlybell.inference.batching.backend import Answers, Window
from earlybell.inference.batching.strategies import STRATEGIES
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow, normalised_entropy
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import tempered, unsharpened
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.kernels import library
from earlybell.inference.kernels.library import Kernels
from earlybell.inference.kernels.structs import WindowState, address
from earlybell.inference.token_ids import TokenIds
from tests.inference.backends.stepwise import Stepwise
from tests.inference.tiny_models import outspoken, tiny

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels here")

RULES = [
    ExitRule(),
    ExitRule(0.8),
    ExitRule(1.0),
    ExitRule(0.4, "agreement", 3, 0.2),
    ExitRule(0.4, "agreement", 1, 0.5),
    ExitRule(0.3, "trend", 2),
]


def kernels() -> Kernels:
    loaded = library.load()
    assert loaded is not None
    return loaded


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("pruning", "shape"),
    [
        (Pruning(), {"depth_zero_filters": 16}),
        (Pruning(), {"groups": 4, "depth_zero": False, "head": "cls"}),
        (Pruning(0.7), {"groups": 2, "inner_layers": 2}),
        (Pruning(0.7, from_tokens=20), {"groups": 2}),
    ],
)
def test_one_call_gives_the_answers_of_the_kernels_step_by_step(
    rule: ExitRule, pruning: Pruning, shape: dict[str, int]
) -> None:
    model = outspoken(tiny(**shape), seed=5)
    exits = len(model.config.depths)
    tempering = np.linspace([0.7, 0.0], [2.0, 0.3], exits, dtype=np.float32)
    generator = np.random.default_rng(2)
    lengths = [*generator.integers(2, 40, 60), 1, 128, 97]
    texts = TokenIds.pack(generator.integers(1, 64, int(length), dtype=np.int32) for length in lengths)
    window = Window(texts, np.full(len(texts), np.nan, np.float32))
    stepwise = Stepwise(model)
    expected = Answers.empty(len(texts), model.config.classes)
    for row, text in enumerate(texts):
        expected.put(np.array([row]), stepwise.run(text, rule, tempering, pruning))
    if 0 < rule.threshold < 1:
        assert len(set(expected.exit_depth.tolist())) > 1
    for batch_tokens in (1, 300, 100_000):
        backend = stepwise.backend(rule, tempering, pruning, batch_tokens)
        assert_same(backend.run(texts), expected)
        for strategy in ("shrink", "presort", "refill"):
            assert_same(STRATEGIES[strategy].run(backend, window), expected)


@pytest.mark.parametrize("pruning", [Pruning(), Pruning(0.7)])
def test_a_batch_runs_to_the_given_depth(pruning: Pruning) -> None:
    model = outspoken(tiny(groups=2), seed=5)
    tempering = np.linspace([0.7, 0.0], [2.0, 0.3], 5, dtype=np.float32)
    generator = np.random.default_rng(2)
    texts = TokenIds.pack(generator.integers(1, 64, length, dtype=np.int32) for length in (2, 40, 17))
    stepwise = Stepwise(model)
    backend = stepwise.backend(RULES[2], tempering, pruning)
    for depth in model.config.depths:
        answers = backend.run(texts, depth=depth)
        assert answers.exit_depth.tolist() == [depth] * 3
        packed = stepwise.embed(texts)
        keep = pruning.kept(packed.lengths, 4).astype(np.int32)
        for level in range(1, depth + 1):
            kept = None if pruning.never else np.ascontiguousarray(keep[:, level - 1])
            stepwise.deepen(packed, model.config.group_at(level), kept)
        expected = stepwise.softmax(stepwise.logits(packed, depth), tempering[depth])
        assert np.array_equal(answers.probabilities, expected)
        assert answers.tokens_kept.tolist() == packed.lengths.tolist()
        unpruned = backend.run(texts, depth=depth, prunes=False)
        assert unpruned.tokens_kept.tolist() == [2, 40, 17]


def assert_same(actual: Answers, expected: Answers) -> None:
    assert np.array_equal(actual.probabilities, expected.probabilities)
    assert actual.exit_depth.tolist() == expected.exit_depth.tolist()
    assert actual.tokens_kept.tolist() == expected.tokens_kept.tolist()


def test_an_empty_batch_has_no_answers() -> None:
    backend = Stepwise(outspoken(tiny(), seed=5)).backend(RULES[1], unsharpened([1.0] * 5))
    assert backend.run(TokenIds.pack([])).probabilities.shape == (0, 3)


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    texts=st.integers(1, 20),
    classes=st.integers(2, 5),
    sharpness=st.sampled_from([0.3, 2.0, 10.0, 200.0]),
    first=st.integers(0, 1),
    rule=st.builds(
        ExitRule,
        st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        st.sampled_from(WINDOW_RULES),
        st.integers(1, 4),
        st.sampled_from([0.0, 0.1, 0.6]),
    ),
)
def test_the_kernels_exit_rule_agrees_with_the_confidence_window(
    seed: int, texts: int, classes: int, sharpness: float, first: int, rule: ExitRule
) -> None:
    """A text's class persists over depths, as in a model, so that windows fill."""
    generator = np.random.default_rng(seed)
    tendency = generator.normal(size=(texts, classes))
    window = ConfidenceWindow(rule, texts)
    run, label, lead = np.zeros(texts, np.int32), np.full(texts, -1, np.int32), np.zeros(texts, np.float32)
    state = WindowState(address(run), address(label), address(lead))
    loaded = kernels()
    for depth in range(first, 7):
        logits = sharpness * (tendency + 0.5 * generator.normal(size=(texts, classes)))
        probabilities = logits.astype(np.float32)
        loaded.softmax(address(probabilities), texts, classes, 1.5, 0.1)
        expected = tempered(logits.astype(np.float32), np.array([1.5, 0.1], np.float32))
        assert probabilities == pytest.approx(expected, abs=1e-6)
        exits = np.empty(texts, np.bool_)
        loaded.decide(
            byref(exit_rule(rule, classes)), address(probabilities), texts, classes, depth, byref(state), address(exits)
        )
        expected_exits = window.decide(torch.from_numpy(probabilities), depth).numpy()
        borderline = is_borderline(probabilities, rule)
        assert exits[~borderline].tolist() == expected_exits[~borderline].tolist()
        if rule.window_rule != "off":
            assert run[~borderline].tolist() == window.run.numpy()[~borderline].tolist()
            assert label[~borderline].tolist() == window.label.numpy()[~borderline].tolist()
            assert lead.tolist() == window.lead.tolist()
            # In a borderline case both are right; continue from the same state.
            window.run, window.label = torch.from_numpy(run.copy()), torch.from_numpy(label.astype(np.int64))


def is_borderline(probabilities: NDArray[np.float32], rule: ExitRule) -> NDArray[np.bool_]:
    """Return where the last bit decides: the entropy is at the threshold, or two classes tie. (texts,)"""
    entropy = normalised_entropy(torch.from_numpy(probabilities)).numpy()
    top = np.sort(probabilities, axis=1)
    tie = top[:, -1] == top[:, -2]
    borderline: NDArray[np.bool_] = (np.abs(entropy - rule.threshold) < 1e-6) | tie
    return borderline
