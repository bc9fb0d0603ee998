"""How the project's rules compare with those they are measured against, on one labelled set.

Exits: CWB against FastBERT's entropy exit, PABEE and a fixed depth, at equal mean depth. Prediction: GEEP's token
table against length, chance and a constant. Both from the logits of every exit, so that the rules alone differ; how
fast an engine is with them is the benchmarks' matter. Pruning: `pruning`'s sweep, and one layer at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.early_exit.confidence_window import ExitRule, exit_depths
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.checkpoint import Checkpoint
from earlybell.inference.training import pruning
from earlybell.inference.training.data import Example
from earlybell.inference.training.measures import accuracy, macro_f1, softmax
from earlybell.inference.training.optimise import all_logits

Curve = list[tuple[float, float]]  # (mean depth, accuracy), ascending


#: A text's depth is also predicted as the depth by which this share of its tokens' histograms has left.
UPPER_QUANTILE = 0.75


def compare(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    *,
    further: Sequence[str] = (),
    dial: float | None = None,
    speed_ups: Sequence[float] = pruning.SPEED_UPS,
    prune_texts: int = 0,
    layer_texts: int = 0,
    device: str = "cpu",
    precision: str = "bfloat16",
) -> dict[str, Any]:
    """All comparisons on one set, as plain values.

    Parameters
    ----------
    examples
        None of them may have been counted in the checkpoint's token table, or its prediction would know the answer.
    further
        Texts without a label: the prediction of their depth is measured too.
    dial
        Whose rule the predicted depth is held against; default: the checkpoint's.
    speed_ups
        That pruning is tried at, by the analytical count.
    prune_texts
        Pruning, which runs the model again and again, is measured on the first so many texts; 0: on all. Not at all
        where it is negative.
    layer_texts
        One layer's pruning at a time, which takes longest, is measured on the first so many of these; 0: on all.
    """
    model, calibration = checkpoint.model, checkpoint.calibration
    first, layers = model.config.depths.start, model.config.layers
    rows = checkpoint.reader.read([one.text for one in examples])
    truth = np.array([model.config.labels.index(one.label) for one in examples], np.int64)
    probabilities = _tempered(all_logits(model, rows, device=device, precision=precision), calibration)
    dial = calibration.default_dial if dial is None else dial
    rule = calibration.point(dial).rule
    depths = exit_depths(torch.from_numpy(probabilities), rule, first).numpy()
    curves = exit_curves(probabilities, truth, first, calibration.curve[-1].rule)
    found: dict[str, Any] = {
        "n": len(examples),
        "accuracy_per_exit": [round(accuracy(truth, probabilities[:, place].argmax(-1)), 4)
                              for place in range(probabilities.shape[1])],
        "macro_f1": round(macro_f1(truth, probabilities[:, -1].argmax(-1), model.config.classes), 4),
        "exits_at_equal_depth": at_equal_depth(curves, layers),
        "exit_curves": curves,
    }  # fmt: skip
    if calibration.token_table is not None:
        leaving = _leaving(rows, calibration)
        pure = (leaving @ np.arange(first, layers + 1)).round().astype(np.int64)
        every = np.arange(len(truth))
        found["pure_prediction"] = {
            "accuracy": round(accuracy(truth, probabilities[every, pure - first].argmax(-1)), 4),
            "mean_depth": round(float(pure.mean()), 3),
            "checked_accuracy": round(accuracy(truth, probabilities[every, depths - first].argmax(-1)), 4),
            "checked_mean_depth": round(float(depths.mean()), 3),
        }
        upper = (leaving.cumsum(1) < UPPER_QUANTILE - 1e-9).sum(1).clip(max=layers - first)
        found["pure_prediction_upper"] = {
            "quantile": UPPER_QUANTILE,
            "accuracy": round(accuracy(truth, probabilities[every, upper].argmax(-1)), 4),
            "mean_depth": round(float(upper.mean()) + first, 3),
        }
        if further:
            more = checkpoint.reader.read(further)
            logits = _tempered(all_logits(model, more, device=device, precision=precision), calibration)
            rows_of_all = [*rows, *more]
            leaving = np.concatenate([leaving, _leaving(more, calibration)])
            depths = np.concatenate([depths, exit_depths(torch.from_numpy(logits), rule, first).numpy()])
        else:
            rows_of_all = rows
        found["prediction"] = {
            "n": len(depths),
            "dial": dial,
            **prediction(
                leaving @ np.arange(first, layers + 1.0),
                depths,
                np.array([len(row) for row in rows_of_all], np.float64),
            ),
        }
    if prune_texts >= 0:
        some = slice(prune_texts or None)
        how: dict[str, Any] = {"device": device, "precision": precision}
        found["pruning"] = pruning.sweep(model, rows[some], truth[some], wanted=speed_ups, **how)
        fewer = slice(layer_texts or None)
        found["pruning_by_layer"] = pruning.by_layer(model, rows[some][fewer], truth[some][fewer], **how)
        found["pruning_n"] = len(rows[some])
    return found


def exit_curves(
    probabilities: NDArray[np.float32], truth: NDArray[np.int64], first: int, window: ExitRule
) -> dict[str, Curve]:
    """(mean depth, accuracy) of each way to exit, over its whole sweep: CWB's and entropy's is that of the threshold.

    Parameters
    ----------
    probabilities
        (texts, exits, C), after temperature, of depths ``first``...
    window
        CWB's window, as chosen elsewhere; its threshold does not matter.
    """
    layers = first + probabilities.shape[1] - 1
    every = np.arange(len(truth))
    given = torch.from_numpy(probabilities)
    thresholds = np.linspace(0, 1, 101).tolist()

    def at(rule: ExitRule) -> tuple[float, float]:
        depths = exit_depths(given, rule, first).numpy()
        right = probabilities[every, depths - first].argmax(-1) == truth
        return round(float(depths.mean()), 4), round(float(right.mean()), 5)

    fixed = [(float(first + place), round(accuracy(truth, probabilities[:, place].argmax(-1)), 5))
             for place in range(probabilities.shape[1])]  # fmt: skip
    return {
        # Without its window as well: at full depth nothing can leave early.
        "cwb": sorted({at(ExitRule()), *(at(replace(window, threshold=threshold)) for threshold in thresholds)}),
        "entropy": sorted({at(ExitRule(threshold)) for threshold in thresholds}),
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


def _leaving(rows: Sequence[NDArray[np.int32]], calibration: Calibration) -> NDArray[np.float64]:
    """(texts, exits): with which share a text's tokens speak for each exit; their mean over the token table."""
    if calibration.token_table is None:
        raise ValueError("this checkpoint has no token table")
    table = calibration.token_table.double().numpy()
    # Without a token of its own a text is predicted like padding: by the prior, which unseen tokens have.
    return np.stack([table[row[1:-1]].mean(0) if len(row) > 2 else table[0] for row in rows])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: NDArray[np.float64] = (ends - (counts - 1) / 2)[places]
    return mean


def _tempered(logits: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    return softmax(logits / np.array(calibration.temperatures, np.float32)[:, None])
