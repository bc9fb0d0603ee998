"""`earlybell compare`: the project's rules against their baselines, on one labelled set.

Exits: CWB against FastBERT's entropy exit, PABEE and a fixed depth, at equal mean depth. Depth prediction: GEEP's token
table against length, chance and a constant. Both use the logits of every exit, so that only the rules differ; the
benchmarks measure speed. Pruning: `pruning`'s sweep, and one layer at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.early_exit.confidence_window import exit_depths
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.checkpoint import Checkpoint
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.training import pruning
from earlybell.inference.training.data import Example
from earlybell.inference.training.measures import accuracy, macro_f1, softmax
from earlybell.inference.training.optimise import all_logits

Curve = list[tuple[float, float]]  # (mean depth, accuracy), ascending
#: The alternative prediction: the depth by which this share of the tokens' histograms has exited.
UPPER_QUANTILE = 0.75


def compare(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    *,
    unlabelled: Sequence[str] = (),
    dial: float | None = None,
    speed_ups: Sequence[float] = pruning.SPEED_UPS,
    prune_texts: int = 0,
    layer_texts: int = 0,
    device: str = "cpu",
    precision: str = "bfloat16",
) -> dict[str, Any]:
    """Run all comparisons on one set and return them as plain values.

    Parameters
    ----------
    examples
        None of them may have been counted in the checkpoint's token table: it would have seen the answer.
    unlabelled
        Further texts, for depth prediction alone.
    dial
        Setting whose exit rule the predicted depth is compared with. Default: the checkpoint's.
    speed_ups
        Analytical speed-ups to prune for.
    prune_texts
        Measure pruning, which runs the model many times, on the first N texts; 0: all, negative: skip it.
    layer_texts
        Measure pruning one layer at a time, the slowest part, on the first N of these; 0: all.
    """
    calibration = checkpoint.calibration
    model = ElbertForSequenceClassification.of(checkpoint.config, checkpoint.weights).eval()
    first, layers = model.config.depths.start, model.config.layers
    rows = checkpoint.reader.read([example.text for example in examples])
    truth = np.array([model.config.labels.index(example.label) for example in examples], np.int64)
    probabilities = _tempered(all_logits(model, rows, device=device, precision=precision), calibration)
    dial = calibration.default_dial if dial is None else dial
    rule = calibration.point(dial).rule
    depths = exit_depths(torch.from_numpy(probabilities), rule, first).numpy()
    curves = exit_curves(probabilities, truth, first, calibration.curve[-1].rule)
    figures: dict[str, Any] = {
        "n": len(examples),
        "accuracy_per_exit": [round(accuracy(truth, probabilities[:, exit_].argmax(-1)), 4)
                              for exit_ in range(probabilities.shape[1])],
        "macro_f1": round(macro_f1(truth, probabilities[:, -1].argmax(-1), model.config.classes), 4),
        "exits_at_equal_depth": at_equal_depth(curves, layers),
        "exit_curves": curves,
    }  # fmt: skip
    if calibration.token_table is not None:
        exit_shares = _exit_shares(rows, calibration)
        predicted = (exit_shares @ np.arange(first, layers + 1)).round().astype(np.int64)
        all_texts = np.arange(len(truth))
        figures["pure_prediction"] = {
            "accuracy": round(accuracy(truth, probabilities[all_texts, predicted - first].argmax(-1)), 4),
            "mean_depth": round(float(predicted.mean()), 3),
            "checked_accuracy": round(accuracy(truth, probabilities[all_texts, depths - first].argmax(-1)), 4),
            "checked_mean_depth": round(float(depths.mean()), 3),
        }
        upper = (exit_shares.cumsum(1) < UPPER_QUANTILE - 1e-9).sum(1).clip(max=layers - first)
        figures["pure_prediction_upper"] = {
            "quantile": UPPER_QUANTILE,
            "accuracy": round(accuracy(truth, probabilities[all_texts, upper].argmax(-1)), 4),
            "mean_depth": round(float(upper.mean()) + first, 3),
        }
        lengths = rows.lengths
        if unlabelled:
            more = checkpoint.reader.read(unlabelled)
            logits = _tempered(all_logits(model, more, device=device, precision=precision), calibration)
            lengths = np.concatenate([lengths, more.lengths])
            exit_shares = np.concatenate([exit_shares, _exit_shares(more, calibration)])
            depths = np.concatenate([depths, exit_depths(torch.from_numpy(logits), rule, first).numpy()])
        figures["prediction"] = {
            "n": len(depths),
            "dial": dial,
            **prediction(
                exit_shares @ np.arange(first, layers + 1.0),
                depths,
                lengths.astype(np.float64),
            ),
        }
    if prune_texts >= 0:
        selected = slice(prune_texts or None)
        options: dict[str, Any] = {"device": device, "precision": precision}
        figures["pruning"] = pruning.sweep(model, rows[selected], truth[selected], speed_ups=speed_ups, **options)
        fewer = slice(layer_texts or None)
        figures["pruning_by_layer"] = pruning.by_layer(model, rows[selected][fewer], truth[selected][fewer], **options)
        figures["pruning_n"] = len(truth[selected])
    return figures


def exit_curves(
    probabilities: NDArray[np.float32], truth: NDArray[np.int64], first: int, window: ExitRule
) -> dict[str, Curve]:
    """Return each exit method's (mean depth, accuracy) over its sweep; CWB and entropy sweep the threshold.

    Parameters
    ----------
    probabilities
        (texts, exits, C), after temperature, of depths ``first``...
    window
        CWB's window, chosen on other texts; its threshold is ignored.
    """
    layers = first + probabilities.shape[1] - 1
    all_texts = np.arange(len(truth))
    tensor = torch.from_numpy(probabilities)
    thresholds = np.linspace(0, 1, 101).tolist()

    def at(rule: ExitRule) -> tuple[float, float]:
        depths = exit_depths(tensor, rule, first).numpy()
        correct = probabilities[all_texts, depths - first].argmax(-1) == truth
        return round(float(depths.mean()), 4), round(float(correct.mean()), 5)

    fixed = [(float(first + exit_), round(accuracy(truth, probabilities[:, exit_].argmax(-1)), 5))
             for exit_ in range(probabilities.shape[1])]  # fmt: skip
    return {
        # Full depth, where no text exits early, belongs to the curve too.
        "cwb": sorted({at(ExitRule()), *(at(replace(window, threshold=threshold)) for threshold in thresholds)}),
        "entropy": sorted({at(ExitRule(threshold)) for threshold in thresholds}),
        "pabee": sorted(at(ExitRule(0.0, "agreement", patience + 1, 0.0)) for patience in range(1, layers)),
        "fixed": fixed,
    }


def at_equal_depth(
    curves: Mapping[str, Curve], layers: int, shares: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
) -> dict[str, dict[str, float]]:
    """Return each curve's accuracy at shares of full depth, interpolated; shares outside its range are left out."""
    accuracies: dict[str, dict[str, float]] = {}
    for name, curve in curves.items():
        depth, accuracy_at_depth = (np.array(column) for column in zip(*curve, strict=True))
        accuracies[name] = {
            f"{share:.0%}": round(float(np.interp(share * layers, depth, accuracy_at_depth)), 4)
            for share in shares
            if depth.min() - 1e-9 <= share * layers <= depth.max() + 1e-9
        }
    return accuracies


