"""What is measured of answers: accuracy, macro-F1, expected calibration error, confusion. Plain NumPy."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Float = TypeVar("_Float", np.float32, np.float64)


def confusion(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(C, C) counts, truth by answer."""
    return np.bincount(truth * classes + answers, minlength=classes * classes).reshape(classes, classes)


def accuracy(truth: NDArray[np.int64], answers: NDArray[np.int64]) -> float:
    """Share of right answers."""
    return float(np.mean(truth == answers))


def macro_f1(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> float:
    """Unweighted mean of the classes' F1; a class that neither occurs nor is answered counts 0."""
    table = confusion(truth, answers, classes)
    found = np.diag(table)
    return float(np.mean(2 * found / np.maximum(table.sum(0) + table.sum(1), 1)))


def expected_calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64], bins: int = 15) -> float:
    """How far confidence is from accuracy: over equal-width bins of the largest probability, weighted by their share.

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == truth).astype(np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, confidence, bins) - np.bincount(place, right, bins))
    return float(gap[count > 0].sum() / len(truth))


def calibrated_error(probabilities: NDArray[np.float64], draws: int = 20, seed: int = 1) -> float:
    """What `expected_calibration_error` gives a model that is calibrated to the last bit, on so few texts (ours).

    The mean over ``draws`` sets of labels that are drawn from the probabilities themselves. An error near it says
    that nothing is left to calibrate that so many texts could show.
    """
    generator = np.random.default_rng(seed)
    steps = probabilities.cumsum(1)
    last = probabilities.shape[1] - 1
    return float(
        np.mean(
            [
                expected_calibration_error(
                    probabilities,
                    np.minimum((steps <= generator.random((len(steps), 1))).sum(1), last),
                )
                for _ in range(draws)
            ]
        )
    )


def softmax(logits: NDArray[_Float]) -> NDArray[_Float]:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)  # type: ignore[no-any-return]
