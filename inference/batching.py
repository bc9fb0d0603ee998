"""How a window's texts are put into batches and carried through the depths: strategies behind one interface.

``padded``: full depth, order of arrival, padded to the longest of the batch. What most people run; the baseline.
``shrink``: texts that exit are dropped and the batch shrinks (FastBERT's way).
``presort``: texts that will probably leave together travel together (GEEP's order), then as ``shrink``.
``predict``: GEEP's pure form; the predicted depth decides, nothing is checked.

But for ``padded``, **a text only runs in shapes that its own length chooses** (`bucket`): its arithmetic is then the
same whatever stands beside it, provided that the device's matrix products treat all rows alike.
It knows a model, an exit rule and token ids; nothing of tokenizers, checkpoints or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.confidence_window import ConfidenceWindow, ExitRule
from inference.elbert import ElbertForSequenceClassification
from inference.token_pruning import kept_tokens

Order = Literal["arrival", "length", "predicted"]


@dataclass(frozen=True, slots=True)
class Encoder:
    """A model on a device, and the rules that texts leave it by."""

    model: ElbertForSequenceClassification
    rule: ExitRule
    temperatures: Tensor  # (exits,) float32 on the device
    alpha: float  # ACC's share that a layer keeps; 1: no pruning
    device: torch.device
    batch_tokens: int  # of a padded batch

    def probabilities(self, x: Tensor, live: Tensor, depth: int) -> Tensor:
        """(B, T, h), (B, T) -> (B, C), after the exit's temperature."""
        place = depth - self.model.config.depths.start
        return (self.model.exit_logits(x, live, depth).float() / self.temperatures[place]).softmax(-1)

    def padded(self, rows: Sequence[NDArray[np.int32]], width: int) -> tuple[Tensor, Tensor]:
        """Rows of ids -> ``ids, live``, both (B, width) on the device."""
        ids = np.full((len(rows), width), self.model.config.pad_id, np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        live = np.arange(width) < np.array([len(row) for row in rows])[:, None]
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(live).to(self.device)


@dataclass(frozen=True, slots=True)
class Window:
    """The texts that are scored together."""

    rows: list[NDArray[np.int32]]  # ids, special tokens included
    predicted: NDArray[np.float32]  # (texts,) predicted exit depth; NaN where nothing predicts


@dataclass(frozen=True, slots=True)
class Answers:
    """What came out, in the order of the window; filled row by row as texts leave."""

    probabilities: NDArray[np.float32]  # (texts, C)
    exit_depth: NDArray[np.int16]
    tokens_kept: NDArray[np.int32]

    @classmethod
    def empty(cls, texts: int, classes: int) -> Answers:
        """Room for so many texts."""
        return cls(np.zeros((texts, classes), np.float32), np.full(texts, -1, np.int16), np.zeros(texts, np.int32))

    def put(self, texts: NDArray[np.int64], probabilities: Tensor, depth: int, kept: Tensor) -> None:
        """These texts leave at ``depth``."""
        self.probabilities[texts] = probabilities.cpu().numpy()
        self.exit_depth[texts] = depth
        self.tokens_kept[texts] = kept.cpu().numpy()


Strategy = Callable[[Encoder, Window], Answers]


def bucket(tokens: int) -> int:
    """The width that a text of so many tokens is padded to: steps of 4 to 32, 8 to 64, then 32.

    Padding is then a few tokens on a headline and a few per cent on a body, and a window still falls into few shapes.
    """
    step = 4 if tokens <= 32 else 8 if tokens <= 64 else 32
    return max(8, -(-tokens // step) * step)


def padded(encoder: Encoder, window: Window) -> Answers:
    """Full depth in order of arrival, each batch padded to its longest text."""
    answers = Answers.empty(len(window.rows), encoder.model.config.classes)
    last = encoder.model.config.layers
    start = 0
    while start < len(window.rows):
        stop, longest = start, 0
        while stop < len(window.rows):
            longest = max(longest, len(window.rows[stop]))
            if stop > start and (stop + 1 - start) * longest > encoder.batch_tokens:
                break
            stop += 1
        rows = window.rows[start:stop]
        ids, live = encoder.padded(rows, max(len(row) for row in rows))
        x = encoder.model.embed(ids)
        for depth in range(1, last + 1):
            x, live = encoder.model.deepen(x, live, depth)
        answers.put(np.arange(start, stop), encoder.probabilities(x, live, last), last, live.sum(1))
        start = stop
    return answers


def shrink(encoder: Encoder, window: Window, order: Order = "arrival") -> Answers:
    """Batches of one width each, in the given order; texts that exit are dropped from their batch."""
    answers = Answers.empty(len(window.rows), encoder.model.config.classes)
    for width, texts in batches(window, order, encoder.batch_tokens):
        _run_batch(encoder, window, width, texts, answers)
    return answers


def presort(encoder: Encoder, window: Window) -> Answers:
    """`shrink` with the window in order of predicted exit depth, so that texts that leave together travel together.

    Source: GEEP, Li et al. 2024, doi 10.1007/s11704-022-2341-9. The prediction orders work; it never decides an
    answer. Ours: the width comes first, so that little padding is computed and shapes stay a text's own.
    """
    return shrink(encoder, window, "predicted")


def predict(encoder: Encoder, window: Window) -> Answers:
    """GEEP's pure form: a text runs to its predicted depth, rounded, and only that depth's exit is asked.

    Nothing is checked on the way, so the prediction decides the answer: the one strategy whose answers are not the
    exit rule's. Without a token table every text runs to full depth.
    """
    config = encoder.model.config
    answers = Answers.empty(len(window.rows), config.classes)
    last = config.layers
    rounded = np.nan_to_num(np.rint(window.predicted), nan=last).astype(np.int64)
    chosen = rounded.clip(config.depths.start, last)
    for depth in np.unique(chosen):
        texts = np.flatnonzero(chosen == depth)
        part = Window([window.rows[index] for index in texts], window.predicted[texts])
        for width, places in batches(part, "length", encoder.batch_tokens):
            ids, live = encoder.padded([part.rows[place] for place in places], width)
            keep, widths = kept_at_depths(encoder, live.sum(1), width)
            x = encoder.model.embed(ids)
            for step in range(1, depth + 1):
                x, live = encoder.model.deepen(
                    x, live, step, None if keep is None else keep[:, step - 1], widths[step - 1]
                )
            answers.put(texts[places], encoder.probabilities(x, live, int(depth)), int(depth), live.sum(1))
    return answers


STRATEGIES: dict[str, Strategy] = {"padded": padded, "shrink": shrink, "presort": presort, "predict": predict}


def batches(window: Window, order: Order, batch_tokens: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Cut a window into ``(width, texts)`` batches of at most ``batch_tokens`` padded tokens (or one text)."""
    lengths = np.array([len(row) for row in window.rows], np.int64)
    widths = np.array([bucket(int(length)) for length in lengths], np.int64)
    within: NDArray[np.float32] = np.zeros(len(widths), np.float32)
    if order == "length":
        within = lengths.astype(np.float32)
    elif order == "predicted":
        within = np.nan_to_num(window.predicted, nan=0.0)
    arranged = np.lexsort((within, widths))  # stable: equal texts stay in order of arrival
    for width in np.unique(widths):
        of_width = arranged[widths[arranged] == width]
        size = max(1, batch_tokens // int(width))
        for start in range(0, len(of_width), size):
            yield int(width), of_width[start : start + size]


def _run_batch(encoder: Encoder, window: Window, width: int, texts: NDArray[np.int64], answers: Answers) -> None:
    model, rule = encoder.model, encoder.rule
    last = model.config.layers
    ids, live = encoder.padded([window.rows[index] for index in texts], width)
    keep, widths = kept_at_depths(encoder, live.sum(1), width)
    state = ConfidenceWindow(rule, len(texts), encoder.device)
    x = model.embed(ids)
    for depth in range(last + 1):
        if depth > 0:
            x, live = model.deepen(x, live, depth, None if keep is None else keep[:, depth - 1], widths[depth - 1])
        if depth == last:
            answers.put(texts, encoder.probabilities(x, live, depth), depth, live.sum(1))
            return
        if depth not in model.config.depths or rule.never:
            continue
        probabilities = encoder.probabilities(x, live, depth)
        leaves = state.decide(probabilities, depth)
        leaving = leaves.cpu().numpy()
        if not leaving.any():
            continue
        answers.put(texts[leaving], probabilities[leaves], depth, live[leaves].sum(1))
        if leaving.all():
            return
        stays = (~leaves).nonzero().squeeze(1)
        x, live, texts = x[stays], live[stays], texts[~leaving]
        keep = None if keep is None else keep[stays]
        state.select(stays)


def kept_at_depths(encoder: Encoder, tokens: Tensor, width: int) -> tuple[Tensor | None, list[int | None]]:
    """ACC's tokens to keep, (B, L), and the width of each depth, which hangs on the batch's width alone."""
    layers = encoder.model.config.layers
    if encoder.alpha >= 1.0:
        return None, [None] * layers
    widths = kept_tokens(torch.tensor([width]), encoder.alpha, layers)[0].tolist()
    return kept_tokens(tokens, encoder.alpha, layers), widths
