"""What ACC's pruning costs and saves on one labelled set: its sweep at full depth, and one layer at a time.

Speed is taken twice: by the paper's count of operations (`token_pruning.speed_up`), and measured, as processor time of
full-depth runs against fused attention without pruning, which is what pruning gives up. It knows nothing of exits.
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

from earlybell.inference.early_exit.token_pruning import LEAST_TOKENS, kept_tokens, solve_alpha, speed_up
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.precision import PRECISIONS
from earlybell.inference.training.data import length_sorted_batches
from earlybell.inference.training.measures import accuracy, macro_f1
from earlybell.inference.training.optimise import padded

SPEED_UPS = (1.5, 2.0, 3.0, 4.0, 4.8)
Rows = Sequence[NDArray[np.int32]]


def sweep(
    model: ElbertForSequenceClassification,
    rows: Rows,
    truth: NDArray[np.int64],
    *,
    wanted: Sequence[float] = SPEED_UPS,
    device: str = "cpu",
    precision: str = "bfloat16",
    batch_tokens: int = 4_096,
) -> list[dict[str, float]]:
    """Offline tuning: one model, alpha changed at inference alone, every text at full depth.

    Parameters
    ----------
    wanted
        Analytical speed-ups at the set's median length; those out of reach at that length are left out.

    Returns
    -------
    points
        The first is no pruning. Of each: ``speed_up`` (wanted), ``alpha``, ``tokens`` (the median length),
        ``speed_up_at_median`` and ``speed_up_over_set`` (analytical; the second over all texts with their own lengths),
        ``speed_up_measured``, ``accuracy``, ``macro_f1``, ``accuracy_lost`` and the latter's ``standard_error``, which
        is that of paired differences.
    """
    config = model.config
    lengths = [len(row) for row in rows]
    median = int(np.median(lengths))
    most = speed_up(median, 1e-6, config.layers, config.hidden)
    speeds = [1.0, *(speed for speed in wanted if 1.0 < speed <= most)]
    alphas = [1.0, *(solve_alpha(speed, median, config.layers, config.hidden) for speed in speeds[1:])]
    runner = _Runner(model, device, precision)
    seconds = np.zeros(len(alphas))
    answers = np.zeros((len(alphas), len(rows)), np.int64)
    for turn, (batch, ids, live) in enumerate(runner.batches(rows, batch_tokens)):
        for step in range(len(alphas)):
            # In turns: whatever slows the machine down for a while slows all of them, and none is always the first.
            place = (turn + step) % len(alphas)
            alpha = alphas[place]
            if turn == 0:
                runner.timed(ids, live, alpha)
            logits, took = runner.timed(ids, live, alpha)
            seconds[place] += took
            answers[place, batch] = logits.argmax(-1)
    found = []
    for place, (speed, alpha) in enumerate(zip(speeds, alphas, strict=True)):
        found.append(
            {
                "speed_up": speed,
                "alpha": round(alpha, 4),
                "tokens": float(median),
                "speed_up_at_median": round(speed_up(median, alpha, config.layers, config.hidden), 3),
                "speed_up_over_set": round(speed_up_over(lengths, alpha, config.layers, config.hidden), 3),
                "speed_up_measured": round(float(seconds[0] / seconds[place]), 3),
                "macro_f1": round(macro_f1(truth, answers[place], config.classes), 4),
                **_lost(truth, answers[place], answers[0]),
            }
        )
    return found


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
    """Which layer's pruning costs what: only one layer drops tokens, and what it dropped stays away.

    Returns
    -------
    points
        One a layer: ``layer``, ``share`` of its tokens that it keeps, ``tokens_saved`` (share of the feed-forward work
        of all layers that is not done: the sooner it is dropped, the more), ``accuracy``, ``accuracy_lost`` and the
        latter's ``standard_error``.
    """
    layers = model.config.layers
    runner = _Runner(model, device, precision)
    answers = np.zeros((layers + 1, len(rows)), np.int64)  # the last: no pruning
    for batch, ids, live in runner.batches(rows, batch_tokens):
        lengths = live.sum(1)
        keep = (lengths * share).ceil().long().clamp_min(LEAST_TOKENS).minimum(lengths)
        with torch.inference_mode():
            x = runner.model.embed(ids)
            for depth in range(1, layers + 1):
                dropped = runner.model.deepen(x, live, depth, keep)
                answers[depth - 1, batch] = runner.finish(*dropped, depth).argmax(-1)
                x, _ = runner.model.deepen(x, live, depth)
            answers[layers, batch] = runner.finish(x, live, layers).argmax(-1)
    tokens = np.array([len(row) for row in rows])
    away = 1 - np.minimum(np.maximum(np.ceil(tokens * share), LEAST_TOKENS), tokens).sum() / tokens.sum()
    return [
        {
            "layer": float(depth),
            "share": share,
            "tokens_saved": round(float(away) * (layers - depth + 1) / layers, 4),
            **_lost(truth, answers[depth - 1], answers[layers]),
        }
        for depth in range(1, layers + 1)
    ]


def speed_up_over(lengths: Sequence[int], alpha: float, layers: int, hidden: int) -> float:
    """K over a whole set: all its texts' operations without pruning by those with it, each at its own length."""
    full = pruned = 0.0
    for tokens, texts in zip(*np.unique(lengths, return_counts=True), strict=True):
        # Per layer, over 4 h: 24 n h^2 + 4 n^2 h, as in `speed_up`.
        work = float(texts) * (6.0 * tokens * hidden + float(tokens) ** 2)
        full += work
        pruned += work / speed_up(int(tokens), alpha, layers, hidden)
    return full / pruned


