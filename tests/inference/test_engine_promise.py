"""A text's answer does not depend on its neighbours, over everything that could break that."""

from __future__ import annotations

import functools
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earlybell.inference.engine import Engine, open_engine
from earlybell.inference.kernels.build import library
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.predictions import Predictions
from tests.inference.tiny_models import outspoken, tiny

DIALS = (0.0, 0.5, 0.75, 1.0)  # full depth; agreement window; trend window, pruned; entropy, pruned more
STRATEGIES = ("shrink", "presort", "refill")
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3, "int8": 0.0}

needs_int8 = pytest.mark.skipif(library() is None, reason="no C compiler here: no int8 kernels")
PRECISIONS = ["float32", "bfloat16", pytest.param("int8", marks=needs_int8)]
drawn_precisions = st.sampled_from(["float32", "bfloat16", *(["int8"] if library() is not None else [])])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> dict[int, Path]:
    """By groups of weights: one shared layer, and two groups of two inner layers each."""
    found = {}
    for groups, inner in ((1, 1), (2, 2)):
        model = outspoken(tiny(groups=groups, inner_layers=inner), seed=groups)
        found[groups] = tmp_path_factory.mktemp("groups") / str(groups)
        checkpoint.save(model, tokenizer_file, _calibration(), found[groups], card="# tiny\n")
    return found


def _calibration() -> Calibration:
    from earlybell.inference.early_exit.confidence_window import ExitRule
    from earlybell.inference.model.calibration import OperatingPoint

    rules = (ExitRule(), ExitRule(0.7, "agreement", 3, 0.1), ExitRule(0.7, "trend", 2, 0.0), ExitRule(0.9))
    curve = tuple(
        OperatingPoint(dial, rule, alpha, accuracy=0.5, accuracy_lost=0.0, mean_depth=2.0, cost=0.5)
        for dial, rule, alpha in zip(DIALS, rules, (1.0, 1.0, 0.8, 0.6), strict=True)
    )
    table = (8 * torch.rand((64, 5), generator=torch.Generator().manual_seed(1))).softmax(-1)
    return Calibration("tiny", ("en",), 128, (1.0, 1.5, 0.8, 1.2, 1.0), curve, 0.5, table)


@functools.cache
def opened(
    directory: Path, dial: float, precision: str, strategy: str, tokens: int = 0, exact: bool = False, threads: int = 1
) -> Engine:
    return open_engine("cpu", checkpoint=directory, dial=dial, precision=precision, strategy=strategy,
                       batch_tokens=tokens, exact=exact, threads=threads)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(data=st.data(), precision=drawn_precisions, strategy=st.sampled_from(STRATEGIES), dial=st.sampled_from(DIALS))
def test_an_answer_does_not_depend_on_the_neighbours(
    checkpoints: dict[int, Path], texts: list[str], data: st.DataObject, precision: str, strategy: str, dial: float
) -> None:
    directory = checkpoints[data.draw(st.sampled_from([1, 2]), "groups")]
    window = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=100), "window")
    tokens = data.draw(st.sampled_from([16, 100, 1_000, 100_000]), "batch tokens")
    threads = data.draw(st.sampled_from([1, 2]), "threads")
    alone = one_by_one(directory, dial, precision, tuple(texts))
    found = opened(directory, dial, precision, strategy, tokens, threads=threads).score([texts[i] for i in window])
    same(found, rows_of(alone, window), TOLERANCE[precision])


@functools.cache
def one_by_one(directory: Path, dial: float, precision: str, texts: tuple[str, ...]) -> Predictions:
    """The reference: each text in a window of its own."""
    engine = opened(directory, dial, precision, "shrink")
    return Predictions.concatenate([engine.score([text]) for text in texts], 3)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), precision=drawn_precisions, dial=st.sampled_from(DIALS))
def test_the_exact_mode_gives_the_same_bits(
    checkpoints: dict[int, Path], texts: list[str], data: st.DataObject, precision: str, dial: float
) -> None:
    """Fixed slots in float32 and bfloat16, any batch in int8."""
    directory = checkpoints[data.draw(st.sampled_from([1, 2]), "groups")]
    window = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=60))
    engine = opened(directory, dial, precision, "auto", 256, exact=True)
    alone = exactly_one_by_one(directory, dial, precision, tuple(texts))
    same(engine.score([texts[index] for index in window]), rows_of(alone, window), 0.0)


@functools.cache
def exactly_one_by_one(directory: Path, dial: float, precision: str, texts: tuple[str, ...]) -> Predictions:
    engine = opened(directory, dial, precision, "auto", 256, exact=True)
    return Predictions.concatenate([engine.score([text]) for text in texts], 3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_pure_prediction_runs_to_the_predicted_depth(
    checkpoints: dict[int, Path], texts: list[str], precision: str
) -> None:
    found = opened(checkpoints[1], 0.5, precision, "predict").score(texts)
    assert found.exit_depth.tolist() == np.clip(np.rint(found.predicted_depth), 0, 4).astype(int).tolist()
    assert len(set(found.exit_depth.tolist())) > 1


@needs_int8
@pytest.mark.parametrize("dial", DIALS)
@pytest.mark.parametrize("groups", [1, 2])
def test_int8_is_close_to_float32(checkpoints: dict[int, Path], texts: list[str], dial: float, groups: int) -> None:
    """On a model whose blown-up weights leave little between one answer and another."""
    whole = opened(checkpoints[groups], 0.0, "int8", "shrink").score(texts)
    float32 = opened(checkpoints[groups], 0.0, "float32", "shrink").score(texts)
    assert np.abs(whole.probabilities - float32.probabilities).mean() < 0.03
    assert (whole.probabilities.argmax(1) == float32.probabilities.argmax(1)).mean() > 0.9
    exits = opened(checkpoints[groups], dial, "int8", "shrink").score(texts)
    others = opened(checkpoints[groups], dial, "float32", "shrink").score(texts)
    assert (exits.exit_depth == others.exit_depth).mean() > 0.8
    alike = exits.exit_depth == others.exit_depth
    assert np.array_equal(exits.tokens_kept[alike], others.tokens_kept[alike])


def rows_of(answers: Predictions, window: list[int]) -> Predictions:
    return Predictions(**{field.name: getattr(answers, field.name)[window] for field in fields(Predictions)})


def same(one: Predictions, other: Predictions, tolerance: float) -> None:
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.exit_depth.tolist() == other.exit_depth.tolist()
    assert one.tokens_kept.tolist() == other.tokens_kept.tolist()
    assert np.array_equal(one.predicted_depth, other.predicted_depth)
    assert np.abs(one.probabilities - other.probabilities).max(initial=0.0) <= tolerance
    assert one.probabilities.argmax(1).tolist() == other.probabilities.argmax(1).tolist()
