"""Long texts: the speed-up of token pruning (ACC) on IMDB's reviews, on against off, at measured and at equal accuracy.

One checkpoint, fine-tuned with pruning, serves the whole sweep of alpha (``EARLYBELL_LONG_MODEL``, default
``runs/imdb12-pruned``; without it the benchmark is skipped). If there is one that was fine-tuned without pruning
(``EARLYBELL_LONG_PLAIN``), it competes for "off" too. Settings are chosen on reviews held out from IMDB's training
file, by their estimated loss of accuracy and the measured time of each depth; accuracy is on IMDB's test file.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import solve_alpha, speed_up
from earlybell.inference.kernels import library
from earlybell.inference.training.calibrate import THRESHOLDS, best_family
from tests.benchmarks import engine_clock
from tests.benchmarks.long_settings import (
    ESTIMATES,
    MODEL,
    PLAIN,
    PRECISIONS,
    ROUNDS,
    SPEED_TEXTS,
    Estimate,
    ExitOutputs,
    MeasuredModel,
    Reviews,
    Setting,
    candidates,
    fastest,
    log_progress,
    read_reviews,
)

NEEDS_SERVERS = False
NEEDS_DATA = True
#: Analytical speed-ups that alpha is solved for, at the median length; 1 is no pruning.
SPEED_UPS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 4.8)
#: Accuracy that may be lost against full depth without pruning.
BUDGETS = (0.005, 0.0075, 0.01)
MODES = ("full_depth", "exits")
#: The budget of the ACC paper.
ACC_BUDGET = 0.0075
#: Texts that are scored together.
WINDOW = 32


def missing() -> str | None:
    """Return why this machine cannot run the benchmark, or None."""
    if not (MODEL / "model.safetensors").is_file():
        return f"no model at {MODEL}: train one on IMDB with pruning on, or set EARLYBELL_LONG_MODEL to its directory"
    if library.load() is None:
        return "no kernels: the accuracies are measured in int8"
    return None


def measure(servers: object = None) -> dict[str, Any]:
    """Return all tables, and the ratios of pruning on to off."""
    engine_clock.set_threads()
    dev, test = read_reviews("train"), read_reviews("test")
    models = {"pruned": MeasuredModel.open(MODEL)}
    if (PLAIN / "model.safetensors").is_file():
        models["plain"] = MeasuredModel.open(PLAIN)
    pruned = models["pruned"]
    alphas = _alphas(pruned.engines["int8"].read(dev.texts), pruned)
    for name, model in models.items():
        for target, alpha in alphas.items() if name == "pruned" else [(1.0, 1.0)]:
            log_progress(f"{name}, K = {target:g}, on the dev slice")
            model.measure_dev(dev, alpha)
    best = max(models, key=lambda name: models[name].full_accuracy(dev))
    reference = models[best].full_accuracy(dev)
    rules = {name: _rules(model, dev) for name, model in models.items()}
    dev_settings = [
        setting
        for name, model in models.items()
        for setting in candidates(name, model, model.on_dev, dev.truth, rules[name], reference)
    ]
    tables = _tables(dev_settings, alphas)
    chosen = {setting for table in tables.values() for setting in table.values() if setting is not None}
    outputs = _test_outputs(models, test)
    correct = outputs[best][1.0].probabilities[:, -1].argmax(-1) == test.truth
    quality = {
        setting: _quality(setting, outputs[setting.model][setting.alpha], models[setting.model], test, correct)
        for setting in chosen
    }
    speeds = _speeds(models, test, chosen)
    lengths = pruned.engines["int8"].read(test.texts).lengths.tolist()

    def row(setting: Setting) -> dict[str, Any]:
        analytical = _analytical(lengths, setting.alpha, pruned)
        lost = {
            "dev_accuracy_lost": setting.lost["counted"],
            "dev_accuracy_lost_at_most": setting.lost["cautious"],
        }
        return {**setting.as_dict(), **lost, **quality[setting], **speeds[setting], "analytical_speed_up": analytical}

    results: dict[str, Any] = {
        "clock": engine_clock.CLOCK,
        "models": {name: model.describe() for name, model in models.items()},
        "dev": {"n": len(dev.texts), "accuracy": reference},
        "test": {"n": len(test.texts), "accuracy": float(correct.mean()), "median_tokens": int(np.median(lengths)),
                 "mean_tokens": float(np.mean(lengths))},
    }  # fmt: skip
    for name, table in tables.items():
        results[name] = {key: None if setting is None else row(setting) for key, setting in table.items()}
    test_settings = [
        setting
        for name, model in models.items()
        for setting in candidates(name, model, outputs[name], test.truth, rules[name], float(correct.mean()))
    ]
    results |= _read_off(test_settings)
    _add_gains(results)
    return results


def _alphas(texts: Sequence[NDArray[np.int32]], model: MeasuredModel) -> dict[float, float]:
    """Return alpha by the analytical speed-up that it has at the texts' median length."""
    median, config = int(np.median([len(ids) for ids in texts])), model.config
    return {
        target: 1.0 if target == 1.0 else solve_alpha(target, median, config.layers, config.hidden)
        for target in SPEED_UPS
    }


