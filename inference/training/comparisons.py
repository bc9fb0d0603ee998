"""`earlybell compare`: the project's rules against their baselines, on one labelled set.

Exits: CWB against FastBERT's entropy exit, PABEE and a fixed depth, at equal mean depth. Depth prediction: GEEP's token
table against length, chance and a constant. Both use the logits of every exit, so that only the rules differ; the
benchmarks measure speed. Pruning: `pruning`'s sweep, and one layer at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.early_exit.confidence_window import exit_depths
from earlybell.inference.early_exit.tempering import tempered
from earlybell.inference.model.checkpoint import Checkpoint
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.token_ids import TokenIds
from earlybell.inference.training import pruning
from earlybell.inference.training.data import Example
from earlybell.inference.training.depth_predictions import predicted_depths, prediction
from earlybell.inference.training.exit_methods import Exits, ExitWindow, at_equal_depth
from earlybell.inference.training.measures import accuracy, macro_f1
from earlybell.inference.training.optimise import all_logits


def compare(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    *,
    dev: Sequence[Example] = (),
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
    dev
        Texts to choose a window of each of CWB's rules on; without them only the checkpoint's own is compared.
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
    calibration, reader = checkpoint.calibration, checkpoint.reader
    model = ElbertForSequenceClassification.of(checkpoint.config, checkpoint.weights).eval()
    first, layers = model.config.depths.start, model.config.layers

    def answers(rows: TokenIds) -> NDArray[np.float32]:
        logits = all_logits(model, rows, device=device, precision=precision)
        return tempered(logits, calibration.tempering)

    def truth_of(part: Sequence[Example]) -> NDArray[np.int64]:
        return np.array([model.config.labels.index(example.label) for example in part], np.int64)

    rows = reader.read([example.text for example in examples])
    truth = truth_of(examples)
    probabilities = answers(rows)
    exits = Exits(probabilities, first)
    windows: dict[str, ExitWindow | None] = {"cwb": ExitWindow.of(calibration.curve[-1].rule)}
    if dev:
        on_dev = Exits(answers(reader.read([example.text for example in dev])), first)
        windows |= {f"cwb_{rule}": window for rule, window in on_dev.best_of_each_rule(truth_of(dev)).items()}
    curves = exits.curves(truth, windows)
    figures: dict[str, Any] = {
        "n": len(examples),
        "accuracy_per_exit": [round(accuracy(truth, probabilities[:, exit_].argmax(-1)), 4)
                              for exit_ in range(probabilities.shape[1])],
        "macro_f1": round(macro_f1(truth, probabilities[:, -1].argmax(-1), model.config.classes), 4),
        "windows": {name: str(window) for name, window in windows.items()},
        "exits_at_equal_depth": at_equal_depth(curves, layers),
        "exit_curves": curves,
    }  # fmt: skip
    if calibration.token_table is not None:
        dial = calibration.default_dial if dial is None else dial
        rule = calibration.point(dial).rule
        depths = exit_depths(torch.from_numpy(probabilities), rule, first).numpy()
        predicted = predicted_depths(rows, calibration.token_table, reader.pad_id)
        unchecked = {name: first + values.round().astype(np.int64) for name, values in predicted.items()}
        figures["pure_prediction"] = {
            name: dict(zip(("mean_depth", "accuracy"), exits.answered(values, truth), strict=True))
            for name, values in {"checked": depths, **unchecked}.items()
        }
        lengths = rows.lengths
        if unlabelled:
            others = reader.read(unlabelled)
            lengths = np.concatenate([lengths, others.lengths])
            more = predicted_depths(others, calibration.token_table, reader.pad_id)
            predicted = {name: np.concatenate([values, more[name]]) for name, values in predicted.items()}
            depths = np.concatenate([depths, exit_depths(torch.from_numpy(answers(others)), rule, first).numpy()])
        figures["prediction"] = {"n": len(depths), "dial": dial, **prediction(predicted, depths - first, lengths)}
    if prune_texts >= 0:
        selected = slice(prune_texts or None)
        options: dict[str, Any] = {"device": device, "precision": precision}
        figures["pruning"] = pruning.sweep(model, rows[selected], truth[selected], speed_ups=speed_ups, **options)
        fewer = slice(layer_texts or None)
        figures["pruning_by_layer"] = pruning.by_layer(model, rows[selected][fewer], truth[selected][fewer], **options)
        figures["pruning_n"] = len(truth[selected])
    return figures
