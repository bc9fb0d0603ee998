"""FastBERT (arXiv 2004.02178) as a peer: a head after each layer, entropy exits, batches that shrink.

Where training left one it is a FastBERT by its own recipe: the fine-tuned backbone frozen, a student head a layer
taught by its own last answers, the entropy threshold chosen on the dev slices by the rule and the budget of our own
default dial (docs/training.md has the commands). Where there is none, our weights stand in.
It knows how FastBERT runs a batch; nothing of clocks or tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.backends.padded import PaddedBackend
from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.model.checkpoint import MANIFEST_FILE, SHIPPED, load
from earlybell.inference.predictions import Predictions

#: A calibrated checkpoint of it.
TRAINED = Path(os.environ.get("EARLYBELL_FASTBERT", "runs/fastbert-minilm"))


def is_trained() -> bool:
    """Whether there is one that was trained as FastBERT is."""
    return (TRAINED / MANIFEST_FILE).is_file()


def weights() -> Path:
    """The checkpoint that FastBERT is measured with."""
    return TRAINED if is_trained() else SHIPPED


def describe() -> dict[str, Any]:
    """Which weights it has, where it exits, and what came of that on the dev slices."""
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
    """Our fastest dial that is no less accurate than FastBERT on the dev slices; 0 if there is none."""
    calibrated, ours = load(weights()).calibration, load(SHIPPED).calibration
    wanted = calibrated.point(calibrated.default_dial).accuracy
    return max((point.dial for point in ours.curve if point.accuracy >= wanted), default=0.0)


def scorer(checkpoint: Path, dtype: torch.dtype, batch: int) -> Callable[[Sequence[str]], Predictions]:
    """Texts in order of arrival, so many a batch; those that exit are dropped from theirs."""
    loaded = load(checkpoint)
    calibration, model = loaded.calibration, loaded.model.eval()
    skipped = model.config.depths.start == 0
    model.config = replace(model.config, depth_zero=False)
    model.embedding.to(dtype)
    model.layers.to(dtype)
    threshold = calibration.point(calibration.default_dial).rule.threshold
    temperatures = torch.tensor(calibration.temperatures[1 if skipped else 0 :])
    backend = PaddedBackend(model, ExitRule(threshold), temperatures, 1.0, torch.device("cpu"), batch_tokens=0)

    def score(texts: Sequence[str]) -> Predictions:
        parts = []
        for start in range(0, len(texts), batch):
            rows = loaded.reader.read(texts[start : start + batch])
            parts.append(_shrinking(backend, rows))
        return Predictions.concatenate(parts, model.config.classes)

    return score


def _shrinking(backend: PaddedBackend, rows: list[NDArray[np.int32]]) -> Predictions:
    """Score one batch, padded to its longest text."""
    answers = backend.run(rows, max(len(row) for row in rows))
    tokens = np.array([len(row) for row in rows], np.int32)
    unpredicted = np.full(len(rows), np.nan, np.float32)
    return Predictions(answers.probabilities, answers.exit_depth, unpredicted, tokens, answers.tokens_kept)
