"""Metrics of predictions: accuracy, macro-F1, expected calibration error, confusion. Plain NumPy."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Float = TypeVar("_Float", np.float32, np.float64)


def confusion(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return (C, C) counts, truth by prediction."""
    return np.bincount(truth * classes + answers, minlength=classes * classes).reshape(classes, classes)


def accuracy(truth: NDArray[np.int64], answers: NDArray[np.int64]) -> float:
    """Return the share of correct predictions."""
    return float(np.mean(truth == answers))


def macro_f1(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> float:
    """Return the unweighted mean of the classes' F1; a class that neither occurs nor is predicted counts as 0."""
    table = confusion(truth, answers, classes)
    correct = np.diag(table)
    return float(np.mean(2 * correct / np.maximum(table.sum(0) + table.sum(1), 1)))


def expected_calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64], bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins of confidence, weighted by their share.

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    confidence = probabilities.max(1)
    correct = (probabilities.argmax(1) == truth).astype(np.float64)
    bin_index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(bin_index, minlength=bins)
    gap = np.abs(np.bincount(bin_index, confidence, bins) - np.bincount(bin_index, correct, bins))
    return float(gap[count > 0].sum() / len(truth))


def calibrated_error(probabilities: NDArray[np.float64], draws: int = 20, seed: int = 1) -> float:
    """Return the `expected_calibration_error` of a perfectly calibrated model on this many texts (ours).

    It is not 0 on a finite sample: this is the mean over ``draws`` sets of labels drawn from the probabilities
    themselves. A model whose error is close to it has no miscalibration that this many texts could show.
    """
    generator = np.random.default_rng(seed)
    cumulative = probabilities.cumsum(1)
    last = probabilities.shape[1] - 1
    return float(
        np.mean(
            [
                expected_calibration_error(
                    probabilities,
                    np.minimum((cumulative <= generator.random((len(cumulative), 1))).sum(1), last),
                )
                for _ in range(draws)
            ]
        )
    )


def softmax(logits: NDArray[_Float]) -> NDArray[_Float]:
    """Return the softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)  # type: ignore[no-any-return]
