"""Continuous batching: a queue of texts of one width through a fixed number of slots.

One shared layer means that texts at different depths can share a step; with several groups of weights a step serves
slots that wait for the same group. All tensors are allocated once and stay in place, every step has one shape, and what
it depends on is copied in beforehand: so a step is a CUDA graph on a GPU (`cuda_graphs.Recorder`), and runs eagerly on
a CPU. A text's arithmetic is the same whatever the other rows hold, for any number of groups: the exact mode.

There are ``groups + 1`` times as many slots as a step has rows (a load). So either the slots that wait for some group
make a full load, or there is space to admit a full load of new texts: until the queue runs dry, no row idles.

On a GPU a step costs one copy to the device (the slots it serves, and for new texts their ids), one launch, and, every
few steps, one copy back of the outcomes. Exits, tempering and the confidence window run on the device.

On a machine with a GPU, first run ``pytest tests/inference/backends/test_cuda_graphs.py
tests/inference/model/test_contribution.py``. Then, after ``engine = open_engine("cuda", batch_tokens=N);
engine.warm_up()``, time ``engine.score`` on windows of 512 and of 10,000 texts, and ``engine.read`` separately. The
parameters are N (tokens of a load, `engine.GPU_BATCH_TOKENS`; 4,096 to 65,536) and `PaddedBackend.refill_every` (1 to
4). Too small a load shows in ``nsys profile`` as gaps between graphs, too large a one as windows of 512 that take as
long as those of 5,000.

It knows the model, the exit rule and tensors; nothing of windows or strategies.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.backends.cuda_graphs import Recorder, Step, fetched, staged
from earlybell.inference.batching.backend import Answers
from earlybell.inference.batching.planning import texts_within
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import tempered_probabilities
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.token_ids import TokenIds

#: Widths whose slots, and graphs, are kept: every bucket up to 512 tokens (25) with some to spare. All share one buffer
#: for their states and the graphs share a memory pool, so a further width costs only graph nodes: a few megabytes.
MAX_WIDTHS = 32


class Slots:
    """Slots of one width, each with a text at any depth. A step admits or deepens up to ``rows`` of them.

    Parameters
    ----------
    states
        (at least (groups + 1) * rows * width + width, h): the buffer for the hidden states.
    recorder
        What launches the steps; None: they run eagerly.
    """

    def __init__(
        self,
        model: ElbertForSequenceClassification,
        rule: ExitRule,
        tempering: Tensor,
        pruning: Pruning,
        rows: int,
        width: int,
        states: Tensor,
        recorder: Recorder | None,
    ) -> None:
        config, device = model.config, states.device
        self._model, self._rule, self._tempering, self._prunes = model, rule, tempering, not pruning.never
        self._width, self._device = width, device
        self.rows = rows
        self.count = (config.groups + 1) * rows
        #: (width + 1, L + 1): how many tokens a text of each length has at each depth.
        self.tokens = pruning.by_depth(np.arange(width + 1), config.layers)
        #: (L + 1,): the most that any text of this width has.
        self._widest = pruning.widths(width, config.layers)
        # One slot more than there are: idle rows read from it and write to it.
        places = self.count + 1
        # No inference tensors: torch refuses to write to those outside inference mode, and a capture that began in it
        # leaves such tensors in torch's own generator.
        with torch.inference_mode(False), torch.no_grad():
            self._x = states[: places * width].view(places, width, config.hidden)
            self._idle = np.array([[self.count], [1], [1], [1]]).repeat(rows, 1)
            self._plan = torch.tensor(self._idle, device=device)  # (4, rows): slot, depth, tokens before and after
            self._ids = torch.full((rows, width), config.pad_id, dtype=torch.int32, device=device)
            self._column = torch.arange(width, device=device)
            self._window = ConfidenceWindow(rule, places, device)
            # Of each slot: 1 if its text has exited, the depth of that exit, and its probabilities.
            self._outcome = torch.ones(places, 2 + config.classes, device=device)
            steps: list[Step] = [self._admit, *(partial(self._deepen, group) for group in range(config.groups))]
            self._steps = [step if recorder is None else recorder.recorded(step) for step in steps]

    def run(self, texts: TokenIds, refill_every: int = 1) -> Answers:
        """Take every text of a queue to its exit.

        Parameters
        ----------
        refill_every
            Steps between looks at the outcomes. More of them spread the cost of waiting for the device, and change no
            answer: a text keeps the answer of its exit, and its slot idles until the next look.
        """
        config = self._model.config
        answers = Answers.empty(len(texts), config.classes)
        lengths, ids = pad(texts, self._width, config.pad_id)
        holds = np.full(self.count, -1)  # the text in each slot
        depth = np.zeros(self.count, np.int64)  # that it has reached, unless it has exited since the last look
        admitted, step = 0, 0
        while True:
            group, load = _load(holds >= 0, depth, self.rows, config)
            if len(load) < self.rows and admitted < len(texts):
                new = np.arange(admitted, min(admitted + self.rows, len(texts)))
                load = np.flatnonzero(holds < 0)[: len(new)]
                self.admit(load, lengths[new], ids[new])
                holds[load], depth[load], admitted = new, 0, admitted + len(new)
            elif len(load):
                self.deepen(group, load, depth[load], lengths[holds[load]])
                depth[load] += 1
            else:
                return answers
            step += 1
            # If only the last depth can answer, it is known without a look which texts exit.
            if (depth[load] == config.layers).any() or (step % refill_every == 0 and not self._rule.never):
                outcome = self.outcome()
                exited = np.flatnonzero((holds >= 0) & (outcome[:, 0] > 0))
                rows, depths = holds[exited], outcome[exited, 1].astype(np.int16)
                kept = self.tokens[lengths[rows], depths].astype(np.int32)
                answers.put(rows, Answers(outcome[exited, 2:], depths, kept))
                holds[exited] = -1

    def admit(self, slots: NDArray[np.int64], lengths: NDArray[np.int64], ids: NDArray[np.int32]) -> None:
        """Put at most ``rows`` new texts into these slots; they may exit at depth 0."""
        padded = np.full((self.rows, self._width), self._model.config.pad_id, np.int32)
        padded[: len(slots)] = ids
        self._ids.copy_(staged(padded, self._device), non_blocking=True)
        self._launch(0, np.stack([slots, np.zeros_like(slots), lengths, lengths]))

    def deepen(self, group: int, slots: NDArray[np.int64], depth: NDArray[np.int64], length: NDArray[np.int64]) -> None:
        """Carry at most ``rows`` slots one further, by this group of weights, from the ``depth`` that each has reached.

        Texts that have exited in the meantime may be among them; that changes nothing.
        """
        self._launch(
            1 + group, np.stack([slots, depth + 1, self.tokens[length, depth], self.tokens[length, depth + 1]])
        )

    def outcome(self) -> NDArray[np.float32]:
        """Return (slots, 2 + C): 1 if the slot's text has exited (else 0), the depth, the probabilities.

        Waits for the device.
        """
        outcome: NDArray[np.float32] = fetched(self._outcome)[: self.count]
        return outcome

    def _launch(self, step: int, plan: NDArray[np.int64]) -> None:
        filled = self._idle.copy()
        filled[:, : plan.shape[1]] = plan
        self._plan.copy_(staged(filled, self._device), non_blocking=True)
        self._steps[step]()

    def _admit(self) -> None:
        model = self._model
        slots, _, length, _ = self._plan
        x = model.embed(self._ids)
        self._x.index_copy_(0, slots, x)
        self._outcome.index_fill_(0, slots, 0.0)
        self._window.reset(slots)
        if model.config.depth_zero:
            self._decide(model.exit_logits(x, self._live(length), 0))

    def _deepen(self, group: int) -> None:
        model = self._model
        slots, depth, before, after = self._plan
        depths = [level for level in range(1, model.config.layers + 1) if model.config.group_at(level) == group]
        # No text of the group has more tokens than the most before and after the group's first depth.
        wide, narrow = self._widest[depths[0] - 1], self._widest[depths[0]]
        keep = after if self._prunes else None
        x, live = model.deepen(self._x[slots, :wide], self._live(before)[:, :wide], depths[0], keep, int(narrow))
        self._x[:, :narrow].index_copy_(0, slots, x)
        # Evaluate every exit that the group's texts may be at and pick each text's own: exits cost next to nothing.
        heads = [model.exit_head(level) for level in (depths[:1] if model.config.shared_head else depths)]
        pooled = heads[0].pool(x, live)
        logits = torch.stack([head.classify(pooled) for head in heads], 1)  # (rows, heads, C)
        own = (depth - depths[0]).clamp(0, len(heads) - 1)[:, None, None].expand(-1, 1, logits.shape[2])
        self._decide(logits.gather(1, own)[:, 0])

    def _decide(self, logits: Tensor) -> None:
        """Record the outcome of the rows that exit, from the logits of each row's own exit: (rows, C)."""
        config = self._model.config
        slots, depth, _, _ = self._plan
        probabilities = tempered_probabilities(logits.float(), self._tempering[depth - config.depths.start])
        exits = self._window.decide_for(slots, probabilities, depth) | (depth == config.layers)
        before = self._outcome[slots]
        outcome = torch.cat([torch.ones_like(before[:, :1]), depth[:, None].float(), probabilities], 1)
        first_time = (exits & (before[:, 0] == 0))[:, None]  # a text's first exit counts
        self._outcome.index_copy_(0, slots, torch.where(first_time, outcome, before))

    def _live(self, tokens: Tensor) -> Tensor:
        return self._column < tokens[:, None]


