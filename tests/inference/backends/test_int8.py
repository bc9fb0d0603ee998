"""The whole forward pass in one call against the same kernels step by step, and CWB in C against its definition."""

from __future__ import annotations

import ctypes
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
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow, ExitRule, normalised_entropy
from earlybell.inference.early_exit.token_pruning import kept_tokens
from earlybell.inference.kernels import build
from earlybell.inference.kernels.structs import WindowState, address
from tests.inference.backends.stepwise import Stepwise
from tests.inference.tiny_models import outspoken, tiny

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C compiler here: no int8 kernels")

RULES = [
    ExitRule(),
    ExitRule(0.8),
    ExitRule(1.0),
    ExitRule(0.4, "agreement", 3, 0.2),
    ExitRule(0.4, "agreement", 1, 0.5),
    ExitRule(0.3, "trend", 2),
]


def kernels() -> ctypes.CDLL:
    library = build.library()
    assert library is not None
    return library


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("alpha", "shape"),
    [
        (1.0, {"depth_zero_filters": 16}),
        (1.0, {"groups": 4, "depth_zero": False, "head": "cls"}),
        (0.7, {"groups": 2, "inner_layers": 2}),
    ],
)
def test_one_call_answers_as_the_kernels_do_step_by_step(rule: ExitRule, alpha: float, shape: dict[str, int]) -> None:
    model = outspoken(tiny(**shape), seed=5)
    exits = len(model.config.depths)
    temperatures = np.linspace(0.7, 2.0, exits, dtype=np.float32)
    generator = np.random.default_rng(2)
    texts = [generator.integers(1, 64, int(n), dtype=np.int32) for n in [*generator.integers(2, 40, 60), 1, 128, 97]]
    window = Window(texts, np.full(len(texts), np.nan, np.float32))
    steps = Stepwise(model)
    expected = Answers.empty(len(texts), model.config.classes)
    for row, text in enumerate(texts):
        expected.put(np.array([row]), steps.run(text, rule, temperatures, alpha))
    if 0 < rule.threshold < 1:
        assert len(set(expected.exit_depth.tolist())) > 1
    for batch_tokens in (1, 300, 100_000):
        backend = steps.backend(rule, temperatures, alpha, batch_tokens)
        same(backend.run(texts), expected)
        for strategy in ("shrink", "presort", "refill"):
            same(STRATEGIES[strategy].run(backend, window), expected)


@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_a_batch_runs_to_the_depth_it_is_told(alpha: float) -> None:
    model = outspoken(tiny(groups=2), seed=5)
    temperatures = np.linspace(0.7, 2.0, 5, dtype=np.float32)
    generator = np.random.default_rng(2)
    texts = [generator.integers(1, 64, int(n), dtype=np.int32) for n in (2, 40, 17)]
    steps = Stepwise(model)
    backend = steps.backend(RULES[2], temperatures, alpha)
    for depth in model.config.depths:
        answers = backend.run(texts, depth=depth)
        assert answers.exit_depth.tolist() == [depth] * 3
        packed = steps.embed(texts)
        keep = kept_tokens(torch.from_numpy(packed.lengths), alpha, 4).numpy().astype(np.int32)
        for level in range(1, depth + 1):
            kept = np.ascontiguousarray(keep[:, level - 1]) if alpha < 1.0 else None
            steps.deepen(packed, model.config.group_at(level), kept)
        expected = steps.softmax(steps.logits(packed, depth), float(temperatures[depth]))
        assert np.array_equal(answers.probabilities, expected)
        assert answers.tokens_kept.tolist() == packed.lengths.tolist()
        unpruned = backend.run(texts, depth=depth, prunes=False)
        assert unpruned.tokens_kept.tolist() == [2, 40, 17]


def same(answers: Answers, expected: Answers) -> None:
    assert np.array_equal(answers.probabilities, expected.probabilities)
    assert answers.exit_depth.tolist() == expected.exit_depth.tolist()
    assert answers.tokens_kept.tolist() == expected.tokens_kept.tolist()


def test_no_texts_no_answers() -> None:
    backend = Stepwise(outspoken(tiny(), seed=5)).backend(RULES[1], np.ones(5, np.float32))
    assert backend.run([]).probabilities.shape == (0, 3)


@settings(max_examples=300, deadline=None)
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
def test_the_kernels_decide_as_the_confidence_window_does(
    seed: int, texts: int, classes: int, sharpness: float, first: int, rule: ExitRule
) -> None:
    """A text's class stays for a few depths, as in a model, so that windows fill."""
    generator = np.random.default_rng(seed)
    leaning = generator.normal(size=(texts, classes))
    window = ConfidenceWindow(rule, texts)
    run, label, lead = np.zeros(texts, np.int32), np.full(texts, -1, np.int32), np.zeros(texts, np.float32)
    state = WindowState(address(run), address(label), address(lead))
    library = kernels()
    for depth in range(first, 7):
        logits = sharpness * (leaning + 0.5 * generator.normal(size=(texts, classes)))
        probabilities = logits.astype(np.float32)
        library.earlybell_softmax(address(probabilities), texts, classes, 1.5)
        expected = torch.from_numpy(logits.astype(np.float32) / np.float32(1.5)).softmax(-1)
        assert probabilities == pytest.approx(expected.numpy(), abs=1e-6)
        exits = np.empty(texts, np.bool_)
        library.earlybell_decide(
            byref(exit_rule(rule, classes)), address(probabilities), texts, classes, depth, byref(state), address(exits)
        )
        wanted = window.decide(torch.from_numpy(probabilities), depth).numpy()
        edge = on_the_edge(probabilities, rule)
        assert exits[~edge].tolist() == wanted[~edge].tolist()
        if rule.window_rule != "off":
            assert run[~edge].tolist() == window.run.numpy()[~edge].tolist()
            assert label[~edge].tolist() == window.label.numpy()[~edge].tolist()
            assert lead.tolist() == window.lead.tolist()
            # From an edge either may be right; go on from the same place.
            window.run, window.label = torch.from_numpy(run.copy()), torch.from_numpy(label.astype(np.int64))


def on_the_edge(probabilities: NDArray[np.float32], rule: ExitRule) -> NDArray[np.bool_]:
    """Where a rounding in the last bit decides: the entropy is the threshold, or two classes are equal."""
    entropy = normalised_entropy(torch.from_numpy(probabilities)).numpy()
    top = np.sort(probabilities, axis=1)
    tie = top[:, -1] == top[:, -2]
    edge: NDArray[np.bool_] = (np.abs(entropy - rule.threshold) < 1e-6) | tie
    return edge
