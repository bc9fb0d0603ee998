"""`earlybell calibrate`: what a checkpoint needs to be served. Temperatures, exits, pruning, token table; the dial.

Everything is found on a dev set; nothing here may see what is reported. Order: temperatures, then exits, then pruning,
then the token table (algorithms, section 6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.early_exit.confidence_window import ExitRule, exit_depths
from earlybell.inference.early_exit.token_pruning import kept_tokens, speed_up
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration, OperatingPoint
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.data import Example
from earlybell.inference.training.measures import expected_calibration_error, softmax
from earlybell.inference.training.optimise import all_logits

#: Entropy thresholds that are tried; finer where a trained model's answers crowd.
THRESHOLDS = tuple(np.round(np.concatenate([np.linspace(0, 0.1, 21), np.linspace(0.11, 1.0, 90)]), 4).tolist())
MARGINS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
DIALS = tuple(round(step / 20, 2) for step in range(21))
#: Losses of accuracy that a window is chosen for.
ALLOWED = (0.0025, 0.005, 0.0075, 0.01)
#: Texts of one source, from which on its own loss can be told from chance.
LEAST_TO_JUDGE = 500
#: Beyond this loss against full depth a setting is of no use to anyone: it is dial 1.
MOST_LOST = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be lost, and how the search goes."""

    name: str = "elbert-small"
    languages: tuple[str, ...] = ("en",)
    max_tokens: int = 512
    lost: float = 0.005  # accuracy against full depth at the default dial
    windows: bool = True  # whether windows are tried; without them the exit is FastBERT's, by entropy alone
    alphas: tuple[float, ...] = (1.0,)  # shares of tokens that may be tried
    pruning_lost: float = 0.0075  # ACC's own budget, as in its paper
    smoothing: float = 1.0  # lambda of the token table
    device: str = "cpu"
    precision: str = "bfloat16"


def calibrate(
    directory: Path, dev: Sequence[Example], table_texts: Sequence[str], budget: Budget
) -> tuple[str, dict[str, Any]]:
    """Calibrate the model in ``directory``, make it a checkpoint there, and return its revision and what was found.

    Parameters
    ----------
    directory
        Holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
    dev
        Labelled texts that were neither trained on nor will be reported.
    table_texts
        Texts (no labels needed) over which the token table is counted.
    """
    model = ElbertForSequenceClassification.from_pretrained(directory)
    budget = replace(budget, max_tokens=min(budget.max_tokens, model.config.positions))
    reader = Reader.open(directory / checkpoint.TOKENIZER_FILE, budget.max_tokens)
    calibration, found = calibration_of(model, reader, dev, table_texts, budget)
    checkpoint.write_calibration(calibration, directory)
    return checkpoint.seal(directory), found


