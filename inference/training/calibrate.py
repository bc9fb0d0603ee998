"""`earlybell calibrate`: finds what a checkpoint needs to be served: tempering, exits, token table, dial.

Everything is found on a dev set, in this order; `prune` then adds token pruning for long texts. Must never see the
report sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.early_exit.confidence_window import exit_depths
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import LARGEST_LEAD, tempered
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration, OperatingPoint
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.data import Example
from earlybell.inference.training.measures import expected_calibration_error, softmax
from earlybell.inference.training.optimise import all_logits

#: Entropy thresholds to try; finer where a trained model's entropies are dense.
THRESHOLDS = tuple(np.round(np.concatenate([np.linspace(0, 0.1, 21), np.linspace(0.11, 1.0, 90)]), 4).tolist())
MARGINS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
DIALS = tuple(round(step / 20, 2) for step in range(21))
#: Losses of accuracy over which a window is chosen.
ALLOWED_LOSSES = (0.0025, 0.005, 0.0075, 0.01)
#: A source with fewer texts than this is not judged by itself: its loss would be noise.
MIN_SOURCE_TEXTS = 500
#: How narrow the interval becomes in which a search looks for the least loss.
SEARCHED_TO = 1e-4
#: Largest loss against full depth that the dial offers: its end, dial 1.
MAX_LOSS = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much accuracy may be lost, and how to search."""

    name: str = "elbert-small"
    languages: tuple[str, ...] = ("en",)
    max_tokens: int = 512
    max_loss: float = 0.005  # of accuracy against full depth, at the default dial
    max_behaviour_loss: float = 0.02  # the same on the behavioural suite's cases, which are far harder
    windows: bool = True  # try windows; without them the exit is FastBERT's, by entropy alone
    smoothing: float = 1.0  # lambda of the token table
    device: str = "cpu"
    precision: str = "bfloat16"


def calibrate(
    directory: Path,
    dev: Sequence[Example],
    table_texts: Sequence[str],
    budget: Budget,
    behaviour: Sequence[Example] = (),
) -> tuple[str, dict[str, Any]]:
    """Calibrate the model in ``directory``, make it a checkpoint, and return its revision and a record of the result.

    Parameters
    ----------
    directory
        Holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
    dev
        Labelled texts that are neither trained on nor reported.
    table_texts
        Texts, without labels, counted in the token table.
    behaviour
        Cases of the behavioural suite's dev half. They limit how early texts may exit, with a budget of their own, and
        touch neither tempering nor the accuracy that the curve reports.
    """
    model = ElbertForSequenceClassification.from_pretrained(directory)
    budget = replace(budget, max_tokens=min(budget.max_tokens, model.config.positions))
    reader = Reader.open(directory / checkpoint.TOKENIZER_FILE, budget.max_tokens, figures=model.config.figures)
    calibration, record = calibrate_model(model, reader, dev, table_texts, budget, behaviour)
    checkpoint.write_calibration(calibration, directory)
    return checkpoint.seal(directory), record


def calibrate_model(
    model: ElbertForSequenceClassification,
    reader: Reader,
    dev: Sequence[Example],
    table_texts: Sequence[str],
    budget: Budget,
    behaviour: Sequence[Example] = (),
) -> tuple[Calibration, dict[str, Any]]:
    """Do as `calibrate`, in memory."""
    rows = reader.read([example.text for example in dev])
    truth = np.array([model.config.labels.index(example.label) for example in dev], np.int64)
    first, layers = model.config.depths.start, model.config.layers

    logits = all_logits(model, rows, device=budget.device, precision=budget.precision)
    tempering = np.array([fit_tempering(logits[:, exit_], truth) for exit_ in range(logits.shape[1])], np.float32)
    temperatures, sharpening = (tuple(values) for values in tempering.T.tolist())
    probabilities = tempered(logits, tempering)
    full_accuracy = float(np.mean(probabilities[:, -1].argmax(-1) == truth))

    suite = None
    if behaviour:
        suite_rows = reader.read([example.text for example in behaviour])
        suite_logits = all_logits(model, suite_rows, device=budget.device, precision=budget.precision)
        suite_truth = np.array([model.config.labels.index(example.label) for example in behaviour], np.int64)
        share = budget.max_loss / budget.max_behaviour_loss
        suite = _Suite(tempered(suite_logits, tempering), suite_truth, share)

    family = best_family(probabilities, truth, first) if budget.windows else ExitRule()
    curve = [OperatingPoint(0.0, ExitRule(), Pruning(), full_accuracy, 0.0, float(layers), 1.0)]
    sources = judged_sources([example.source for example in dev])
    settings = [
        _operating_point(replace(family, threshold=threshold), probabilities, truth, model, sources, suite)
        for threshold in THRESHOLDS
    ]
    usable = [point for point in settings if point.accuracy_lost <= MAX_LOSS]
    min_cost = min(point.cost for point in usable)
    for dial in DIALS[1:]:
        # The slowest setting that is fast enough. The best of all that are would be picked by noise.
        max_cost = 1.0 - dial * (1.0 - min_cost)
        affordable = [point for point in usable if point.cost <= max_cost + 1e-6]
        curve.append(replace(max(affordable, key=lambda point: point.cost), dial=dial))
    default = default_point(settings, budget.max_loss, min_cost) or curve[0]
    # The default has a position between two steps of the dial, so that it uses its budget to the full.
    curve = sorted([*(point for point in curve if point.dial != default.dial), default], key=lambda point: point.dial)

    table = token_table(model, reader, table_texts, tempering, default.rule, budget) if table_texts else None
    calibration = Calibration(
        budget.name, budget.languages, budget.max_tokens, temperatures, tuple(curve), default.dial, table, sharpening
    )
    record = {
        "n": len(dev),
        "full_depth_accuracy": round(full_accuracy, 4),
        "window": {"rule": family.window_rule, "window": family.window, "margin": family.margin},
        "default_dial": default.dial,
        "ece_before": [_ece(softmax(logits[:, exit_]), truth) for exit_ in range(logits.shape[1])],
        "ece_after": [_ece(probabilities[:, exit_], truth) for exit_ in range(logits.shape[1])],
        "temperatures": [round(value, 3) for value in temperatures],
        "sharpening": [round(value, 3) for value in sharpening],
    }
    return calibration, record


def fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Return the temperature of least negative log-likelihood in [1/8, 8], without sharpening."""
    return _fit_temperature(logits, truth, 0.0)[0]


def fit_tempering(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> tuple[float, float]:
    """Return the temperature, in [1/8, 8], and sharpening, in [0, 1], of least negative log-likelihood.

    A sharpening below 0 would let the answer with the larger lead end up with the lower confidence.
    """
    sharpening = _least(lambda sharpening: _fit_temperature(logits, truth, sharpening)[1], 0.0, 1.0)
    if sharpening < 2 * SEARCHED_TO:  # the least is at the end of the interval, which the search never tries
        sharpening = 0.0
    return _fit_temperature(logits, truth, sharpening)[0], sharpening


def _fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.int64], sharpening: float) -> tuple[float, float]:
    """Return the best temperature with this sharpening, and its loss; see `early_exit.tempering`."""
    logits64 = logits.astype(np.float64)
    second, first = np.sort(logits64, 1)[:, -2:].T
    lead, texts = (first - second)[:, None], np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        scale = (1.0 + sharpening * np.minimum(lead / temperature, LARGEST_LEAD)) / temperature
        shifted = (logits64 - first[:, None]) * scale
        return float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[texts, truth]))

    best = _least(loss, -math.log(8), math.log(8))
    return math.exp(best), loss(best)


def _least(loss: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one minimum is least, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > SEARCHED_TO:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def default_point(settings: Sequence[OperatingPoint], max_loss: float, min_cost: float) -> OperatingPoint | None:
    """Return the fastest setting that, like every slower one, loses at most ``max_loss``.

    Its dial follows from its cost, on a dial whose 1 costs ``min_cost``. None if none is faster than full depth.
    """
    slowest_first = sorted(settings, key=lambda point: -point.cost)
    within = list(takewhile(lambda point: point.accuracy_lost <= max_loss, slowest_first))
    if not within or within[-1].cost >= 1.0:
        return None
    dial = math.floor((1.0 - within[-1].cost) / (1.0 - min_cost) * 100) / 100
    return replace(within[-1], dial=dial) if dial else None


def families(exits: int) -> list[ExitRule]:
    """Return the windows to try; each is swept over the entropy thresholds."""
    rules = [ExitRule()]
    for window in range(2, exits):
        rules += [ExitRule(0.0, "agreement", window, margin) for margin in MARGINS]
        rules.append(ExitRule(0.0, "trend", window))
    return rules


def best_family(probabilities: NDArray[np.float32], truth: NDArray[np.int64], first: int) -> ExitRule:
    """Return the window with the least mean depth, averaged over `ALLOWED_LOSSES`.

    One window serves the whole dial: choosing one per setting would pick noise.
    """
    tensor = torch.from_numpy(probabilities)

    def mean_depth(family: ExitRule) -> float:
        def depths_at(threshold: float) -> NDArray[np.int64]:
            return exit_depths(tensor, replace(family, threshold=threshold), first).numpy()

        return least_mean_depth(depths_at, probabilities, truth, first)

    return min(families(probabilities.shape[1]), key=mean_depth)


def least_mean_depth(
    depths_at: Callable[[float], NDArray[np.int64]],
    probabilities: NDArray[np.float32],
    truth: NDArray[np.int64],
    first: int,
) -> float:
    """Return the least mean depth of an exit rule at any threshold, averaged over `ALLOWED_LOSSES`.

    Parameters
    ----------
    depths_at
        The exit depth of each text, (texts,), by threshold.
    """
    layers = first + probabilities.shape[1] - 1
    judgements = [
        judge_depths(depths_at(threshold), probabilities, probabilities[:, -1], truth, first)
        for threshold in THRESHOLDS[::3]
    ]
    least = [
        min((judgement.mean_depth for judgement in judgements if judgement.lost <= allowed), default=layers)
        for allowed in ALLOWED_LOSSES
    ]
    return float(np.mean(least))


def token_table(
    model: ElbertForSequenceClassification,
    reader: Reader,
    texts: Sequence[str],
    tempering: NDArray[np.float32],
    rule: ExitRule,
    budget: Budget,
) -> NDArray[np.float32]:
    """Return GEEP's token table, (V, exits): P(l|t) = (T[t,l] + lambda prior[l]) / (sum_l T[t,l] + lambda).

    T[t, e] counts the texts with token t that exited at depth e; each distinct non-special token of a text counts once.
    An unseen token gets the prior, the histogram of all texts' exits. Source: doi 10.1007/s11704-022-2341-9; its hash
    table was never released, so this form is ours.
    """
    rows = reader.read(texts)
    logits = all_logits(model, rows, device=budget.device, precision=budget.precision, title="token table")
    first = model.config.depths.start
    depths = exit_depths(torch.from_numpy(tempered(logits, tempering)), rule, first).numpy()
    return count_tokens(rows, depths - first, model.config.vocabulary, logits.shape[1], budget.smoothing)


def count_tokens(
    rows: Sequence[NDArray[np.int32]], exits: NDArray[np.int64], vocabulary: int, count: int, smoothing: float
) -> NDArray[np.float32]:
    """Count the token table from token ids (special tokens at both ends) and the index of each text's exit."""
    table = np.zeros((vocabulary, count))
    for row, exit_ in zip(rows, exits, strict=True):
        table[np.unique(row[1:-1]), exit_] += 1
    prior = np.bincount(exits, minlength=count) / len(exits)
    smoothed: NDArray[np.float64] = (table + smoothing * prior) / (table.sum(1, keepdims=True) + smoothing)
    return smoothed.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The depth and accuracy of an exit rule on the dev set."""

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
    """Judge an exit rule on the dev set.

    Its loss is the larger of two estimates: counted on the labels, and expected from full depth's own calibrated
    probabilities plus two standard errors. In a dev set of two thousand texts half a point is ten texts, so the rule
    that counts best has been lucky; the expectation varies less and errs towards full depth.

    Parameters
    ----------
    probabilities
        (texts, exits, C), calibrated, of depths ``first``...
    full
        (texts, C), of full depth without pruning.
    """
    depths = exit_depths(torch.from_numpy(probabilities), rule, first).numpy()
    return judge_depths(depths, probabilities, full, truth, first)


def judge_depths(
    depths: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    full: NDArray[np.float32],
    truth: NDArray[np.int64],
    first: int,
) -> Judgement:
    """Judge the exit depths of the dev set's texts, (texts,); see `judge`."""
    texts = np.arange(len(truth))
    answers, full_answers = probabilities[texts, depths - first].argmax(-1), full.argmax(-1)
    counted = np.mean(full_answers == truth) - np.mean(answers == truth)
    losses = full[texts, full_answers] - full[texts, answers]
    expected = losses.mean() + 2 * losses.std() / np.sqrt(len(losses))
    return Judgement(float(depths.mean()), float(np.mean(answers == truth)), float(max(counted, expected)))


