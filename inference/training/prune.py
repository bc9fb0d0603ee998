"""`earlybell prune`: finds the share of tokens that each layer may keep of a long text, and adds it to the dial.

Headlines lose too much by token pruning (ACC) and gain little, so it begins at a length. The share is the smallest one
that, like every larger one, loses at most the budget at every position of the dial but 0.
A loss is against the same position without pruning. Must never see the report sets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.early_exit.confidence_window import exit_depths
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import tempered
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.token_ids import TokenIds
from earlybell.inference.training.card import CALIBRATION_RECORD_FILE
from earlybell.inference.training.data import DataError, Example
from earlybell.inference.training.optimise import all_logits, keep_of
from earlybell.inference.training.pruning import speed_up_over

ALPHAS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How much accuracy pruning may lose, and what is tried."""

    alphas: tuple[float, ...] = ALPHAS
    from_tokens: int = 128
    max_loss: float = 0.0075  # ACC's budget in its paper
    texts: int = 500
    device: str = "cpu"
    precision: str = "float32"


def prune(directory: Path, texts: Sequence[Example | str], search: Search) -> tuple[str, dict[str, Any]]:
    """Choose the pruning of a calibrated checkpoint, write it, and return the new revision and a record.

    Parameters
    ----------
    texts
        Labelled or not, neither trained on nor reported. Only long ones are used.

    Raises
    ------
    DataError
        If none of the texts is long enough.
    """
    loaded = checkpoint.load(directory)
    config, calibration = loaded.config, loaded.calibration
    model = ElbertForSequenceClassification.of(config, loaded.weights)
    rules = list(dict.fromkeys(point.rule for point in calibration.curve[1:]))
    rows, truth = _long_texts(loaded, texts, search)
    unpruned = _probabilities(model, calibration, rows, Pruning(), search)
    lengths = rows.lengths.tolist()
    chosen, tried = Pruning(), []
    for alpha in sorted(search.alphas, reverse=True):
        pruning = Pruning(alpha, search.from_tokens)
        pruned = _probabilities(model, calibration, rows, pruning, search)
        lost = max(lost_by_pruning(rule, pruned, unpruned, config.depths.start, truth) for rule in rules)
        speed = speed_up_over(lengths, alpha, config.layers, config.hidden)
        tried.append({"alpha": alpha, "accuracy_lost": round(lost, 5), "speed_up_at_full_depth": round(speed, 3)})
        if lost > search.max_loss:
            break
        chosen = pruning
    record = {
        "alpha": chosen.alpha,
        "from_tokens": search.from_tokens,
        "max_loss": search.max_loss,
        "n": len(rows),
        "median_tokens": int(np.median(lengths)),
        "tried": tried,
    }
    return _write(directory, calibration, chosen, record), record


def lost_by_pruning(
    rule: ExitRule,
    pruned: NDArray[np.float32],
    unpruned: NDArray[np.float32],
    first: int,
    truth: NDArray[np.int64] | None = None,
) -> float:
    """Return the accuracy that pruning loses under an exit rule, estimated cautiously.

    The estimate is expected from the full, unpruned model's calibrated probabilities, plus two standard errors; where
    there are labels it is at least the loss that they count.

    Parameters
    ----------
    pruned, unpruned
        (texts, exits, C), calibrated, of depths ``first``...
    truth
        (texts,) labels.
    """
    texts = np.arange(len(unpruned))

    def answers(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        depths = exit_depths(torch.from_numpy(probabilities), rule, first).numpy()
        labels: NDArray[np.int64] = probabilities[texts, depths - first].argmax(-1)
        return labels

    with_pruning, without = answers(pruned), answers(unpruned)
    full = unpruned[:, -1]
    losses = full[texts, without] - full[texts, with_pruning]
    lost = float(losses.mean() + 2 * losses.std() / np.sqrt(len(losses)))
    if truth is None:
        return lost
    return max(lost, float(np.mean(without == truth) - np.mean(with_pruning == truth)))


def _long_texts(
    loaded: checkpoint.Checkpoint, texts: Sequence[Example | str], search: Search
) -> tuple[TokenIds, NDArray[np.int64] | None]:
    """Return the token ids of the first long texts, and their labels if they have any."""
    rows = loaded.reader.read([text.text if isinstance(text, Example) else text for text in texts])
    long = np.flatnonzero(rows.lengths >= search.from_tokens)[: search.texts]
    if not len(long):
        raise DataError(f"none of {len(texts)} texts has {search.from_tokens} tokens: give longer ones")
    labels = [text.label for text in (texts[index] for index in long) if isinstance(text, Example)]
    truth = np.array([loaded.config.labels.index(label) for label in labels], np.int64)
    return rows.take(long), truth if labels else None


def _probabilities(
    model: ElbertForSequenceClassification, calibration: Calibration, rows: TokenIds, pruning: Pruning, search: Search
) -> NDArray[np.float32]:
    """Return every exit's answers, calibrated: (texts, exits, C)."""
    keep = None if pruning.never else partial(keep_of, pruning=pruning, layers=model.config.layers)
    title = "unpruned" if pruning.never else f"alpha {pruning.alpha}"
    logits = all_logits(model, rows, device=search.device, precision=search.precision, keep=keep, title=title)
    return tempered(logits, calibration.tempering)


def _write(directory: Path, calibration: Calibration, pruning: Pruning, record: dict[str, Any]) -> str:
    """Put the pruning into every position of the dial but 0, and its record beside the calibration's."""
    unpruned, *others = calibration.curve
    curve = (unpruned, *(replace(point, pruning=pruning) for point in others))
    checkpoint.write_calibration(replace(calibration, curve=curve), directory)
    file = directory / CALIBRATION_RECORD_FILE
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**kept, "pruning": record}, indent=2) + "\n", encoding="utf-8")
    return checkpoint.seal(directory)