class SlotsByWidth:
    """The slots of a model, made when a width is first asked for."""

    def __init__(
        self,
        model: ElbertForSequenceClassification,
        rule: ExitRule,
        tempering: Tensor,
        pruning: Pruning,
        device: torch.device,
        batch_tokens: int,
    ) -> None:
        self._model, self._rule, self._tempering, self._pruning = model, rule, tempering, pruning
        self._batch_tokens = batch_tokens
        self._slots: dict[int, Slots] = {}
        self._recorder = Recorder(device)
        # One width is in use at a time, so all share a buffer that is large enough for each.
        config = model.config
        tokens = (config.groups + 1) * max(batch_tokens, config.positions) + config.positions
        with torch.inference_mode(False):
            dtype = model.embedding.token.weight.dtype
            self._states = torch.zeros(tokens, config.hidden, dtype=dtype, device=device)

    def of_width(self, width: int) -> Slots:
        """Return slots of this width; what those of the previous width held is lost."""
        if width in self._slots:
            return self._slots[width]
        kept = len(self._slots) < MAX_WIDTHS
        slots = Slots(
            self._model,
            self._rule,
            self._tempering,
            self._pruning,
            texts_within(self._batch_tokens, width),
            width,
            self._states,
            self._recorder if kept else None,
        )
        if kept:
            self._slots[width] = slots
        return slots


def _load(
    held: NDArray[np.bool_], depth: NDArray[np.int64], rows: int, config: Config
) -> tuple[int, NDArray[np.int64]]:
    """Choose a group of weights, and up to ``rows`` slots that wait for it.

    The deepest group that has a full load, so that slots become free; if there is none the shallowest, whose texts then
    make the next group's load fuller.
    """
    waiting = np.flatnonzero(held)
    groups = config.group_at(depth[waiting] + 1)
    counts = np.bincount(groups, minlength=config.groups)
    full = np.flatnonzero(counts >= rows)
    group = int(full[-1]) if len(full) else int((counts > 0).argmax())
    return group, waiting[groups == group][:rows]


def pad(texts: TokenIds, width: int, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the texts' lengths, and their ids padded to the width: (texts,), (texts, width)."""
    lengths = texts.lengths.astype(np.int64)
    padded = np.full((len(texts), width), pad_id, np.int32)
    padded[np.arange(width) < lengths[:, None]] = texts.ids
    return lengths, padded