def calibration_of(
    model: ElbertForSequenceClassification,
    reader: Reader,
    dev: Sequence[Example],
    table_texts: Sequence[str],
    budget: Budget,
) -> tuple[Calibration, dict[str, Any]]:
    """As `calibrate`, in memory."""
    rows = reader.read([one.text for one in dev])
    truth = np.array([model.config.labels.index(one.label) for one in dev], np.int64)
    first, layers = model.config.depths.start, model.config.layers
    tokens = np.array([len(row) for row in rows])

    def logits_with(alpha: float) -> NDArray[np.float32]:
        def keep(lengths: Tensor) -> Tensor:
            return kept_tokens(lengths, alpha, layers)

        return all_logits(
            model, rows, device=budget.device, precision=budget.precision, keep=keep if alpha < 1.0 else None
        )

    whole = logits_with(1.0)
    temperatures = tuple(fit_temperature(whole[:, place], truth) for place in range(whole.shape[1]))
    scale = np.array(temperatures, np.float32)[:, None]
    calibrated = {1.0: softmax(whole / scale)}
    for alpha in budget.alphas:
        calibrated.setdefault(alpha, softmax(logits_with(alpha) / scale))
    full_accuracy = float(np.mean(calibrated[1.0][:, -1].argmax(-1) == truth))

    family = best_family(calibrated[1.0], truth, first) if budget.windows else ExitRule()
    curve = [OperatingPoint(0.0, ExitRule(), 1.0, full_accuracy, 0.0, float(layers), 1.0)]
    groups = budgeted_groups([one.source for one in dev])
    settings = [
        _point(one, alpha, probabilities, calibrated[1.0][:, -1], truth, tokens, model, groups)
        for alpha, probabilities in calibrated.items()
        for one in (replace(family, threshold=threshold) for threshold in THRESHOLDS)
        if alpha == 1.0 or _pruning_lost(probabilities, calibrated[1.0], truth) <= budget.pruning_lost
    ]
    usable = [one for one in settings if one.accuracy_lost <= MOST_LOST]
    least = min(one.cost for one in usable)
    for dial in DIALS[1:]:
        wanted = 1.0 - dial * (1.0 - least)
        # The least hasty setting that is fast enough, for each share of tokens; of these the one that loses least.
        # Not the best of all that are fast enough: among so many, that would pick noise.
        fitting = [
            max(within, key=lambda one: one.cost)
            for alpha in calibrated
            if (within := [one for one in usable if one.alpha == alpha and one.cost <= wanted + 1e-6])
        ]
        curve.append(replace(min(fitting, key=lambda one: one.accuracy_lost), dial=dial))
    chosen = default_point(settings, budget.lost, least) or curve[0]
    # Its own place on the dial: between two steps, so that none of the budget is given away.
    curve = sorted([*(one for one in curve if one.dial != chosen.dial), chosen], key=lambda one: one.dial)
    default, rule = chosen.dial, chosen.rule

    table = token_table(model, reader, table_texts, temperatures, rule, budget) if table_texts else None
    calibration = Calibration(
        budget.name, budget.languages, budget.max_tokens, temperatures, tuple(curve), default, table
    )
    probabilities = calibrated[1.0]
    found = {
        "n": len(dev),
        "full_depth_accuracy": round(full_accuracy, 4),
        "window": {"rule": family.window_rule, "window": family.window, "margin": family.margin},
        "default_dial": default,
        "ece_before": [_ece(softmax(whole[:, place]), truth) for place in range(whole.shape[1])],
        "ece_after": [_ece(probabilities[:, place], truth) for place in range(whole.shape[1])],
        "temperatures": [round(one, 3) for one in temperatures],
    }
    return calibration, found


def fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """The temperature of least negative log-likelihood, by golden-section search on its logarithm in [1/8, 8]."""
    double = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = double / math.exp(log_temperature)
        shifted = scaled - scaled.max(1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(truth)), truth]))

    ratio = (math.sqrt(5) - 1) / 2
    low, high = -math.log(8), math.log(8)
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def default_point(settings: Sequence[OperatingPoint], lost: float, least: float) -> OperatingPoint | None:
    """The fastest setting that loses at most ``lost``, as does every slower one of its share of tokens.

    It stands where its cost puts it on a dial whose 1 costs ``least``. None if none is faster than full depth.
    """
    fastest = []
    for alpha in {one.alpha for one in settings}:
        slower_first = sorted((one for one in settings if one.alpha == alpha), key=lambda one: -one.cost)
        fastest += list(takewhile(lambda one: one.accuracy_lost <= lost, slower_first))[-1:]
    chosen = min(fastest, key=lambda one: one.cost, default=None)
    if chosen is None or chosen.cost >= 1.0:
        return None
    dial = math.floor((1.0 - chosen.cost) / (1.0 - least) * 100) / 100
    return replace(chosen, dial=dial) if dial else None


def families(exits: int) -> list[ExitRule]:
    """The windows that are tried; each is swept over the entropy thresholds."""
    found = [ExitRule()]
    for window in range(2, exits):
        found += [ExitRule(0.0, "agreement", window, margin) for margin in MARGINS]
        found.append(ExitRule(0.0, "trend", window))
    return found


def best_family(probabilities: NDArray[np.float32], truth: NDArray[np.int64], first: int) -> ExitRule:
    """The window that runs least deep on average over the losses that a user may allow, `ALLOWED`.

    One family is chosen for the whole dial, over several budgets: choosing anew at each point would pick noise.
    """
    layers = first + probabilities.shape[1] - 1

    def runs(family: ExitRule) -> float:
        rules = [replace(family, threshold=threshold) for threshold in THRESHOLDS[::3]]
        found = [judge(rule, probabilities, probabilities[:, -1], truth, first) for rule in rules]
        return float(
            np.mean([min((run.mean_depth for run in found if run.lost <= one), default=layers) for one in ALLOWED])
        )

    return min(families(probabilities.shape[1]), key=runs)


