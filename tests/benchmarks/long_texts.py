"""Long texts: what token pruning (ACC) is worth on IMDB's reviews, on against off, measured and at equal accuracy.

One checkpoint that was fine-tuned with pruning on serves the whole sweep of alpha; where training left one that was
fine-tuned without, that one competes for "off" too. Settings are chosen on reviews set aside from IMDB's training file,
by what the calibration says they lose and by the time that each depth takes here; accuracy is of its test file.
Skips where there is no such model: EARLYBELL_LONG_MODEL (default runs/imdb12-pruned), EARLYBELL_LONG_PLAIN.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.early_exit.token_pruning import solve_alpha, speed_up
from earlybell.inference.kernels import build
from earlybell.inference.training.calibrate import THRESHOLDS, best_family
from earlybell.inference.training.data import DataError, data_directory
from tests.benchmarks import engine_clock
from tests.benchmarks.long_settings import (
    ESTIMATES,
    MODEL,
    PLAIN,
    PRECISIONS,
    ROUNDS,
    SPEED_TEXTS,
    Estimate,
    Reviews,
    Seen,
    Setting,
    Subject,
    candidates,
    fastest,
    read_reviews,
    say,
)

NEEDS_SERVERS = False
#: Analytical speed-ups that alpha is solved for, at the median length; 1 is no pruning.
SPEED_UPS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 4.8)
#: Accuracy that may be lost against full depth without pruning.
BUDGETS = (0.005, 0.0075, 0.01)
KINDS = ("full_depth", "exits")
#: ACC's own budget, as in its paper.
ACC_BUDGET = 0.0075
#: Texts that are scored together.
WINDOW = 32


def missing() -> str | None:
    """Why this cannot be measured here, if it cannot."""
    if not (MODEL / "model.safetensors").is_file():
        return f"no model at {MODEL}: train one on IMDB with pruning on, or set EARLYBELL_LONG_MODEL to its directory"
    if build.library() is None:
        return "no C compiler: int8, which the accuracies are measured with, cannot be had"
    try:
        data_directory()
    except DataError as error:
        return str(error)
    return None


def measure(servers: object = None) -> dict[str, Any]:
    """All tables; the ratios under plain names."""
    engine_clock.set_threads()
    dev, test = read_reviews("train"), read_reviews("test")
    subjects = {"pruned": Subject.open(MODEL)}
    if (PLAIN / "model.safetensors").is_file():
        subjects["plain"] = Subject.open(PLAIN)
    pruned = subjects["pruned"]
    rows = pruned.engines["int8"].read(dev.texts)
    alphas = _alphas(rows, pruned)
    for name, subject in subjects.items():
        for wanted, alpha in alphas.items() if name == "pruned" else [(1.0, 1.0)]:
            say(f"{name}, K = {wanted:g}, on the dev slice")
            subject.look(dev, alpha)
    best = max(subjects, key=lambda name: subjects[name].full_accuracy(dev))
    reference = subjects[best].full_accuracy(dev)
    rules = {name: _rules(subject, dev) for name, subject in subjects.items()}
    settings = [
        one
        for name, subject in subjects.items()
        for one in candidates(name, subject, subject.seen, dev.truth, rules[name], reference)
    ]
    tables = _tables(settings, alphas)
    chosen = {one for table in tables.values() for one in table.values() if one is not None}
    seen = _on_test(subjects, test)
    right = seen[best][1.0].probabilities[:, -1].argmax(-1) == test.truth
    said = {one: _said(one, seen[one.model][one.alpha], subjects[one.model], test, right) for one in chosen}
    speeds = _speeds(subjects, test, chosen)
    lengths = [len(row) for row in pruned.engines["int8"].read(test.texts)]

    def row(one: Setting) -> dict[str, Any]:
        analytical = _analytical(lengths, one.alpha, pruned)
        on_dev = {"dev_accuracy_lost": one.lost["counted"], "dev_accuracy_lost_at_most": one.lost["cautious"]}
        return {**one.described(), **on_dev, **said[one], **speeds[one], "analytical_speed_up": analytical}

    found: dict[str, Any] = {
        "clock": engine_clock.CLOCK,
        "models": {name: subject.described() for name, subject in subjects.items()},
        "dev": {"n": len(dev.texts), "accuracy": reference},
        "test": {"n": len(test.texts), "accuracy": float(right.mean()), "median_tokens": int(np.median(lengths)),
                 "mean_tokens": float(np.mean(lengths))},
    }  # fmt: skip
    for name, table in tables.items():
        found[name] = {key: None if one is None else row(one) for key, one in table.items()}
    everything = [
        one
        for name, subject in subjects.items()
        for one in candidates(name, subject, seen[name], test.truth, rules[name], float(right.mean()))
    ]
    found |= _read_off(everything)
    _add_gains(found)
    return found


def _alphas(rows: Sequence[NDArray[np.int32]], subject: Subject) -> dict[float, float]:
    """Alpha by the analytical speed-up that it stands for at the median length."""
    median, config = int(np.median([len(row) for row in rows])), subject.config
    return {
        wanted: 1.0 if wanted == 1.0 else solve_alpha(wanted, median, config.layers, config.hidden)
        for wanted in SPEED_UPS
    }


def _rules(subject: Subject, dev: Reviews) -> list[ExitRule]:
    """Full depth first; then the window that the calibration would choose, and entropy alone, at every threshold."""
    seen, first = subject.seen[1.0], subject.config.depths.start
    family = best_family(seen.probabilities, dev.truth, first)
    windows = {ExitRule(one, family.window_rule, family.window, family.margin) for one in THRESHOLDS}
    entropies = {ExitRule(one) for one in THRESHOLDS}
    early = sorted((windows | entropies) - {ExitRule()}, key=lambda rule: (rule.window_rule, rule.threshold))
    return [ExitRule(), *early]


def _tables(settings: Sequence[Setting], alphas: dict[float, float]) -> dict[str, dict[str, Setting | None]]:
    """What is measured, by table and row."""
    tables: dict[str, dict[str, Setting | None]] = {}
    for precision in PRECISIONS:
        here = [one for one in settings if one.precision == precision]
        mine = {wanted: [one for one in here if (one.model, one.alpha) == ("pruned", alpha)]
                for wanted, alpha in alphas.items()}  # fmt: skip
        tables[f"full_depth_{precision}"] = {
            f"K={wanted:g}": next(one for one in found if one.rule.never) for wanted, found in mine.items()
        }
        tables[f"exits_{precision}"] = {
            f"K={wanted:g}": fastest(found, BUDGETS[0], lambda one: one.lost_by_exits["counted"])
            for wanted, found in mine.items()
        }
        for kind in KINDS:
            for estimate in ESTIMATES:
                usable = [one for one in here if kind == "exits" or one.rule.never]
                tables[f"equal_accuracy_{kind}_{estimate}_{precision}"] = _equal(usable, estimate)
    return tables


def _equal(settings: Sequence[Setting], estimate: Estimate) -> dict[str, Setting | None]:
    """For each budget the fastest setting without pruning and with it."""
    sides = {
        "off": [one for one in settings if one.alpha == 1.0],
        "on": [one for one in settings if one.alpha < 1.0],
    }
    return {
        f"{100 * budget:g}_{side}": fastest(found, budget, lambda one: one.lost[estimate])
        for budget in BUDGETS
        for side, found in sides.items()
    }


def _on_test(subjects: dict[str, Subject], test: Reviews) -> dict[str, dict[float, Seen]]:
    """What every exit says of the test file, by model and alpha.

    In int8, which answers every text alike in whatever company.
    """
    found: dict[str, dict[float, Seen]] = {}
    for name, subject in subjects.items():
        found[name] = {}
        for alpha in subject.seen:
            say(f"{name}, alpha {alpha:.3f}, on the test file")
            found[name][alpha] = subject.exits_of(test.texts, alpha)
    return found


def _said(
    setting: Setting, seen: Seen, subject: Subject, test: Reviews, reference: NDArray[np.bool_]
) -> dict[str, float]:
    """Accuracy and mean depth of a setting; its loss with the standard error of paired differences."""
    answers, depths = seen.under(setting.rule, subject.config.depths.start)
    each = reference.astype(np.float64) - (answers == test.truth)
    return {
        "accuracy": float((answers == test.truth).mean()),
        "accuracy_lost": float(each.mean()),
        "accuracy_lost_error": float(each.std() / np.sqrt(len(each))),
        "mean_depth": float(depths.mean()),
    }


def _read_off(settings: Sequence[Setting]) -> dict[str, Any]:
    """The curves of accuracy on test against time, read off at equal losses: which are no choice to serve by.

    Times are estimated from those of the depths.
    """
    found: dict[str, Any] = {}
    for precision, kind in itertools.product(PRECISIONS, KINDS):
        usable = [one for one in settings if one.precision == precision and (kind == "exits" or one.rule.never)]
        table = _equal(usable, "counted")
        rows = {
            key: None if one is None
            else {
                **one.described(),
                "accuracy_lost": one.lost["counted"],
                "estimated_texts_per_second": 1 / one.seconds,
            }
            for key, one in table.items()
        }  # fmt: skip
        for budget in BUDGETS:
            off, on = (table[f"{100 * budget:g}_{side}"] for side in ("off", "on"))
            if on and off:
                rows[f"{100 * budget:g}_gain"] = {"gain": off.seconds / on.seconds}
        found[f"read_off_{kind}_{precision}"] = rows
    return found


def _speeds(subjects: dict[str, Subject], test: Reviews, chosen: set[Setting]) -> dict[Setting, dict[str, float]]:
    """Texts/s and tokens/s of the engine, tokenisation counted, all settings turn by turn."""
    laps: dict[Setting, list[float]] = {one: [] for one in chosen}
    tokens: dict[Setting, int] = {}
    samples = {
        precision: test.texts[:: max(1, len(test.texts) // count)][:count] for precision, count in SPEED_TEXTS.items()
    }
    order = sorted(chosen, key=lambda one: (one.precision, one.model, one.alpha, one.rule.threshold))
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}")
        for one in order:
            engine, texts = subjects[one.model].tuned(one), samples[one.precision]
            read = 0
            began = engine_clock.now()
            for start in range(0, len(texts), WINDOW):
                read += int(engine.score(texts[start : start + WINDOW]).tokens.sum())
            laps[one].append(engine_clock.now() - began)
            tokens[one] = read
    found = {}
    for one, seconds in laps.items():
        median, count = statistics.median(seconds), len(samples[one.precision])
        found[one] = {
            "texts_per_second": count / median,
            "lowest": count / max(seconds),
            "highest": count / min(seconds),
            "tokens_per_second": tokens[one] / median,
        }
    return found


def _add_gains(found: dict[str, Any]) -> None:
    """Measured speed-ups beside the analytical ones, and what pruning gains at equal accuracy."""
    ratios: dict[str, float] = {}
    for precision in PRECISIONS:
        base = found[f"full_depth_{precision}"]["K=1"]["texts_per_second"]
        for table in (found[f"full_depth_{precision}"], found[f"exits_{precision}"]):
            for row in filter(None, table.values()):
                row["measured_speed_up"] = row["texts_per_second"] / base
        for kind, estimate in itertools.product(KINDS, ESTIMATES):
            table = found[f"equal_accuracy_{kind}_{estimate}_{precision}"]
            for budget in BUDGETS:
                off, on = (table[f"{100 * budget:g}_{side}"] for side in ("off", "on"))
                if on and off:
                    gain = on["texts_per_second"] / off["texts_per_second"]
                    on["gain"] = gain
                    if (kind, estimate, budget) == ("full_depth", "counted", ACC_BUDGET):
                        ratios[f"long_texts_pruning_{precision}"] = gain
                        ratios[f"long_texts_pruning_{precision}_points_lost"] = 100 * on["accuracy_lost"]
        read_off = found[f"read_off_exits_{precision}"].get(f"{100 * ACC_BUDGET:g}_gain")
        if read_off:
            ratios[f"long_texts_pruning_{precision}_with_exits"] = read_off["gain"]
    found["ratios"] = ratios


def _analytical(lengths: Sequence[int], alpha: float, subject: Subject) -> float:
    """K over all texts, each with its own length."""
    layers, h = subject.config.layers, subject.config.hidden
    whole = np.array([24.0 * n * h**2 + 4.0 * n**2 * h for n in lengths])
    speeds = {n: speed_up(n, alpha, layers, h) for n in set(lengths)}
    return float(whole.sum() / (whole / [speeds[n] for n in lengths]).sum())
