"""GEEP over eleven labelled sets, as its paper does over twelve: what exits save, and what a prediction alone would.

Each set has a model with an exit at each of six depths (`eleven_sets_models`), trained in about a minute of one core;
one seed. Windows, thresholds and the weight of a token are chosen on dev texts, the token table is counted on texts not
trained on, and everything is reported on test texts. An interrupted run resumes, and a finished one only repeats the
comparison.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.early_exit.depth_prediction import DepthPrediction
from earlybell.inference.early_exit.tempering import tempered, unsharpened
from earlybell.inference.training.calibrate import THRESHOLDS, count_tokens, fit_temperature, judge_depths
from earlybell.inference.training.data import data_directory
from earlybell.inference.training.depth_predictions import best_weight, predicted_depths, prediction
from earlybell.inference.training.exit_methods import Exits, ExitWindow, at_equal_depth
from earlybell.inference.training.measures import accuracy
from tests.benchmarks.eleven_sets_models import DEPTHS, ENGLISH, MAX_TOKENS, PART_TOKENS, Answers, answers_of
from tests.benchmarks.eleven_sets_texts import SETS, is_chinese, read
from tests.benchmarks.long_settings import log_progress

NEEDS_SERVERS = False
NEEDS_DATA = True
NAMES = tuple(os.environ.get("EARLYBELL_BENCH_SETS", ",".join(SETS)).split(","))
#: Accuracy that each method may lose on the dev texts against full depth.
MAX_LOSS = 0.01
#: lambda of the token table.
SMOOTHING = 1.0
#: The padding token, which occurs in no text: its row of the table is the prior.
UNSEEN = 0


def measure(servers: object = None) -> dict[str, Any]:
    """Train the models that are missing, and return the figures of every set (`NAMES`) and their means."""
    data, threads = data_directory(), torch.get_num_threads()
    torch.set_num_threads(1)
    sets = {}
    try:
        for name in NAMES:
            log_progress(name)
            sets[name] = figures(answers_of(name, read(name, data), is_chinese(name)))
    finally:
        torch.set_num_threads(threads)
    return {
        "settings": {
            "depths": DEPTHS,
            "tokens_read_of_a_text": MAX_TOKENS,
            "tokens_of_each_part": PART_TOKENS,
            "accuracy_that_may_be_lost": MAX_LOSS,
            "seed": ENGLISH.schedule.seed,
        },
        "sets": sets,
        "means": means(list(sets.values())),
    }


def figures(answers: Answers) -> dict[str, Any]:
    """Compare exits and predictions on one set's answers."""
    dev, counted, test = answers.dev, answers.counted, answers.test
    tempering = unsharpened([fit_temperature(dev.logits[:, exit_], dev.truth) for exit_ in range(DEPTHS)])
    on_dev, on_counted, on_test = (Exits(tempered(part.logits, tempering), 1) for part in (dev, counted, test))
    windows = on_dev.best_of_each_rule(dev.truth)
    served = on_dev.best([windows["agreement"], windows["trend"]], dev.truth)
    methods = {
        name: fastest(slowest_first, on_dev, dev.truth)
        for name, slowest_first in settings({"cwb": served} | windows).items()
    }
    depths = {name: method.depths(on_test) for name, method in methods.items()}

    cwb = methods["cwb"]
    table = count_tokens(counted.rows, cwb.depths(on_counted) - 1, answers.vocabulary, DEPTHS, SMOOTHING)
    weight = best_weight(dev.rows, cwb.depths(on_dev) - 1, table, UNSEEN)
    predicted = predicted_depths(test.rows, table, UNSEEN)
    chosen = DepthPrediction.of(table, UNSEEN, 0, weight).predict(test.rows).astype(np.float64)
    predicted["naive_bayes_dev_weight"] = chosen

    most_frequent = np.bincount(dev.truth).argmax()
    curves = on_test.curves(test.truth, windows)
    return {
        "texts": {"dev": len(dev.rows), "counted": len(counted.rows), "test": len(test.rows)},
        "mean_tokens": round(float(test.rows.lengths.mean()), 1),
        "classes": len(answers.labels),
        "accuracy_of_the_most_frequent_class": round(accuracy(test.truth, np.full(len(test.truth), most_frequent)), 4),
        "accuracy_per_exit": [round(accuracy(test.truth, test.logits[:, exit_].argmax(-1)), 4)
                              for exit_ in range(DEPTHS)],
        "windows": {"cwb": str(served)} | {rule: str(window) for rule, window in windows.items()},
        "exits": {name: _saved(on_test, values, test.truth) for name, values in depths.items()},
        "prediction_alone": {
            name: _saved(on_test, 1 + values.round().astype(np.int64), test.truth) for name, values in predicted.items()
        },
        "token_weight": weight,
        **prediction(predicted, depths["cwb"] - 1, test.rows.lengths),
        "exits_at_equal_depth": at_equal_depth(curves, DEPTHS),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """How texts exit: by entropy and a window, or all at one depth."""

    threshold: float = 0.0
    window: ExitWindow | None = None
    depth: int | None = None

    def depths(self, exits: Exits) -> NDArray[np.int64]:
        """Return each text's exit depth, (texts,)."""
        if self.depth is not None:
            return np.full(len(exits.probabilities), self.depth)
        held = None if self.window is None else self.window.holds(exits.probabilities, exits.first_depth)
        return exits.depths(self.threshold, held)


def settings(windows: Mapping[str, ExitWindow]) -> dict[str, list[Setting]]:
    """Return every method's settings, the slowest first: CWB by each window, entropy, patience and a fixed depth."""
    return {
        **{name: [Setting(threshold, window) for threshold in THRESHOLDS] for name, window in windows.items()},
        "entropy": [Setting(threshold) for threshold in THRESHOLDS],
        "patience": [Setting(0.0, ExitWindow("agreement", depths)) for depths in range(DEPTHS, 1, -1)],
        "fixed": [Setting(depth=depth) for depth in range(DEPTHS, 0, -1)],
    }


def fastest(slowest_first: Sequence[Setting], exits: Exits, truth: NDArray[np.int64]) -> Setting:
    """Return the fastest setting that, like every slower one, loses at most `MAX_LOSS` on these texts."""

    def lost(setting: Setting) -> float:
        probabilities = exits.probabilities
        return judge_depths(setting.depths(exits), probabilities, probabilities[:, -1], truth, exits.first_depth).lost

    within = [Setting(), *takewhile(lambda setting: lost(setting) <= MAX_LOSS, slowest_first)]
    return within[-1]


def means(sets: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over the sets of every method's and prediction's figures."""

    def over_sets(section: str) -> dict[str, Any]:
        return {
            name: {key: round(mean(figures[section][name][key] for figures in sets), 4) for key in values}
            if isinstance(values, dict)
            else round(mean(figures[section][name] for figures in sets), 4)
            for name, values in sets[0][section].items()
        }

    equal = [figures["exits_at_equal_depth"] for figures in sets]
    shares = {name: [share for share in row if all(share in figures[name] for figures in equal)]
              for name, row in equal[0].items()}  # fmt: skip
    return {
        **{section: over_sets(section)
           for section in ("exits", "prediction_alone", "rank_correlation", "mean_absolute_error")},
        "exits_at_equal_depth": {
            name: {share: round(mean(figures[name][share] for figures in equal), 4) for share in shares[name]}
            for name in shares
        },
    }  # fmt: skip


def _saved(exits: Exits, depths: NDArray[np.int64], truth: NDArray[np.int64]) -> dict[str, float]:
    mean_depth, correct = exits.answered(depths, truth)
    return {"accuracy": correct, "mean_depth": mean_depth, "layers_saved": round(1 - mean_depth / DEPTHS, 4)}