def _rules(model: MeasuredModel, dev: Reviews) -> list[ExitRule]:
    """Return full depth, then every threshold with the window that calibration would choose, and with none."""
    outputs, first = model.on_dev[1.0], model.config.depths.start
    family = best_family(outputs.probabilities, dev.truth, first)
    windows = {ExitRule(threshold, family.window_rule, family.window, family.margin) for threshold in THRESHOLDS}
    entropies = {ExitRule(threshold) for threshold in THRESHOLDS}
    early = sorted((windows | entropies) - {ExitRule()}, key=lambda rule: (rule.window_rule, rule.threshold))
    return [ExitRule(), *early]


def _tables(settings: Sequence[Setting], alphas: dict[float, float]) -> dict[str, dict[str, Setting | None]]:
    """Choose the settings to measure, by table and row."""
    tables: dict[str, dict[str, Setting | None]] = {}
    for precision in PRECISIONS:
        of_precision = [setting for setting in settings if setting.precision == precision]
        by_target = {
            target: [setting for setting in of_precision if (setting.model, setting.alpha) == ("pruned", alpha)]
            for target, alpha in alphas.items()
        }
        tables[f"full_depth_{precision}"] = {
            f"K={target:g}": next(setting for setting in group if setting.rule.never)
            for target, group in by_target.items()
        }
        tables[f"exits_{precision}"] = {
            f"K={target:g}": fastest(group, BUDGETS[0], lambda setting: setting.lost_by_exits["counted"])
            for target, group in by_target.items()
        }
        for mode in MODES:
            for estimate in ESTIMATES:
                usable = [setting for setting in of_precision if mode == "exits" or setting.rule.never]
                tables[f"equal_accuracy_{mode}_{estimate}_{precision}"] = _equal(usable, estimate)
    return tables


def _equal(settings: Sequence[Setting], estimate: Estimate) -> dict[str, Setting | None]:
    """Return the fastest setting without pruning and with it, for each budget."""
    sides = {
        "off": [setting for setting in settings if setting.alpha == 1.0],
        "on": [setting for setting in settings if setting.alpha < 1.0],
    }
    return {
        f"{100 * budget:g}_{side}": fastest(group, budget, lambda setting: setting.lost[estimate])
        for budget in BUDGETS
        for side, group in sides.items()
    }


def _test_outputs(models: dict[str, MeasuredModel], test: Reviews) -> dict[str, dict[float, ExitOutputs]]:
    """Return every exit's answers on the test file, by model and alpha.

    They are int8's, which do not depend on the batch.
    """
    outputs: dict[str, dict[float, ExitOutputs]] = {}
    for name, model in models.items():
        outputs[name] = {}
        for alpha in model.on_dev:
            log_progress(f"{name}, alpha {alpha:.3f}, on the test file")
            outputs[name][alpha] = model.outputs(test.texts, alpha)
    return outputs


def _quality(
    setting: Setting, outputs: ExitOutputs, model: MeasuredModel, test: Reviews, reference: NDArray[np.bool_]
) -> dict[str, float]:
    """Return a setting's accuracy and mean depth, and its loss with the standard error of paired differences."""
    answers, depths = outputs.answers(setting.rule, model.config.depths.start)
    differences = reference.astype(np.float64) - (answers == test.truth)
    return {
        "accuracy": float((answers == test.truth).mean()),
        "accuracy_lost": float(differences.mean()),
        "accuracy_lost_error": float(differences.std() / np.sqrt(len(differences))),
        "mean_depth": float(depths.mean()),
    }


