"""NaN in a decision: a text whose numbers overflow is reported, at once and alone, in int8 as in torch.

A checkpoint with a weight that is not finite is refused. But finite weights can still overflow: here the embedding of
one token, "zebra"'s first letter, whose sum exceeds float32.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from earlybell.inference.backends.int8 import exit_rule
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import tempered
from earlybell.inference.engine import UndefinedAnswerError, open_engine
from earlybell.inference.kernels import library
from earlybell.inference.kernels.structs import WindowState, address
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.pool.pool import Pool
from tests.inference.tiny_models import outspoken, tiny

needs_kernels = pytest.mark.skipif(library.load() is None, reason="no kernels here")
RULES = [ExitRule(), ExitRule(0.5), ExitRule(1.0), ExitRule(0.4, "agreement", 2, 0.1), ExitRule(0.4, "trend", 2)]
#: Of the tiny checkpoint's curve: full depth, agreement, trend with pruning, confidence with pruning.
DIALS = (0.0, 0.5, 0.75, 1.0)
PRECISIONS = [pytest.param("int8", marks=needs_kernels), "float32", "bfloat16"]


@pytest.fixture
def overflowing(
    tiny_model: ElbertForSequenceClassification, tiny_calibration: Calibration, tokenizer_file: Path, tmp_path: Path
) -> Path:
    with torch.no_grad():
        tiny_model.embedding.token.weight[checkpoint_id(tokenizer_file, "q")] = 3e38
    checkpoint.save(tiny_model, tokenizer_file, tiny_calibration, tmp_path / "overflowing", half=False)
    return tmp_path / "overflowing"


def checkpoint_id(tokenizer_file: Path, token: str) -> int:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(tokenizer_file)).token_to_id(token)
    assert isinstance(found, int)
    return found


@needs_kernels
@pytest.mark.parametrize("broken", [np.nan, np.inf, [np.nan, np.nan, np.nan], [np.inf, -np.inf, 0], [-np.inf] * 3])
@pytest.mark.parametrize("sharpening", [0.0, 0.2])
def test_logits_that_are_not_numbers_have_no_probabilities(broken: float | list[float], sharpening: float) -> None:
    kernels = library.load()
    assert kernels is not None
    logits = np.array([[1, 2, 3], [0, 0, 0], [3, 2, 1]], np.float32)
    expected = logits.copy()
    logits[1, : np.size(broken)] = broken
    in_torch = tempered(logits, np.array([1.5, sharpening], np.float32))
    for values in (logits, expected):
        kernels.softmax(address(values), 3, 3, 1.5, sharpening)
    assert np.isnan(logits[1]).all()
    assert np.isnan(in_torch[1]).all()
    assert np.array_equal(logits[[0, 2]], expected[[0, 2]])


@needs_kernels
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("depth", [0, 3])
def test_such_a_text_leaves_at_once_and_the_others_do_not_notice(rule: ExitRule, depth: int) -> None:
    kernels = library.load()
    assert kernels is not None
    probabilities = np.array([[0.4, 0.3, 0.3], [np.nan] * 3, [0.9, 0.05, 0.05]], np.float32)
    run, label, lead = np.ones(3, np.int32), np.zeros(3, np.int32), np.full(3, 0.1, np.float32)
    exits = np.empty(3, np.bool_)
    state = WindowState(address(run), address(label), address(lead))
    kernels.decide(exit_rule(rule, 3), address(probabilities), 3, 3, depth, state, address(exits))
    window = ConfidenceWindow(rule, 3)
    window.run, window.label = torch.ones(3, dtype=torch.int32), torch.zeros(3, dtype=torch.int64)
    window.lead = torch.full((3,), 0.1)
    in_torch = window.decide(torch.from_numpy(probabilities), depth).numpy()
    assert exits[1]
    assert exits.tolist() == in_torch.tolist()
    alone = ConfidenceWindow(rule, 2)
    alone.run, alone.label, alone.lead = torch.ones(2, dtype=torch.int32), torch.zeros(2).long(), torch.full((2,), 0.1)
    assert in_torch[[0, 2]].tolist() == alone.decide(torch.from_numpy(probabilities[[0, 2]]), depth).tolist()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dial", DIALS)
def test_an_overflow_is_an_error_in_every_precision(overflowing: Path, precision: str, dial: float) -> None:
    engine = open_engine("cpu", checkpoint=overflowing, dial=dial, precision=precision, threads=1)
    with pytest.raises(UndefinedAnswerError, match="is not a number, of 2 texts"):
        engine.score(["acme profit soars", "sales q record loss", "shares fall", "q"])
    assert np.isfinite(engine.score(["acme profit soars", "shares fall"]).probabilities).all()


@pytest.mark.parametrize("strategy", ["refill", "predict", "padded"])
def test_an_overflow_is_an_error_in_every_strategy(overflowing: Path, strategy: str) -> None:
    engine = open_engine("cpu", checkpoint=overflowing, dial=0.5, precision="float32", strategy=strategy)
    with pytest.raises(UndefinedAnswerError):
        engine.score(["acme profit soars", "sales q record loss"])


@needs_kernels
@pytest.mark.parametrize("head", ["cls", "cls_mean"])
@pytest.mark.parametrize("depth_zero_filters", [0, 16])
def test_no_exit_hides_an_overflow_of_any_token(head: str, depth_zero_filters: int, tmp_path: Path) -> None:
    """[CLS] itself may still be finite when another token is not."""
    from earlybell.inference.token_ids import TokenIds
    from tests.inference.backends.stepwise import Stepwise

    config = tiny(head=head, depth_zero_filters=depth_zero_filters)
    model = outspoken(config, seed=5)
    clean = Stepwise(model)
    with torch.no_grad():
        model.embedding.token.weight[9] = 3e38
    overflowing, tempering = Stepwise(model), np.linspace([0.7, 0.0], [2.0, 0.3], 5, dtype=np.float32)
    texts = TokenIds.pack([np.array(ids, np.int32) for ids in ([2, 5, 3], [2, 6, 9, 3], [2, 7, 8, 11, 3])])
    for rule in RULES:
        for depth in (*config.depths, None):
            answers = overflowing.backend(rule, tempering).run(texts, depth=depth)
            expected = clean.backend(rule, tempering).run(texts, depth=depth)
            assert np.isnan(answers.probabilities[1]).all()
            assert np.array_equal(answers.probabilities[[0, 2]], expected.probabilities[[0, 2]])
            assert answers.exit_depth[[0, 2]].tolist() == expected.exit_depth[[0, 2]].tolist()


async def test_the_pool_sends_that_text_alone_to_the_dead_letters(overflowing: Path) -> None:
    texts = ["acme profit soars", "shares fall", "sales q record loss", "outlook steady"]
    async with Pool(functools.partial(open_engine, checkpoint=overflowing, dial=0.5), ["cpu"]) as pool:
        result = await pool.score(texts)
        assert pool.restarts == 0
    assert list(result.faults) == [2]
    assert "UndefinedAnswerError: the answer at depth" in result.faults[2]
    assert len(result.predictions) == 3
    assert np.isfinite(result.predictions.probabilities).all()
