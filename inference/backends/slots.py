"""Slots of a fixed width that texts take in turn, computed so many at a time: what ``refill`` runs on.

All tensors are made once and stay where they are, every step has one shape, and what it depends on is copied in
before: so a step is a CUDA graph on a GPU (`cuda.Recorder`), and on a CPU the same step runs as it stands. A text's
arithmetic is the same whoever sits in the other rows, for any number of groups of weights: the exact mode.

There are ``groups + 1`` times as many slots as rows are computed at once (a load). So either the texts that wait for
some group of weights make a full load, or there is room to let in a full load of new ones: until the queue runs dry
no row idles, though texts at different depths may not share a step when their weights differ.

On a GPU a step costs one copy to the device (who is served; for new texts also their ids), one launch, and, every so
many steps, one copy back of what was decided. Exits, temperatures and the confidence window run on the device.

On a machine with a GPU, first ``pytest tests/inference/test_cuda.py tests/inference/test_fused_contribution.py``. Then,
after ``engine = open_engine("cuda", batch_tokens=N); engine.warm_up()``, time ``engine.score`` on windows of 512 and of
10,000 texts, reading (``engine.read``) apart. The knobs are N (tokens in a load, `engine.GPU_BATCH_TOKENS`; 4,096 to
65,536) and ``every`` (`refilling.refill`; 1 to 4). Too small a load shows in ``nsys profile`` as gaps between graphs,
too large a one as windows of 512 that take as long as those of 5,000.

It knows the model, the exit rule and tensors; nothing of queues, windows or strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.backends.cuda_graphs import Recorder, Step, fetched, staged
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow
from earlybell.inference.early_exit.token_pruning import alive_tokens

if TYPE_CHECKING:
    from earlybell.inference.backends.padded import PaddedEncoder
    from earlybell.inference.batching.backend import Ids

#: Widths whose slots, and graphs, are kept: every bucket up to 512 tokens (25) with some to spare. The states of all
#: lie in one room and the graphs share a pool, so what a further width costs is its graphs' nodes, a few megabytes.
MOST_WIDTHS = 32


class Slots:
    """Texts of one width at any depth. In a step, up to ``rows`` of them enter or go one depth further.

    Parameters
    ----------
    room
        (at least (groups + 1) * rows * width + width, h): where the states lie.
    recorder
        What launches the steps; None: they are run as they stand.
    """

    def __init__(self, encoder: PaddedEncoder, width: int, room: Tensor, recorder: Recorder | None) -> None:
        config, device = encoder.config, encoder.device
        self._encoder, self._width = encoder, width
        self.rows = rows_at_once(encoder.batch_tokens, width)
        self.count = (config.groups + 1) * self.rows
        #: (width + 1, L + 1): of a text of so many tokens, how many are alive at each depth.
        self.alive = alive_tokens(np.arange(width + 1), encoder.alpha, config.layers)
        # One slot more than there are: where rows that idle are read from and written to.
        places = self.count + 1
        # No inference tensors: torch refuses to write to those where a caller is not in inference mode, and a capture
        # begun in it leaves such tensors in torch's own generator.
        with torch.inference_mode(False), torch.no_grad():
            self._x = room[: places * width].view(places, width, config.hidden)
            self._idle = np.array([[self.count], [1], [1], [1]]).repeat(self.rows, 1)
            self._plan = torch.tensor(self._idle, device=device)  # (4, rows): slot, depth, tokens before and after
            self._ids = torch.full((self.rows, width), config.pad_id, dtype=torch.int32, device=device)
            self._column = torch.arange(width, device=device)
            self._window = ConfidenceWindow(encoder.rule, places, device)
            # Of each slot: 1 if its text has left, the depth and the probabilities it left with.
            self._outcome = torch.ones(places, 2 + config.classes, device=device)
            steps: list[Step] = [self._enter, *(partial(self._deepen, group) for group in range(config.groups))]
            self._steps = [step if recorder is None else recorder.recorded(step) for step in steps]

    def prepare(self, texts: Sequence[Ids]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Texts -> their lengths, and their ids padded to the width: (texts,), (texts, width)."""
        return padded_ids(texts, self._width, self._encoder.config.pad_id)

    def enter(self, slots: NDArray[np.int64], lengths: NDArray[np.int64], ids: NDArray[np.int32]) -> None:
        """At most ``rows`` new texts take these slots, and may leave again at depth 0."""
        padded = np.full((self.rows, self._width), self._encoder.config.pad_id, np.int32)
        padded[: len(slots)] = ids
        self._ids.copy_(staged(padded, self._encoder.device), non_blocking=True)
        self._run(0, np.stack([slots, np.zeros_like(slots), lengths, lengths]))

    def deepen(self, group: int, slots: NDArray[np.int64], depth: NDArray[np.int64], length: NDArray[np.int64]) -> None:
        """Carry at most ``rows`` slots one further, by this group of weights, from the ``depth`` that each has reached.

        Texts that have left in the meantime may be among them; that changes nothing.
        """
        self._run(1 + group, np.stack([slots, depth + 1, self.alive[length, depth], self.alive[length, depth + 1]]))

    def outcome(self) -> NDArray[np.float32]:
        """(slots, 2 + C): 1 if the slot's text has left (else 0), the depth it left at, what that exit said.

        Waits for the device.
        """
        found: NDArray[np.float32] = fetched(self._outcome)[: self.count]
        return found

    def _run(self, step: int, plan: NDArray[np.int64]) -> None:
        whole = self._idle.copy()
        whole[:, : plan.shape[1]] = plan
        self._plan.copy_(staged(whole, self._encoder.device), non_blocking=True)
        self._steps[step]()

    def _enter(self) -> None:
        model = self._encoder.model
        slots, _, length, _ = self._plan
        x = model.embed(self._ids)
        self._x.index_copy_(0, slots, x)
        self._outcome.index_fill_(0, slots, 0.0)
        self._window.run.index_fill_(0, slots, 0)
        self._window.label.index_fill_(0, slots, -1)
        if model.config.depth_zero:
            self._decide(model.exit_logits(x, self._live(length), 0))

    def _deepen(self, group: int) -> None:
        model = self._encoder.model
        slots, depth, before, after = self._plan
        depths = [one for one in range(1, model.config.layers + 1) if model.config.group_at(one) == group]
        # Pruned texts of the group have no more tokens than the longest has on its way in and out of the first depth.
        wide, narrow = self.alive[self._width, depths[0] - 1], self.alive[self._width, depths[0]]
        keep = after if self._encoder.alpha < 1.0 else None
        x, live = model.deepen(self._x[slots, :wide], self._live(before)[:, :wide], depths[0], keep, int(narrow))
        self._x[:, :narrow].index_copy_(0, slots, x)
        # All exits that the group's texts may stand at, and of these each text's own: they cost next to nothing.
        heads = [model.exit_head(one) for one in (depths[:1] if model.config.shared_head else depths)]
        pooled = heads[0].pool(x, live)
        logits = torch.stack([head.classify(pooled) for head in heads], 1)  # (rows, heads, C)
        own = (depth - depths[0]).clamp(0, len(heads) - 1)[:, None, None].expand(-1, 1, logits.shape[2])
        self._decide(logits.gather(1, own)[:, 0])

    def _decide(self, logits: Tensor) -> None:
        """Who leaves, from what each row's own exit says: (rows, C)."""
        encoder = self._encoder
        slots, depth, _, _ = self._plan
        temperatures = encoder.temperatures[depth - encoder.config.depths.start]
        probabilities = (logits.float() / temperatures[:, None]).softmax(-1)
        leaves = self._window.decide_for(slots, probabilities, depth) | (depth == encoder.config.layers)
        before = self._outcome[slots]
        said = torch.cat([torch.ones_like(before[:, :1]), depth[:, None].float(), probabilities], 1)
        # Who has left already said what counts.
        counts = (leaves & (before[:, 0] == 0))[:, None]
        self._outcome.index_copy_(0, slots, torch.where(counts, said, before))

    def _live(self, tokens: Tensor) -> Tensor:
        return self._column < tokens[:, None]


