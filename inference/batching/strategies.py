"""Carry texts through the depths until each has left by its own rule; free slots may take the next in the queue.

``shrink`` and ``presort`` are a queue without a rest, whose batch only shrinks (`carry`). ``refill`` (ours) keeps its
batches full: one shared layer means that texts at different depths can sit in one batch, and with several groups of
weights a step serves texts that wait for the same group. Where a batch has a shape that is to be kept it runs on fixed
slots (`carry_in_slots`), else on a batch that takes in texts as others leave (`carry` again). Kernels that compute
every text on its own take the texts all the way themselves.
It knows batches, slots and exit rules; nothing of tensors' insides or devices.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.backends.slots import Slots
from earlybell.inference.batching.backend import (
    Answers,
    Batch,
    Encoder,
    Order,
    Part,
    Strategy,
    Window,
    batches,
    padded,
    predict,
)
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow
from earlybell.inference.model.elbert import Config

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
    """Full batches for each width; texts that exit make room for the next in the queue (ours).

    Parameters
    ----------
    every
        Steps between refills. 1 is the reference; more amortises what an exchange costs (on a GPU: waiting for the
        decisions), and changes no answer: a text is answered at the exit that it leaves by, and until the next
        exchange its place idles.
    """
    answers = Answers.empty(len(window.rows), encoder.config.classes)
    for queue in batches(window, order, WHOLE, encoder.pads):
        slots = encoder.slots(queue.width)
        if slots is None:
            carry(encoder, window, queue, answers, refills=True, every=every)
        else:
            carry_in_slots(encoder, slots, window, queue, answers, every=every)
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

    All of them start at once, or, if it ``refills``, a batch full, and the others as places come free.
    """
    at_once = encoder.answer([window.rows[text] for text in part.texts])
    if at_once is not None:
        answers.take(part.texts, at_once)
        return
    last, first_exit = encoder.config.layers, encoder.config.depths[0]
    places = _places(encoder, window, part) if refills else len(part.texts)
    here, waiting = part.texts[:places], part.texts[places:]
    batch = encoder.start([window.rows[text] for text in here], part.width)
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
            room = int(gone.sum())
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


def carry_in_slots(
    encoder: Encoder, slots: Slots, window: Window, part: Part, answers: Answers, *, every: int = 1
) -> None:
    """Take the texts of a part, all of one width, to their exits through fixed slots."""
    lengths, ids = slots.prepare([window.rows[text] for text in part.texts])
    holds = np.full(slots.count, -1)  # which of the part's texts has the slot
    depth = np.zeros(slots.count, np.int64)  # that it has reached, unless it has left since the last look
    entered, step = 0, 0
    while True:
        group, load = _load(holds >= 0, depth, slots.rows, encoder.config)
        if len(load) < slots.rows and entered < len(part.texts):
            new = np.arange(entered, min(entered + slots.rows, len(part.texts)))
            load = np.flatnonzero(holds < 0)[: len(new)]
            slots.enter(load, lengths[new], ids[new])
            holds[load], depth[load], entered = new, 0, entered + len(new)
        elif len(load):
            slots.deepen(group, load, depth[load], lengths[holds[load]])
            depth[load] += 1
        else:
            return
        step += 1
        # Where nothing but the last depth can answer, it is known without a look who leaves.
        if (depth[load] == encoder.config.layers).any() or (step % every == 0 and not encoder.rule.never):
            outcome = slots.outcome()
            left = np.flatnonzero((holds >= 0) & (outcome[:, 0] > 0))
            out, at = holds[left], outcome[left, 1].astype(np.int64)
            alive = slots.alive[lengths[out], at].astype(np.int32)
            answers.put(part.texts[out], torch.from_numpy(outcome[left, 2:]), at, alive)
            holds[left] = -1


def _load(
    held: NDArray[np.bool_], depth: NDArray[np.int64], rows: int, config: Config
) -> tuple[int, NDArray[np.int64]]:
    """A group of weights, and up to ``rows`` slots that wait for it.

    The deepest group that has a full load, so that slots come free; if there is none the shallowest, whose texts then
    make the next one's load fuller.
    """
    waiting = np.flatnonzero(held)
    groups = config.group_at(depth[waiting] + 1)
    counts = np.bincount(groups, minlength=config.groups)
    full = np.flatnonzero(counts >= rows)
    group = int(full[-1]) if len(full) else int((counts > 0).argmax())
    return group, waiting[groups == group][:rows]


def _decide(
    state: ConfidenceWindow, rows: NDArray[np.int64], probabilities: Tensor, depth: NDArray[np.int64]
) -> Tensor:
    at = torch.from_numpy(depth[rows])
    if len(rows) == len(state.run):
        return state.decide(probabilities, at)
    return state.decide_for(torch.from_numpy(rows), probabilities, at)


def _exchange(state: ConfidenceWindow, stays: NDArray[np.bool_], new: int) -> None:
    kept = np.flatnonzero(stays)
    state.select(torch.from_numpy(np.concatenate([kept, np.zeros(new, np.int64)])))
    state.reset(torch.arange(len(kept), len(kept) + new))


def _of_one_group(encoder: Encoder, batch: Batch, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The live rows whose next layer belongs to the group that most of them wait for."""
    rows = np.flatnonzero(alive)
    if encoder.config.groups == 1:
        return rows
    groups = encoder.config.group_at(batch.depth[rows] + 1)
    of_most: NDArray[np.int64] = rows[groups == np.bincount(groups).argmax()]
    return of_most


def _places(encoder: Encoder, window: Window, part: Part) -> int:
    width = part.width or float(np.mean([len(window.rows[text]) for text in part.texts]))
    return max(1, int(encoder.batch_tokens // width))