def prediction(
    predicted: NDArray[np.float64], actual: NDArray[np.int64], lengths: NDArray[np.float64]
) -> dict[str, float]:
    """Return the rank correlation and mean absolute error of predicted exit depths, beside those of controls.

    Controls need no token table: the text's length, a seeded random order, and one constant depth for all.
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


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, ties sharing their mean rank; 0 if either argument is constant."""
    x_ranks, y_ranks = _ranks(x), _ranks(y)
    if np.ptp(x_ranks) == 0 or np.ptp(y_ranks) == 0:
        return 0.0
    return float(np.corrcoef(x_ranks, y_ranks)[0, 1])


def _exit_shares(rows: Sequence[NDArray[np.int32]], calibration: Calibration) -> NDArray[np.float64]:
    """Return (texts, exits): the mean of the token table over each text's tokens."""
    if calibration.token_table is None:
        raise ValueError("this checkpoint has no token table")
    table = calibration.token_table.astype(np.float64)
    # A text without tokens is predicted like padding: by the prior, as unseen tokens are.
    return np.stack([table[row[1:-1]].mean(0) if len(row) > 2 else table[0] for row in rows])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, value_index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[value_index]
    return mean_ranks


def _tempered(logits: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    return softmax(logits / np.array(calibration.temperatures, np.float32)[:, None])
