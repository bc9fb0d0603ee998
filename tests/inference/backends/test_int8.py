"""Texts through all depths in one call, against the same kernels depth by depth, and CWB against its definition."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_float, c_int64

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from earlybell.inference.backends.int8 import FORMS, Rule, Said
from earlybell.inference.backends.int8_weights import QuantisedEncoder, at
from earlybell.inference.backends.packed_batches import PackedBatch, PackedEncoder
from earlybell.inference.batching.backend import Answers, Ids, Window
from earlybell.inference.batching.strategies import refill, shrink
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow, ExitRule, normalised_entropy
from earlybell.inference.kernels import build
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
    found = build.library()
    assert found is not None
    return found


class Stepwise:
    """The same encoder, carried depth by depth by its strategy."""

    pads = False

    def __init__(self, encoder: PackedEncoder) -> None:
        self._encoder = encoder
        self.config, self.rule, self.batch_tokens = encoder.config, encoder.rule, encoder.batch_tokens

    def start(self, rows: Sequence[Ids], width: int, prunes: bool = True) -> PackedBatch:
        return self._encoder.start(rows, width, prunes)

    def answer(self, rows: Sequence[Ids]) -> None:
        return None

    def slots(self, width: int) -> None:
        return None


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("alpha", "shape"),
    [
        (1.0, {"depth_zero_filters": 16}),
        (1.0, {"groups": 4, "depth_zero": False, "head": "cls"}),
        (0.7, {"groups": 2, "inner_layers": 2}),
    ],
)
def test_one_call_says_what_the_steps_say(rule: ExitRule, alpha: float, shape: dict[str, int]) -> None:
    model = outspoken(tiny(**shape), seed=5)
    exits = len(model.config.depths)
    temperatures = np.linspace(0.7, 2.0, exits, dtype=np.float32)
    generator = np.random.default_rng(2)
    rows = [generator.integers(1, 64, int(n), dtype=np.int32) for n in [*generator.integers(2, 40, 60), 1, 128, 97]]
    window = Window(rows, np.full(len(rows), np.nan, np.float32))
    steps = PackedEncoder(QuantisedEncoder(model, kernels()), rule, temperatures, alpha, 300)
    for strategy in (shrink, refill):
        expected = strategy(Stepwise(steps), window)
        if 0 < rule.threshold < 1:
            assert len(set(expected.exit_depth.tolist())) > 1
        for batch_tokens in (1, 300, 100_000):
            encoder = PackedEncoder(steps.kernels, rule, temperatures, alpha, batch_tokens)
            assert_same(strategy(encoder, window), expected)
            assert_same(encoder.answer(rows), expected)


def assert_same(one: Answers, other: Answers) -> None:
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one.exit_depth.tolist() == other.exit_depth.tolist()
    assert one.tokens_kept.tolist() == other.tokens_kept.tolist()


def test_no_texts_no_answers() -> None:
    model = outspoken(tiny(), seed=5)
    encoder = PackedEncoder(QuantisedEncoder(model, kernels()), RULES[1], np.ones(5, np.float32), 1.0, 300)
    assert encoder.answer([]).probabilities.shape == (0, 3)


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
        st.sampled_from(FORMS),
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
    said = Said(run.ctypes.data, label.ctypes.data, lead.ctypes.data)
    for depth in range(first, 7):
        logits = sharpness * (leaning + 0.5 * generator.normal(size=(texts, classes)))
        found = logits.astype(np.float32)
        kernels().earlybell_probabilities(at(found), c_int64(texts), c_int64(classes), c_float(1.5))
        expected = torch.from_numpy(logits.astype(np.float32) / np.float32(1.5)).softmax(-1)
        assert found == pytest.approx(expected.numpy(), abs=1e-6)
        leaves = np.empty(texts, np.bool_)
        kernels().earlybell_decide(
            byref(Rule.of(rule, classes)), at(found), c_int64(texts), c_int64(classes), c_int64(depth), byref(said),
            at(leaves),
        )  # fmt: skip
        wanted = window.decide(torch.from_numpy(found), depth).numpy()
        edge = on_the_edge(found, rule)
        assert leaves[~edge].tolist() == wanted[~edge].tolist()
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
    found: NDArray[np.bool_] = (np.abs(entropy - rule.threshold) < 1e-6) | tie
    return found