def _read_off(settings: Sequence[Setting]) -> dict[str, Any]:
    """Read the curves of test accuracy against estimated time at equal losses, for pruning on and off.

    A comparison only: settings to serve with must not be chosen on the test file.
    """
    tables: dict[str, Any] = {}
    for precision, mode in itertools.product(PRECISIONS, MODES):
        usable = [
            setting
            for setting in settings
            if setting.precision == precision and (mode == "exits" or setting.rule.never)
        ]
        table = _equal(usable, "counted")
        rows = {
            key: None if setting is None
            else {
                **setting.as_dict(),
                "accuracy_lost": setting.lost["counted"],
                "estimated_texts_per_second": 1 / setting.seconds,
            }
            for key, setting in table.items()
        }  # fmt: skip
        for budget in BUDGETS:
            off, on = (table[f"{100 * budget:g}_{side}"] for side in ("off", "on"))
            if on and off:
                rows[f"{100 * budget:g}_gain"] = {"gain": off.seconds / on.seconds}
        tables[f"read_off_{mode}_{precision}"] = rows
    return tables


def _speeds(models: dict[str, MeasuredModel], test: Reviews, chosen: set[Setting]) -> dict[Setting, dict[str, float]]:
    """Measure the engine's texts/s and tokens/s for each setting, including tokenization, in alternating rounds."""
    laps: dict[Setting, list[float]] = {setting: [] for setting in chosen}
    tokens: dict[Setting, int] = {}
    samples = {
        precision: test.texts[:: max(1, len(test.texts) // count)][:count] for precision, count in SPEED_TEXTS.items()
    }
    order = sorted(
        chosen, key=lambda setting: (setting.precision, setting.model, setting.alpha, setting.rule.threshold)
    )
    for number in range(ROUNDS):
        log_progress(f"round {number + 1} of {ROUNDS}")
        for setting in order:
            engine, texts = models[setting.model].engine_for(setting), samples[setting.precision]
            total = 0
            began = engine_clock.now()
            for start in range(0, len(texts), WINDOW):
                total += int(engine.score(texts[start : start + WINDOW]).tokens.sum())
            laps[setting].append(engine_clock.now() - began)
            tokens[setting] = total
    figures = {}
    for setting, seconds in laps.items():
        median, count = statistics.median(seconds), len(samples[setting.precision])
        figures[setting] = {
            "texts_per_second": count / median,
            "lowest": count / max(seconds),
            "highest": count / min(seconds),
            "tokens_per_second": tokens[setting] / median,
        }
    return figures


def _add_gains(results: dict[str, Any]) -> None:
    """Add measured speed-ups next to the analytical ones, and the gains of pruning at equal accuracy."""
    ratios: dict[str, float] = {}
    for precision in PRECISIONS:
        base = results[f"full_depth_{precision}"]["K=1"]["texts_per_second"]
        for table in (results[f"full_depth_{precision}"], results[f"exits_{precision}"]):
            for row in filter(None, table.values()):
                row["measured_speed_up"] = row["texts_per_second"] / base
        for mode, estimate in itertools.product(MODES, ESTIMATES):
            table = results[f"equal_accuracy_{mode}_{estimate}_{precision}"]
            for budget in BUDGETS:
                off, on = (table[f"{100 * budget:g}_{side}"] for side in ("off", "on"))
                if on and off:
                    gain = on["texts_per_second"] / off["texts_per_second"]
                    on["gain"] = gain
                    if (mode, estimate, budget) == ("full_depth", "counted", ACC_BUDGET):
                        ratios[f"long_texts_pruning_{precision}"] = gain
                        ratios[f"long_texts_pruning_{precision}_points_lost"] = 100 * on["accuracy_lost"]
        read_off = results[f"read_off_exits_{precision}"].get(f"{100 * ACC_BUDGET:g}_gain")
        if read_off:
            ratios[f"long_texts_pruning_{precision}_with_exits"] = read_off["gain"]
    results["ratios"] = ratios


def _analytical(lengths: Sequence[int], alpha: float, model: MeasuredModel) -> float:
    """Return the analytical speed-up K over all texts, each with its own length."""
    layers, h = model.config.layers, model.config.hidden
    unpruned = np.array([24.0 * n * h**2 + 4.0 * n**2 * h for n in lengths])
    speed_ups = {n: speed_up(n, alpha, layers, h) for n in set(lengths)}
    return float(unpruned.sum() / (unpruned / [speed_ups[n] for n in lengths]).sum())