@dataclass(frozen=True, slots=True)
class _Suite:
    """The behavioural cases as calibration sees them, without pruning."""

    probabilities: NDArray[np.float32]  # (cases, exits, C)
    truth: NDArray[np.int64]
    share: float  # of a loss on them that counts, since their budget is larger


def judged_sources(sources: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the texts (indices) of each source with at least `MIN_SOURCE_TEXTS` of them.

    The budget holds for all texts together and for each of these: speed on one kind of news must not cost another its
    accuracy.
    """
    names = np.array(sources)
    texts_by_source = [np.flatnonzero(names == name) for name in np.unique(names)]
    return [texts for texts in texts_by_source if len(texts) >= MIN_SOURCE_TEXTS]


def _operating_point(
    rule: ExitRule,
    probabilities: NDArray[np.float32],
    truth: NDArray[np.int64],
    model: ElbertForSequenceClassification,
    sources: Sequence[NDArray[np.int64]],
    suite: _Suite | None,
) -> OperatingPoint:
    first, full = model.config.depths.start, probabilities[:, -1]
    overall = judge(rule, probabilities, full, truth, first)
    source_losses = [judge(rule, probabilities[texts], full[texts], truth[texts], first).lost for texts in sources]
    if suite is not None:
        lost = judge(rule, suite.probabilities, suite.probabilities[:, -1], suite.truth, first).lost
        source_losses.append(lost * suite.share)
    return OperatingPoint(
        dial=math.nan,
        rule=rule,
        pruning=Pruning(),
        accuracy=round(overall.accuracy, 5),
        accuracy_lost=round(max([overall.lost, *source_losses]), 5),
        mean_depth=round(overall.mean_depth, 4),
        cost=round(overall.mean_depth / model.config.layers, 5),
    )


def _ece(probabilities: NDArray[Any], truth: NDArray[np.int64]) -> float:
    return round(expected_calibration_error(probabilities.astype(np.float64), truth), 4)
