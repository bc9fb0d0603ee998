"""A text's answer does not depend on its neighbours, whatever the precision, strategy, dial, batch size or threads."""

from __future__ import annotations

import functools
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.engine import Engine, open_engine
from earlybell.inference.kernels import library
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.predictions import Predictions
from earlybell.signal_fields import LABELS
from tests.inference.tiny_models import outspoken, tiny

DIALS = (0.0, 0.5, 0.75, 1.0)  # full depth; agreement window; trend window, long texts pruned; entropy, all pruned
PRUNING = (Pruning(), Pruning(), Pruning(0.8, from_tokens=20), Pruning(0.6))
STRATEGIES = ("shrink", "presort", "refill")
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3, "int8": 0.0}

needs_int8 = pytest.mark.skipif(library.load() is None, reason="no kernels here")
PRECISIONS = ["float32", "bfloat16", pytest.param("int8", marks=needs_int8)]
any_precision = st.sampled_from(["float32", "bfloat16", *(["int8"] if library.load() is not None else [])])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> dict[int, Path]:
    """By groups of weights: one shared layer, and two groups of two inner layers each."""
    directories = {}
    for groups, inner_layers in ((1, 1), (2, 2)):
        model = outspoken(tiny(groups=groups, inner_layers=inner_layers), seed=groups)
        directories[groups] = tmp_path_factory.mktemp("groups") / str(groups)
        checkpoint.save(model, tokenizer_file, _calibration(), directories[groups], card="# tiny\n")
    return directories


def _calibration() -> Calibration:
    from earlybell.inference.early_exit.exit_rule import ExitRule
    from earlybell.inference.model.calibration import OperatingPoint

    rules = (ExitRule(), ExitRule(0.7, "agreement", 3, 0.1), ExitRule(0.7, "trend", 2, 0.0), ExitRule(0.9))
    curve = tuple(
        OperatingPoint(dial, rule, pruning, accuracy=0.5, accuracy_lost=0.0, mean_depth=2.0, cost=0.5)
        for dial, rule, pruning in zip(DIALS, rules, PRUNING, strict=True)
    )
    table = (8 * torch.rand((64, 5), generator=torch.Generator().manual_seed(1))).softmax(-1).numpy()
    return Calibration("tiny", ("en",), 128, (1.0, 1.5, 0.8, 1.2, 1.0), curve, 0.5, table)


@functools.cache
def cached_engine(
    directory: Path, dial: float, precision: str, strategy: str, tokens: int = 0, exact: bool = False, threads: int = 1
) -> Engine:
    return open_engine("cpu", checkpoint=directory, dial=dial, precision=precision, strategy=strategy,
                       batch_tokens=tokens, exact=exact, threads=threads)  # fmt: skip


@settings(max_examples=60)
@given(data=st.data(), precision=any_precision, strategy=st.sampled_from(STRATEGIES), dial=st.sampled_from(DIALS))
def test_an_answer_does_not_depend_on_the_neighbours(
    checkpoints: dict[int, Path], texts: list[str], data: st.DataObject, precision: str, strategy: str, dial: float
) -> None:
    directory = checkpoints[data.draw(st.sampled_from([1, 2]), "groups")]
    window = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=100), "window")
    tokens = data.draw(st.sampled_from([16, 100, 1_000, 100_000]), "batch tokens")
    threads = data.draw(st.sampled_from([1, 2]), "threads")
    alone = scored_alone(directory, dial, precision, tuple(texts))
    engine = cached_engine(directory, dial, precision, strategy, tokens, threads=threads)
    together = engine.score([texts[index] for index in window])
    assert_same(together, select(alone, window), TOLERANCE[precision])


@functools.cache
def scored_alone(directory: Path, dial: float, precision: str, texts: tuple[str, ...]) -> Predictions:
    """Return the reference: each text scored in a window by itself."""
    engine = cached_engine(directory, dial, precision, "shrink")
    return Predictions.concatenate([engine.score([text]) for text in texts], LABELS)


@settings(max_examples=40)
@given(data=st.data(), precision=any_precision, dial=st.sampled_from(DIALS))
def test_in_exact_mode_an_answer_has_the_same_bits_in_every_window(
    checkpoints: dict[int, Path], texts: list[str], data: st.DataObject, precision: str, dial: float
) -> None:
    """Fixed slots in float32 and bfloat16, any batch in int8."""
    directory = checkpoints[data.draw(st.sampled_from([1, 2]), "groups")]
    window = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=60))
    engine = cached_engine(directory, dial, precision, "auto", 256, exact=True)
    alone = scored_alone_exactly(directory, dial, precision, tuple(texts))
    assert_same(engine.score([texts[index] for index in window]), select(alone, window), 0.0)


@functools.cache
def scored_alone_exactly(directory: Path, dial: float, precision: str, texts: tuple[str, ...]) -> Predictions:
    engine = cached_engine(directory, dial, precision, "auto", 256, exact=True)
    return Predictions.concatenate([engine.score([text]) for text in texts], LABELS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_strategy_predict_runs_to_the_predicted_depth(
    checkpoints: dict[int, Path], texts: list[str], precision: str
) -> None:
    answers = cached_engine(checkpoints[1], 0.5, precision, "predict").score(texts)
    assert answers.exit_depth.tolist() == np.clip(np.rint(answers.predicted_depth), 0, 4).astype(int).tolist()
    assert len(set(answers.exit_depth.tolist())) > 1


@needs_int8
@pytest.mark.parametrize("dial", DIALS)
@pytest.mark.parametrize("groups", [1, 2])
def test_int8_is_close_to_float32(checkpoints: dict[int, Path], texts: list[str], dial: float, groups: int) -> None:
    """Use a model whose large random weights make its answers sensitive to rounding."""
    full_int8 = cached_engine(checkpoints[groups], 0.0, "int8", "shrink").score(texts)
    full_float32 = cached_engine(checkpoints[groups], 0.0, "float32", "shrink").score(texts)
    assert np.abs(full_int8.probabilities - full_float32.probabilities).mean() < 0.05
    assert (full_int8.probabilities.argmax(1) == full_float32.probabilities.argmax(1)).mean() > 0.9
    int8 = cached_engine(checkpoints[groups], dial, "int8", "shrink").score(texts)
    float32 = cached_engine(checkpoints[groups], dial, "float32", "shrink").score(texts)
    same_depth = int8.exit_depth == float32.exit_depth
    assert same_depth.mean() > 0.8
    assert np.array_equal(int8.tokens_kept[same_depth], float32.tokens_kept[same_depth])


def select(answers: Predictions, window: list[int]) -> Predictions:
    arrays = [field.name for field in fields(Predictions) if field.name != "classes"]
    return Predictions(**{name: getattr(answers, name)[window] for name in arrays}, classes=answers.classes)


def assert_same(actual: Predictions, expected: Predictions, tolerance: float) -> None:
    assert actual.tokens.tolist() == expected.tokens.tolist()
    assert actual.exit_depth.tolist() == expected.exit_depth.tolist()
    assert actual.tokens_kept.tolist() == expected.tokens_kept.tolist()
    assert np.array_equal(actual.predicted_depth, expected.predicted_depth)
    assert np.abs(actual.probabilities - expected.probabilities).max(initial=0.0) <= tolerance
    assert actual.probabilities.argmax(1).tolist() == expected.probabilities.argmax(1).tolist()
