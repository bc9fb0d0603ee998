"""Measures what ACC's pruning costs and saves on one labelled set: a sweep at full depth, and one layer at a time.

Speed is given twice: by the paper's count of operations (`token_pruning.speed_up`), and measured as CPU time at full
depth against fused attention without pruning, which is what one would run instead. Must not know exits.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.backends.padded import DTYPES
from earlybell.inference.early_exit.token_pruning import LEAST_TOKENS, Pruning, solve_alpha, speed_up
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.training.data import length_sorted_batches
from earlybell.inference.training.measures import accuracy, macro_f1
from earlybell.inference.training.optimise import keep_of, pad

SPEED_UPS = (1.5, 2.0, 3.0, 4.0, 4.8)
Rows = Sequence[NDArray[np.int32]]


def sweep(
    model: ElbertForSequenceClassification,
    rows: Rows,
    truth: NDArray[np.int64],
    *,
    speed_ups: Sequence[float] = SPEED_UPS,
    device: str = "cpu",
    precision: str = "bfloat16",
    batch_tokens: int = 4_096,
) -> list[dict[str, float]]:
    """Run one model at full depth with several alphas: ACC's offline tuning.

    Parameters
    ----------
    speed_ups
        Analytical speed-ups at the set's median length; those out of reach at that length are left out.

    Returns
    -------
    points
        The first is without pruning. Each has ``speed_up`` (the target), ``alpha``, ``tokens`` (the median length),
        ``speed_up_at_median`` and ``speed_up_over_set`` (analytical; the second over all texts at their own lengths),
        ``speed_up_measured``, ``accuracy``, ``macro_f1``, ``accuracy_lost`` and its ``standard_error`` (of paired
        differences).
    """
    config = model.config
    lengths = [len(row) for row in rows]
    median = int(np.median(lengths))
    largest = speed_up(median, 1e-6, config.layers, config.hidden)
    targets = [1.0, *(target for target in speed_ups if 1.0 < target <= largest)]
    alphas = [1.0, *(solve_alpha(target, median, config.layers, config.hidden) for target in targets[1:])]
    runner = _Runner(model, device, precision)
    seconds = np.zeros(len(alphas))
    answers = np.zeros((len(alphas), len(rows)), np.int64)
    for turn, (batch, ids, mask) in enumerate(runner.batches(rows, batch_tokens)):
        for step in range(len(alphas)):
            # Interleaved, and never in the same order, so that a busy machine slows all alphas alike.
            index = (turn + step) % len(alphas)
            alpha = alphas[index]
            if turn == 0:
                runner.timed(ids, mask, alpha)  # warm up
            logits, duration = runner.timed(ids, mask, alpha)
            seconds[index] += duration
            answers[index, batch] = logits.argmax(-1)
    points = []
    for index, (target, alpha) in enumerate(zip(targets, alphas, strict=True)):
        points.append(
            {
                "speed_up": target,
                "alpha": round(alpha, 4),
                "tokens": float(median),
                "speed_up_at_median": round(speed_up(median, alpha, config.layers, config.hidden), 3),
                "speed_up_over_set": round(speed_up_over(lengths, alpha, config.layers, config.hidden), 3),
                "speed_up_measured": round(float(seconds[0] / seconds[index]), 3),
                "macro_f1": round(macro_f1(truth, answers[index], config.classes), 4),
                **_accuracy_lost(truth, answers[index], answers[0]),
            }
        )
    return points


def by_layer(
    model: ElbertForSequenceClassification,
    rows: Rows,
    truth: NDArray[np.int64],
    *,
    share: float = 0.5,
    device: str = "cpu",
    precision: str = "bfloat16",
    batch_tokens: int = 4_096,
) -> list[dict[str, float]]:
    """Measure pruning in one layer at a time; the tokens it drops stay dropped in the layers after it.

    Returns
    -------
    points
        One per layer: ``layer``, ``share`` (of its tokens that it keeps), ``tokens_saved`` (share of all layers'
        feed-forward work that is saved), ``accuracy``, ``accuracy_lost`` and its ``standard_error``.
    """
    layers = model.config.layers
    runner = _Runner(model, device, precision)
    answers = np.zeros((layers + 1, len(rows)), np.int64)  # the last row: without pruning
    for batch, ids, mask in runner.batches(rows, batch_tokens):
        lengths = mask.sum(1)
        keep = (lengths * share).ceil().long().clamp_min(LEAST_TOKENS).minimum(lengths)
        with torch.inference_mode():
            x = runner.model.embed(ids)
            for depth in range(1, layers + 1):
                pruned = runner.model.deepen(x, mask, depth, keep)
                answers[depth - 1, batch] = runner.finish(*pruned, depth).argmax(-1)
                x, _ = runner.model.deepen(x, mask, depth)
            answers[layers, batch] = runner.finish(x, mask, layers).argmax(-1)
    tokens = np.array([len(row) for row in rows])
    dropped_share = 1 - np.minimum(np.maximum(np.ceil(tokens * share), LEAST_TOKENS), tokens).sum() / tokens.sum()
    return [
        {
            "layer": float(depth),
            "share": share,
            "tokens_saved": round(float(dropped_share) * (layers - depth + 1) / layers, 4),
            **_accuracy_lost(truth, answers[depth - 1], answers[layers]),
        }
        for depth in range(1, layers + 1)
    ]


def speed_up_over(lengths: Sequence[int], alpha: float, layers: int, hidden: int) -> float:
    """Return K over a whole set: operations without pruning over those with it, each text at its own length."""
    full = pruned = 0.0
    for tokens, texts in zip(*np.unique(lengths, return_counts=True), strict=True):
        # Per layer and divided by 4 h: 24 n h^2 + 4 n^2 h, as in `speed_up`.
        work = float(texts) * (6.0 * tokens * hidden + float(tokens) ** 2)
        full += work
        pruned += work / speed_up(int(tokens), alpha, layers, hidden)
    return full / pruned


class _Runner:
    """A copy of a model in the given precision; the heads stay in theirs."""

    def __init__(self, model: ElbertForSequenceClassification, device: str, precision: str) -> None:
        self.model = copy.deepcopy(model).to(device).eval()
        self.model.embedding.to(DTYPES[precision])
        self.model.layers.to(DTYPES[precision])
        self.device = device

    def batches(self, rows: Rows, tokens: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        lengths = [len(row) for row in rows]
        for batch in length_sorted_batches(lengths, max(tokens, *lengths), random.Random(1), pool=len(rows)):
            yield batch, *pad([rows[index] for index in batch], self.model.config.pad_id, self.device)

    def timed(self, ids: Tensor, mask: Tensor, alpha: float) -> tuple[NDArray[np.float32], float]:
        """Return the last exit's logits, (B, C), and the seconds they took."""
        layers = self.model.config.layers
        started = self._now()
        with torch.inference_mode():
            keep = keep_of(mask.sum(1), Pruning(alpha), layers) if alpha < 1.0 else None
            x = self.model.embed(ids)
            for depth in range(1, layers + 1):
                x, mask = self.model.deepen(x, mask, depth, None if keep is None else keep[:, depth - 1])
            logits: NDArray[np.float32] = self.model.exit_logits(x, mask, layers).float().cpu().numpy()
        return logits, self._now() - started

    def finish(self, x: Tensor, mask: Tensor, depth: int) -> NDArray[np.float32]:
        """Return the last exit's logits from the hidden states at ``depth``."""
        layers = self.model.config.layers
        for next_depth in range(depth + 1, layers + 1):
            x, mask = self.model.deepen(x, mask, next_depth)
        logits: NDArray[np.float32] = self.model.exit_logits(x, mask, layers).float().cpu().numpy()
        return logits

    @property
    def _now(self) -> Callable[[], float]:
        # CPU time is unaffected by other processes, but does not include a GPU's work.
        return time.process_time if self.device == "cpu" else time.perf_counter


def _accuracy_lost(truth: NDArray[np.int64], answers: NDArray[np.int64], unpruned: NDArray[np.int64]) -> dict[str, Any]:
    differences = (unpruned == truth).astype(np.float64) - (answers == truth)
    return {
        "accuracy": round(accuracy(truth, answers), 4),
        "accuracy_lost": round(float(differences.mean()), 4),
        "standard_error": round(float(differences.std() / math.sqrt(len(differences))), 4),
    }
