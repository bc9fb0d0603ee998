from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.engine import open_engine
from earlybell.inference.model import checkpoint
from earlybell.inference.training.data import DataError, Example
from earlybell.inference.training.prune import Search, lost_by_pruning, prune

LENIENT = Search(alphas=(0.9, 0.7), from_tokens=16, max_loss=1.0, texts=40)


def test_the_loss_is_expected_from_full_depth_and_at_least_what_labels_count() -> None:
    unpruned = np.tile(np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)[:, None], (1, 2, 1))
    pruned = unpruned.copy()
    pruned[1] = [0.4, 0.6]
    rule = ExitRule()
    assert lost_by_pruning(rule, unpruned, unpruned, 0) == 0.0
    differences = np.array([0.0, 0.2])
    cautious = differences.mean() + 2 * differences.std() / np.sqrt(2)
    assert lost_by_pruning(rule, pruned, unpruned, 0) == pytest.approx(cautious, abs=1e-6)
    assert lost_by_pruning(rule, pruned, unpruned, 0, np.array([0, 0])) == pytest.approx(0.5)
    assert lost_by_pruning(rule, pruned, unpruned, 0, np.array([0, 1])) == pytest.approx(cautious, abs=1e-6)


def test_long_texts_are_pruned_at_every_dial_but_0_and_short_ones_keep_their_answers(
    tiny_checkpoint: Path, texts: list[str]
) -> None:
    def answers(dial: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        predictions = open_engine("cpu", checkpoint=tiny_checkpoint, dial=dial, precision="float32").score(texts)
        return predictions.probabilities, predictions.tokens, predictions.tokens_kept

    before = answers(0.5)
    revision, record = prune(tiny_checkpoint, texts, LENIENT)
    loaded = checkpoint.load(tiny_checkpoint)
    assert loaded.revision == revision
    assert [point.pruning for point in loaded.calibration.curve] == [Pruning(), *[Pruning(0.7, 16)] * 3]
    assert record["alpha"] == 0.7
    kept = json.loads((tiny_checkpoint / "calibration-record.json").read_text())["pruning"]
    assert [tried["alpha"] for tried in kept["tried"]] == [0.9, 0.7]
    probabilities, tokens, alive = answers(0.5)
    short = tokens < 16
    assert short.any()
    assert np.allclose(probabilities[short], before[0][short], atol=1e-6)
    assert np.array_equal(alive[short], before[2][short])
    assert bool((alive[~short] <= tokens[~short]).all())
    assert bool((alive[~short] < tokens[~short]).any())
    assert np.array_equal(answers(0.0)[1], answers(0.0)[2]), "dial 0 never prunes"


def test_a_share_that_loses_too_much_ends_the_search(tiny_checkpoint: Path, texts: list[str]) -> None:
    labelled = [Example(text, "positive", "made") for text in texts]
    strict = Search(alphas=(0.5, 0.3), from_tokens=16, max_loss=-1.0, texts=40)
    _, record = prune(tiny_checkpoint, labelled, strict)
    assert record["alpha"] == 1.0
    assert [tried["alpha"] for tried in record["tried"]] == [0.5], "the larger share is tried first"
    assert all(point.pruning.never for point in checkpoint.load(tiny_checkpoint).calibration.curve)


def test_texts_that_are_too_short_are_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(DataError, match="give longer ones"):
        prune(tiny_checkpoint, ["acme profit soars"], LENIENT)