class _Runner:
    """A copy of a model in the precision that is measured; the heads stay as they are."""

    def __init__(self, model: ElbertForSequenceClassification, device: str, precision: str) -> None:
        self.model = copy.deepcopy(model).to(device).eval()
        self.model.embedding.to(PRECISIONS[precision])
        self.model.layers.to(PRECISIONS[precision])
        self.device = device

    def batches(self, rows: Rows, tokens: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        lengths = [len(row) for row in rows]
        for batch in length_sorted_batches(lengths, max(tokens, *lengths), random.Random(1), pool=len(rows)):
            yield batch, *padded([rows[index] for index in batch], self.model.config.pad_id, self.device)

    def timed(self, ids: Tensor, live: Tensor, alpha: float) -> tuple[NDArray[np.float32], float]:
        """The last exit's logits, (B, C), and the seconds that they took."""
        layers = self.model.config.layers
        began = self._now()
        with torch.inference_mode():
            keep = kept_tokens(live.sum(1), alpha, layers) if alpha < 1.0 else None
            x = self.model.embed(ids)
            for depth in range(1, layers + 1):
                x, live = self.model.deepen(x, live, depth, None if keep is None else keep[:, depth - 1])
            logits: NDArray[np.float32] = self.model.exit_logits(x, live, layers).float().cpu().numpy()
        return logits, self._now() - began

    def finish(self, x: Tensor, live: Tensor, depth: int) -> NDArray[np.float32]:
        """The last exit's logits from the states at ``depth``."""
        layers = self.model.config.layers
        for further in range(depth + 1, layers + 1):
            x, live = self.model.deepen(x, live, further)
        logits: NDArray[np.float32] = self.model.exit_logits(x, live, layers).float().cpu().numpy()
        return logits

    @property
    def _now(self) -> Callable[[], float]:
        # Other processes take wall-clock time, not this one's processor time. A GPU's work is nobody's processor time.
        return time.process_time if self.device == "cpu" else time.perf_counter


def _lost(truth: NDArray[np.int64], answers: NDArray[np.int64], whole: NDArray[np.int64]) -> dict[str, Any]:
    each = (whole == truth).astype(np.float64) - (answers == truth)
    return {
        "accuracy": round(accuracy(truth, answers), 4),
        "accuracy_lost": round(float(each.mean()), 4),
        "standard_error": round(float(each.std() / math.sqrt(len(each))), 4),
    }