def token_table(
    model: ElbertForSequenceClassification,
    reader: Reader,
    texts: Sequence[str],
    temperatures: Sequence[float],
    rule: ExitRule,
    budget: Budget,
) -> Tensor:
    """GEEP's table, (V, exits): P(l|t) = (T[t,l] + lambda prior[l]) / (sum_l T[t,l] + lambda).

    T[t, e] counts the texts with token t that left at depth e; each distinct, non-special token of a text counts once.
    An unseen token has the prior, the histogram of all texts' exits. Source: doi 10.1007/s11704-022-2341-9; the hash
    table there was never released, so this is ours.
    """
    rows = reader.read(texts)
    logits = all_logits(model, rows, device=budget.device, precision=budget.precision, title="token table")
    scaled = torch.from_numpy(logits) / torch.tensor(temperatures)[:, None]
    first = model.config.depths.start
    depths = exit_depths(scaled.softmax(-1), rule, first).numpy()
    return count_tokens(rows, depths - first, model.config.vocabulary, logits.shape[1], budget.smoothing)


def count_tokens(
    rows: Sequence[NDArray[np.int32]], exits: NDArray[np.int64], vocabulary: int, count: int, smoothing: float
) -> Tensor:
    """The table from read texts (special tokens at both ends) and the place of the exit that each one took."""
    table = np.zeros((vocabulary, count))
    for row, exit_ in zip(rows, exits, strict=True):
        table[np.unique(row[1:-1]), exit_] += 1
    prior = np.bincount(exits, minlength=count) / len(exits)
    smoothed = (table + smoothing * prior) / (table.sum(1, keepdims=True) + smoothing)
    return torch.from_numpy(smoothed).float()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule does on the dev set."""

    mean_depth: float
    accuracy: float
    lost: float


def judge(
    rule: ExitRule,
    probabilities: NDArray[np.float32],
    full: NDArray[np.float32],
    truth: NDArray[np.int64],
    first: int,
) -> Judgement:
    """What a rule does on the dev set.

    What it loses is the larger of two estimates: counted on the labels, and expected from full depth's own calibrated
    probabilities, with two standard errors to spare. A dev set of two thousand texts counts half a point as ten texts,
    so the rule that looks best there has been lucky; the expectation is steadier, and errs on the side of full depth.

    Parameters
    ----------
    probabilities
        (texts, exits, C), after temperature, of depths ``first``...
    full
        (texts, C), what full depth without pruning says.
    """
    depths = exit_depths(torch.from_numpy(probabilities), rule, first).numpy()
    every = np.arange(len(truth))
    answers, whole = probabilities[every, depths - first].argmax(-1), full.argmax(-1)
    counted = np.mean(whole == truth) - np.mean(answers == truth)
    each = full[every, whole] - full[every, answers]
    expected = each.mean() + 2 * each.std() / np.sqrt(len(each))
    return Judgement(float(depths.mean()), float(np.mean(answers == truth)), float(max(counted, expected)))


def budgeted_groups(sources: Sequence[str]) -> list[NDArray[np.int64]]:
    """The texts of each source that has enough of them: a budget holds for all texts, and for these by themselves.

    What is saved on one kind of news must not be paid by the readers of another.
    """
    names = np.array(sources)
    every = [np.flatnonzero(names == name) for name in np.unique(names)]
    return [one for one in every if len(one) >= LEAST_TO_JUDGE]


def _point(
    rule: ExitRule,
    alpha: float,
    probabilities: NDArray[np.float32],
    full: NDArray[np.float32],
    truth: NDArray[np.int64],
    tokens: NDArray[np.int64],
    model: ElbertForSequenceClassification,
    groups: Sequence[NDArray[np.int64]],
) -> OperatingPoint:
    first = model.config.depths.start
    run = judge(rule, probabilities, full, truth, first)
    by_source = [judge(rule, probabilities[one], full[one], truth[one], first).lost for one in groups]
    layers = model.config.layers
    speed = speed_up(int(np.median(tokens)), alpha, layers, model.config.hidden) if alpha < 1.0 else 1.0
    return OperatingPoint(
        dial=math.nan,
        rule=rule,
        alpha=alpha,
        accuracy=round(run.accuracy, 5),
        accuracy_lost=round(max([run.lost, *by_source]), 5),
        mean_depth=round(run.mean_depth, 4),
        cost=round(run.mean_depth / layers / speed, 5),
    )


def _pruning_lost(pruned: NDArray[np.float32], whole: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """What pruning alone loses, at full depth."""
    return float(np.mean(whole[:, -1].argmax(-1) == truth) - np.mean(pruned[:, -1].argmax(-1) == truth))


def _ece(probabilities: NDArray[Any], truth: NDArray[np.int64]) -> float:
    return round(expected_calibration_error(probabilities.astype(np.float64), truth), 4)
