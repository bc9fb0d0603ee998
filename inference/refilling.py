"""Carry texts through the depths until each has left by its own rule; free slots may take the next in the queue.

One loop serves three strategies: ``shrink`` and ``presort`` are a queue without a rest, whose batch only shrinks, and
``refill`` (ours) keeps its slots full. One shared layer means that texts at different depths can sit in one batch;
with several groups of weights a tick serves the slots of one group, the one that most of them wait for.
It knows batches and exit rules; nothing of tensors' insides or devices.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.batching import Answers, Batch, Encoder, Order, Part, Strategy, Window, batches, padded, predict
from inference.confidence_window import ConfidenceWindow

#: More tokens than a window has: all texts of one width make one queue.
WHOLE = 2**62


def shrink(encoder: Encoder, window: Window, order: Order = "arrival") -> Answers:
    """Batches in the given order; texts that exit are dropped from their batch, and nobody takes their place."""
    answers = Answers.empty(len(window.rows), encoder.config.classes)
    for part in batches(window, order, encoder.batch_tokens, encoder.pads):
        carry(encoder, window, part, answers)
    return answers


def presort(encoder: Encoder, window: Window) -> Answers:
    """`shrink` in order of predicted exit depth: texts that leave together travel together, so batches stay full.

    Source: GEEP, Li et al. 2024, doi 10.1007/s11704-022-2341-9. The prediction orders work; it never decides an
    answer.
    """
    return shrink(encoder, window, "predicted")


def refill(encoder: Encoder, window: Window, order: Order = "predicted", every: int = 1) -> Answers:
    """Fixed slots for each width; texts that exit make room for the next in the queue (ours).

    Parameters
    ----------
    every
        Ticks between refills. 1 is the reference; more amortises what an exchange costs, and changes no answer: a
        text is answered when it leaves, and its slot idles until the next exchange.
    """
    answers = Answers.empty(len(window.rows), encoder.config.classes)
    for queue in batches(window, order, WHOLE, encoder.pads):
        carry(encoder, window, queue, answers, refills=True, every=every)
    return answers


STRATEGIES: dict[str, Strategy] = {
    "padded": padded,
    "shrink": shrink,
    "presort": presort,
    "predict": predict,
    "refill": refill,
}


def carry(
    encoder: Encoder, window: Window, part: Part, answers: Answers, *, refills: bool = False, every: int = 1
) -> None:
    """Take the texts of a part to their exits.

    All of them start at once, or, if it ``refills``, as many as there are slots, and the others as slots come free.
    """
    last, first_exit = encoder.config.layers, encoder.config.depths[0]
    slots = _slots(encoder, window, part) if refills else 0
    here, waiting = (part.texts[:slots], part.texts[slots:]) if slots else (part.texts, part.texts[:0])
    batch = encoder.start([window.rows[text] for text in here], part.width, slots if encoder.pads else 0)
    state = ConfidenceWindow(encoder.rule, len(here))
    gone = np.zeros(len(here), np.bool_)
    served = np.arange(len(here))
    tick = 0
    while True:
        depth = batch.depth
        # Where nothing but the last depth can answer, no exit before it need be asked.
        asks_from = last if encoder.rule.never else first_exit
        asked = served[~gone[served] & (depth[served] >= asks_from)]
        if len(asked):
            probabilities = batch.probabilities(asked)
            leaves = _decide(state, asked, probabilities, depth).numpy() | (depth[asked] == last)
            out = asked[leaves]
            if len(out):
                answers.put(here[out], probabilities[torch.from_numpy(leaves)], depth[out], batch.tokens()[out])
                gone[out] = True
        tick += 1
        if gone.any() and (tick % every == 0 or gone.all()):
            room = int(gone.sum()) if slots else 0
            new, waiting = waiting[:room], waiting[room:]
            stays = ~gone
            batch.exchange(stays, [window.rows[text] for text in new])
            here = np.concatenate([here[stays], new])
            if not len(here):
                return
            _exchange(state, stays, len(new))
            gone = np.zeros(len(here), np.bool_)
            served = np.arange(len(here) - len(new), len(here))
            if len(new) and first_exit == 0 and not encoder.rule.never:
                continue  # a new text may leave before any layer has run
        served = _of_one_group(encoder, batch, ~gone)
        batch.deepen(served)


def _decide(
    state: ConfidenceWindow, rows: NDArray[np.int64], probabilities: Tensor, depth: NDArray[np.int64]
) -> Tensor:
    at = torch.from_numpy(depth[rows])
    if len(rows) == len(state.run):
        return state.decide(probabilities, at)
    index = torch.from_numpy(rows)
    part = ConfidenceWindow(state.rule, 0)
    part.run, part.label, part.lead = state.run[index], state.label[index], state.lead[index]
    leaves = part.decide(probabilities, at)
    state.run[index], state.label[index], state.lead[index] = part.run, part.label, part.lead
    return leaves


def _exchange(state: ConfidenceWindow, stays: NDArray[np.bool_], new: int) -> None:
    kept = np.flatnonzero(stays)
    state.select(torch.from_numpy(np.concatenate([kept, np.zeros(new, np.int64)])))
    state.reset(torch.arange(len(kept), len(kept) + new))


def _of_one_group(encoder: Encoder, batch: Batch, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The live rows whose next layer belongs to the group that most of them wait for."""
    rows = np.flatnonzero(alive)
    if encoder.config.groups == 1:
        return rows
    groups = batch.depth[rows] * encoder.config.groups // encoder.config.layers
    of_most: NDArray[np.int64] = rows[groups == np.bincount(groups).argmax()]
    return of_most


def _slots(encoder: Encoder, window: Window, part: Part) -> int:
    width = part.width or float(np.mean([len(window.rows[text]) for text in part.texts]))
    return max(1, int(encoder.batch_tokens // width))
