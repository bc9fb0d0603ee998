"""`earlybell evaluate`: a checkpoint on labelled texts, as it is served, at one setting of the dial or at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from earlybell.inference.engine import open_engine
from earlybell.inference.model.checkpoint import SHIPPED
from earlybell.inference.model.checkpoint import load as load_checkpoint
from earlybell.inference.training.data import Example
from earlybell.inference.training.measures import (
    accuracy,
    calibrated_error,
    confusion,
    expected_calibration_error,
    macro_f1,
)


def evaluate(
    examples: Sequence[Example],
    *,
    checkpoint: Path | None = None,
    dial: float | None = None,
    device: str = "cpu",
    precision: str = "auto",
    threads: int = 0,
    strategy: str = "presort",
    window_texts: int = 512,
) -> dict[str, Any]:
    """Score the texts through the engine, in windows, and measure the answers.

    Returns
    -------
    figures
        ``accuracy``, ``macro_f1``, ``ece``, ``mean_depth``, ``depths`` (texts that left at each), ``tokens_kept``
        (share alive in the last layer run), ``n``, ``texts_per_second``, ``confusion`` (truth by answer, in the order
        of ``labels``), ``model_revision``, ``dial``, ``precision``.
    """
    engine = open_engine(
        device, checkpoint=checkpoint, dial=dial, precision=precision, threads=threads, strategy=strategy
    )
    described = engine.description
    engine.warm_up()
    began = time.perf_counter()
    parts = [
        engine.score([one.text for one in examples[start : start + window_texts]])
        for start in range(0, len(examples), window_texts)
    ]
    seconds = time.perf_counter() - began
    probabilities = np.concatenate([part.probabilities for part in parts])
    depths = np.concatenate([part.exit_depth for part in parts])
    tokens = np.concatenate([part.tokens for part in parts])
    kept = np.concatenate([part.tokens_kept for part in parts])
    truth = np.array([described.labels.index(one.label) for one in examples], np.int64)
    answers = probabilities.argmax(1)
    classes = len(described.labels)
    return {
        "accuracy": round(accuracy(truth, answers), 5),
        "macro_f1": round(macro_f1(truth, answers, classes), 5),
        "ece": round(expected_calibration_error(probabilities.astype(np.float64), truth), 5),
        "ece_if_calibrated": round(calibrated_error(probabilities.astype(np.float64)), 5),
        "mean_depth": round(float(depths.mean()), 4),
        "depths": {str(depth): int((depths == depth).sum()) for depth in sorted(set(depths.tolist()))},
        "tokens_kept": round(float(np.mean(kept / tokens)), 4),
        "n": len(examples),
        "texts_per_second": round(len(examples) / seconds, 1),
        "confusion": confusion(truth, answers, classes).tolist(),
        "labels": list(described.labels),
        "model_revision": described.model_revision,
        "dial": described.dial,
        "depth_limit": described.depth_limit,
        "precision": described.precision,
    }


def evaluate_curve(examples: Sequence[Example], *, checkpoint: Path | None = None, **how: Any) -> list[dict[str, Any]]:
    """`evaluate` at every setting of the dial that the checkpoint has; settings with equal rules are run once."""
    curve = load_checkpoint(checkpoint or SHIPPED).calibration.curve
    found: list[dict[str, Any]] = []
    rules: list[Any] = []
    for point in curve:
        rule = (point.rule, point.alpha)
        if rule in rules:
            found.append({**found[rules.index(rule)], "dial": point.dial})
        else:
            found.append(evaluate(examples, checkpoint=checkpoint, dial=point.dial, **how))
        rules.append(rule)
    return found
