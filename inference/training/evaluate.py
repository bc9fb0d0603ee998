"""`earlybell evaluate`: measures a checkpoint on labelled texts, as served, at one or all settings of the dial."""

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
    """Score the texts through the engine in windows of ``window_texts``, and measure the answers.

    Returns
    -------
    figures
        ``accuracy``, ``macro_f1``, ``ece``, ``mean_depth``, ``depths`` (texts per exit depth), ``tokens_kept``
        (share alive in the last layer run), ``n``, ``texts_per_second``, ``confusion`` (truth by answer, in the order
        of ``labels``), ``model_revision``, ``dial``, ``precision``.
    """
    engine = open_engine(
        device, checkpoint=checkpoint, dial=dial, precision=precision, threads=threads, strategy=strategy
    )
    description = engine.description
    engine.warm_up()
    started = time.perf_counter()
    parts = [
        engine.score([example.text for example in examples[start : start + window_texts]])
        for start in range(0, len(examples), window_texts)
    ]
    seconds = time.perf_counter() - started
    probabilities = np.concatenate([part.probabilities for part in parts])
    depths = np.concatenate([part.exit_depth for part in parts])
    tokens = np.concatenate([part.tokens for part in parts])
    kept = np.concatenate([part.tokens_kept for part in parts])
    truth = np.array([description.labels.index(example.label) for example in examples], np.int64)
    answers = probabilities.argmax(1)
    classes = len(description.labels)
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
        "labels": list(description.labels),
        "model_revision": description.model_revision,
        "dial": description.dial,
        "depth_limit": description.depth_limit,
        "precision": description.precision,
    }


def evaluate_curve(
    examples: Sequence[Example], *, checkpoint: Path | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Run `evaluate` at every setting of the checkpoint's dial; settings with equal rules are run once."""
    curve = load_checkpoint(checkpoint or SHIPPED).calibration.curve
    results: list[dict[str, Any]] = []
    rules: list[Any] = []
    for point in curve:
        rule = (point.rule, point.pruning)
        if rule in rules:
            results.append({**results[rules.index(rule)], "dial": point.dial})
        else:
            results.append(evaluate(examples, checkpoint=checkpoint, dial=point.dial, **options))
        rules.append(rule)
    return results