class SlotsByWidth:
    """The slots of an encoder, made when a width is first asked for."""

    def __init__(self, encoder: PaddedEncoder) -> None:
        self._encoder = encoder
        self._of: dict[int, Slots] = {}
        self._recorder = Recorder(encoder.device)
        # One width is in use at a time, so all share a room that is large enough for each.
        config = encoder.config
        tokens = (config.groups + 1) * max(encoder.batch_tokens, config.positions) + config.positions
        with torch.inference_mode(False):
            dtype = encoder.model.embedding.token.weight.dtype
            self._room = torch.zeros(tokens, config.hidden, dtype=dtype, device=encoder.device)

    def of(self, width: int) -> Slots:
        """Slots that nobody is in; those of a width before are no longer valid."""
        if width not in self._of:
            if len(self._of) >= MOST_WIDTHS:
                return Slots(self._encoder, width, self._room, None)
            self._of[width] = Slots(self._encoder, width, self._room, self._recorder)
        return self._of[width]


def rows_at_once(batch_tokens: int, width: int) -> int:
    """How many texts of this width a step computes."""
    return max(1, batch_tokens // width)


def padded_ids(texts: Sequence[Ids], width: int, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Texts -> their lengths, and their ids padded to the width: (texts,), (texts, width)."""
    lengths = np.array([len(text) for text in texts], np.int64)
    ids = np.full((len(texts), width), pad_id, np.int32)
    if len(texts):
        ids[np.arange(width) < lengths[:, None]] = np.concatenate(texts)
    return lengths, ids
