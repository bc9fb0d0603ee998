"""How the project's rules compare with those they are measured against, on one labelled set.

Exits: CWB against FastBERT's entropy exit, PABEE and a fixed depth, at equal mean depth. Prediction: GEEP's token
table against length, chance and a constant. Pruning: accuracy and analytical speed-up over ACC's whole sweep. All from
the logits of every exit, so that the rules alone differ; wall-clock speed is the benchmarks' matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.calibration import Calibration
from inference.checkpoint import Checkpoint
from inference.confidence_window import ExitRule, exit_depths
from inference.token_pruning import kept_tokens, solve_alpha, speed_up
from inference.training.data import Example
from inference.training.measures import accuracy, macro_f1, softmax
from inference.training.optimise import all_logits

Curve = list[tuple[float, float]]  # (mean depth, accuracy), ascending


def compare(checkpoint: Checkpoint, examples: Sequence[Example], *, device: str = "cpu") -> dict[str, Any]:
    """All comparisons on one set, as plain values."""
    model, calibration = checkpoint.model, checkpoint.calibration
    first, layers = model.config.depths.start, model.config.layers
    rows = checkpoint.reader.read([one.text for one in examples])
    truth = np.array([model.config.labels.index(one.label) for one in examples], np.int64)
    probabilities = _tempered(all_logits(model, rows, device=device), calibration)
    rule = calibration.point(calibration.default_dial).rule
    depths = exit_depths(torch.from_numpy(probabilities), rule, first).numpy()
    curves = exit_curves(probabilities, truth, first, [point.rule for point in calibration.curve])
    found: dict[str, Any] = {
        "n": len(examples),
        "accuracy_per_exit": [round(accuracy(truth, probabilities[:, place].argmax(-1)), 4)
                              for place in range(probabilities.shape[1])],
        "macro_f1": round(macro_f1(truth, probabilities[:, -1].argmax(-1), model.config.classes), 4),
        "exits_at_equal_depth": at_equal_depth(curves, layers),
        "pruning": prune(checkpoint, rows, truth, device=device),
    }  # fmt: skip
    expected = calibration.expected_depths(first)
    if expected is not None:
        values = expected.numpy()
        predicted = np.array([values[row[1:-1]].mean() if len(row) > 2 else values[0] for row in rows])
        lengths = np.array([len(row) for row in rows], np.float64)
        found["prediction"] = prediction(predicted, depths, lengths)
        pure = np.rint(predicted).astype(np.int64).clip(first, layers)
        every = np.arange(len(truth))
        found["pure_prediction"] = {
            "accuracy": round(accuracy(truth, probabilities[every, pure - first].argmax(-1)), 4),
            "mean_depth": round(float(pure.mean()), 3),
            "checked_accuracy": round(accuracy(truth, probabilities[every, depths - first].argmax(-1)), 4),
            "checked_mean_depth": round(float(depths.mean()), 3),
        }
    return found


def exit_curves(
    probabilities: NDArray[np.float32], truth: NDArray[np.int64], first: int, rules: Sequence[ExitRule]
) -> dict[str, Curve]:
    """(mean depth, accuracy) of each way to exit, over its whole sweep.

    Parameters
    ----------
    probabilities
        (texts, exits, C), after temperature, of depths ``first``...
    rules
        CWB's settings, as calibrated elsewhere.
    """
    layers = first + probabilities.shape[1] - 1
    every = np.arange(len(truth))
    given = torch.from_numpy(probabilities)

    def at(rule: ExitRule) -> tuple[float, float]:
        depths = exit_depths(given, rule, first).numpy()
        right = probabilities[every, depths - first].argmax(-1) == truth
        return round(float(depths.mean()), 4), round(float(right.mean()), 5)

    fixed = [(float(first + place), round(accuracy(truth, probabilities[:, place].argmax(-1)), 5))
             for place in range(probabilities.shape[1])]  # fmt: skip
    return {
        "cwb": sorted(at(rule) for rule in rules),
        "entropy": sorted(at(ExitRule(float(threshold))) for threshold in np.linspace(0, 1, 101)),
        "pabee": sorted(at(ExitRule(0.0, "agreement", patience + 1, 0.0)) for patience in range(1, layers)),
        "fixed": fixed,
    }


def at_equal_depth(
    curves: Mapping[str, Curve], layers: int, shares: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
) -> dict[str, dict[str, float]]:
    """Each curve's accuracy at these shares of full depth, interpolated; left out where it does not reach."""
    found: dict[str, dict[str, float]] = {}
    for name, curve in curves.items():
        depth, right = (np.array(side) for side in zip(*curve, strict=True))
        found[name] = {
            f"{share:.0%}": round(float(np.interp(share * layers, depth, right)), 4)
            for share in shares
            if depth.min() - 1e-9 <= share * layers <= depth.max() + 1e-9
        }
    return found


def prediction(
    predicted: NDArray[np.float64], actual: NDArray[np.int64], lengths: NDArray[np.float64]
) -> dict[str, float]:
    """How well exit depth is predicted: rank correlation and mean absolute error, beside what needs no table.

    Controls: the text's length, a random order (seeded), and the mean depth for all (no order, so no correlation).
    """
    depths = actual.astype(np.float64)
    return {
        "rank_correlation": round(rank_correlation(predicted, depths), 4),
        "rank_correlation_of_length": round(rank_correlation(lengths, depths), 4),
        "rank_correlation_at_random": round(
            rank_correlation(np.random.default_rng(1).permutation(len(depths)).astype(np.float64), depths), 4
        ),
        "mean_absolute_error": round(float(np.abs(predicted - depths).mean()), 4),
        "mean_absolute_error_of_a_constant": round(float(np.abs(np.median(depths) - depths).mean()), 4),
        "mean_absolute_error_of_the_mean": round(float(np.abs(depths.mean() - depths).mean()), 4),
    }


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's, with tied values sharing their mean rank; 0 where either side is constant."""
    ranks = [_ranks(side) for side in (one, other)]
    if any(np.ptp(side) == 0 for side in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def prune(
    checkpoint: Checkpoint,
    rows: Sequence[NDArray[np.int32]],
    truth: NDArray[np.int64],
    *,
    wanted: Sequence[float] = (1.0, 1.5, 2.0, 3.0, 4.8),
    device: str = "cpu",
) -> list[dict[str, float]]:
    """ACC's sweep at full depth: one checkpoint, alpha changed at inference alone.

    ``wanted`` speed-ups are analytical, at the set's median length; those out of reach at that length are left out.
    """
    model, layers = checkpoint.model, checkpoint.model.config.layers
    median = int(np.median([len(row) for row in rows]))
    most = speed_up(median, 1e-6, layers, model.config.hidden)
    found = []
    for speed in wanted:
        if speed > most:
            continue
        alpha = solve_alpha(speed, median, layers, model.config.hidden) if speed > 1.0 else 1.0

        def keep(lengths: Tensor, alpha: float = alpha) -> Tensor:
            return kept_tokens(lengths, alpha, layers)

        logits = all_logits(model, rows, device=device, keep=keep if alpha < 1.0 else None)
        found.append(
            {
                "speed_up": speed,
                "alpha": round(alpha, 4),
                "tokens": float(median),
                "accuracy": round(accuracy(truth, logits[:, -1].argmax(-1)), 4),
            }
        )
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: NDArray[np.float64] = (ends - (counts - 1) / 2)[places]
    return mean


def _tempered(logits: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    return softmax(logits / np.array(calibration.temperatures, np.float32)[:, None])
