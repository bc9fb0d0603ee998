"""FastBERT (arXiv 2004.02178) as a peer: a head after each layer, entropy exits, batches that shrink.

If `TRAINED` holds a checkpoint, it is trained by FastBERT's own recipe: the fine-tuned backbone frozen, a head after
each layer distilled from the last one, and the entropy threshold chosen on the dev slices by the rule and budget of our
default dial (docs/training.md has the commands). Otherwise our weights stand in.
This module knows how FastBERT runs a batch; nothing of clocks or tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earlybell.inference.backends.padded import PaddedBackend
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model.checkpoint import MANIFEST_FILE, SHIPPED, load
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.predictions import Predictions
from earlybell.inference.token_ids import TokenIds

#: Where its calibrated checkpoint is looked for.
TRAINED = Path(os.environ.get("EARLYBELL_FASTBERT", "runs/fastbert-minilm"))


def is_trained() -> bool:
    """Whether there is a checkpoint that was trained by FastBERT's recipe."""
    return (TRAINED / MANIFEST_FILE).is_file()


def weights() -> Path:
    """Return the checkpoint that FastBERT is measured with."""
    return TRAINED if is_trained() else SHIPPED


def describe() -> dict[str, Any]:
    """Return its weights, its exit threshold, and its accuracy and mean depth on the dev slices."""
    checkpoint = load(weights())
    point = checkpoint.calibration.point(checkpoint.calibration.default_dial)
    return {
        "weights": "its own" if is_trained() else "ours",
        "name": checkpoint.calibration.name,
        "revision": checkpoint.revision,
        "threshold": point.rule.threshold,
        "dev_accuracy": point.accuracy,
        "dev_mean_depth": point.mean_depth,
        "dial_as_accurate": dial_as_accurate(),
    }


def dial_as_accurate() -> float:
    """Return our fastest dial that is no less accurate than FastBERT on the dev slices; 0 if there is none."""
    theirs, ours = load(weights()).calibration, load(SHIPPED).calibration
    wanted = theirs.point(theirs.default_dial).accuracy
    return max((point.dial for point in ours.curve if point.accuracy >= wanted), default=0.0)


def scorer(checkpoint: Path, dtype: torch.dtype, batch: int) -> Callable[[Sequence[str]], Predictions]:
    """Return a function that scores texts in order of arrival, ``batch`` at a time, dropping those that exit."""
    loaded = load(checkpoint)
    calibration = loaded.calibration
    model = ElbertForSequenceClassification.of(loaded.config, loaded.weights).eval()
    has_depth_zero = model.config.depths.start == 0
    model.config = replace(model.config, depth_zero=False)
    model.embedding.to(dtype)
    model.layers.to(dtype)
    threshold = calibration.point(calibration.default_dial).rule.threshold
    tempering = torch.from_numpy(calibration.tempering[1 if has_depth_zero else 0 :])
    backend = PaddedBackend(model, ExitRule(threshold), tempering, Pruning(), torch.device("cpu"), batch_tokens=0)

    def score(texts: Sequence[str]) -> Predictions:
        parts = []
        for start in range(0, len(texts), batch):
            parts.append(_score_batch(backend, loaded.reader.read(texts[start : start + batch])))
        return Predictions.concatenate(parts, model.config.labels)

    return score


def _score_batch(backend: PaddedBackend, texts: TokenIds) -> Predictions:
    """Score one batch, padded to its longest text."""
    answers = backend.run(texts, int(texts.lengths.max()))
    unpredicted = np.full(len(texts), np.nan, np.float32)
    known = np.ones(len(texts), np.float32)
    return Predictions(
        answers.probabilities, answers.exit_depth, unpredicted, texts.lengths, answers.tokens_kept, known
    )
