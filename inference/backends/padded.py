"""Batches of padded texts on torch: float32 and bfloat16, on any device.

Here a batch shrinks as texts leave; `fixed_slots` has the batches whose number of rows never changes.
It knows the model and tensors; nothing of exit rules' meaning, strategies or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from earlybell.inference.backends.cuda_graphs import staged
from earlybell.inference.backends.slots import Slots, SlotsByWidth, padded_ids
from earlybell.inference.batching.backend import Ids
from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.early_exit.token_pruning import alive_tokens
from earlybell.inference.model.elbert import Config, ElbertForSequenceClassification


@dataclass(frozen=True)
class PaddedEncoder:
    """A model on a device; its embedding and layers are in the precision that they were put in."""

    model: ElbertForSequenceClassification
    rule: ExitRule
    temperatures: Tensor  # (exits,) float32 on the device
    alpha: float  # ACC's share that a layer keeps; 1: no pruning
    device: torch.device
    batch_tokens: int
    fixed: bool = False  # whether `refilling.refill` keeps every shape, idle rows computed: exact, and one CUDA graph
    pads: bool = True

    @property
    def config(self) -> Config:
        """The model's shape."""
        return self.model.config

    def start(self, rows: Sequence[Ids], width: int, prunes: bool = True) -> PaddedBatch:
        """A batch at depth 0; see `batching.Encoder`."""
        return PaddedBatch(self, rows, width, prunes)

    def answer(self, rows: Sequence[Ids]) -> None:
        """None: between two layers the rows that stay are gathered here."""

    def slots(self, width: int) -> Slots | None:
        """Slots of this width, nobody in them; None where shapes are not fixed."""
        return self._slots.of(width) if self.fixed else None

    @cached_property
    def _slots(self) -> SlotsByWidth:
        return SlotsByWidth(self)


class PaddedBatch:
    """Rows of a common width; see `batching.Batch`."""

    def __init__(self, encoder: PaddedEncoder, rows: Sequence[Ids], width: int, prunes: bool) -> None:
        self._encoder, self._width = encoder, width
        self._alpha = encoder.alpha if prunes else 1.0
        self.depth: NDArray[np.int64] = np.zeros(len(rows), np.int64)
        self._x, self._live, self._alive = self._embedded(rows)  # the last on the host, (rows, L + 1): by depth

    def __len__(self) -> int:
        return len(self.depth)

    def deepen(self, rows: NDArray[np.int64]) -> None:
        """Carry these rows one depth further."""
        model = self._encoder.model
        depth = self.depth[rows]
        group = model.config.group_at(int(depth[0]) + 1)
        whole = len(rows) == len(self)
        index = slice(None) if whole else staged(rows, self._encoder.device)
        keep, width = None, None
        if self._alpha < 1.0:
            keep = staged(self._alive[rows, depth + 1], self._encoder.device)
            width = self._x.shape[1]
            if whole and (depth == depth[0]).all():
                # As many as the longest text that is padded to this width would keep: a shape of the text's own.
                width = int(self._alive_of(np.array([self._width]))[0, depth[0] + 1])
        x, live = model.deepen(self._x[index], self._live[index], _any_depth(model, group), keep, width)
        if whole:
            self._x, self._live = x, live
        else:
            self._x[index], self._live[index] = x, live
        self.depth[rows] += 1

    def probabilities(self, rows: NDArray[np.int64]) -> Tensor:
        """(len(rows), C); see `batching.Batch`."""
        encoder = self._encoder
        found = torch.empty(len(rows), encoder.config.classes)
        for depth in np.unique(self.depth[rows]):
            of_depth = np.flatnonzero(self.depth[rows] == depth)
            place = int(depth) - encoder.config.depths.start
            index = slice(None) if len(of_depth) == len(self) else staged(rows[of_depth], encoder.device)
            logits = encoder.model.exit_logits(self._x[index], self._live[index], int(depth))
            found[of_depth] = (logits.float() / encoder.temperatures[place]).softmax(-1).cpu()
        return found

    def tokens(self) -> NDArray[np.int32]:
        """(rows,) tokens that are alive."""
        alive: NDArray[np.int32] = self._alive[np.arange(len(self)), self.depth].astype(np.int32)
        return alive

    def exchange(self, stays: NDArray[np.bool_], new: Sequence[Ids]) -> None:
        """Drop rows and take in new texts; see `batching.Batch`."""
        index = staged(np.flatnonzero(stays), self._encoder.device)
        self._x, self._live, self._alive = self._x[index], self._live[index], self._alive[stays]
        self.depth = np.concatenate([self.depth[stays], np.zeros(len(new), np.int64)])
        if len(new):
            x, live, alive = self._embedded(new)
            narrower = self._width - self._x.shape[1]
            self._x = torch.cat([F.pad(self._x, (0, 0, 0, narrower)), x])
            self._live = torch.cat([F.pad(self._live, (0, narrower)), live])
            self._alive = np.concatenate([self._alive, alive])

    def _embedded(self, rows: Sequence[Ids]) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """The states at depth 0, (rows, width, h), which tokens are alive, (rows, width), and `_alive_of` them."""
        device = self._encoder.device
        lengths, ids = padded_ids(rows, self._width, self._encoder.config.pad_id)
        live = torch.arange(self._width, device=device) < staged(lengths, device)[:, None]
        return self._encoder.model.embed(staged(ids, device)), live, self._alive_of(lengths)

    def _alive_of(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return alive_tokens(lengths, self._alpha, self._encoder.config.layers)


def _any_depth(model: ElbertForSequenceClassification, group: int) -> int:
    """A depth that the group's weights carry to."""
    return next(depth for depth in range(1, model.config.layers + 1) if model.config.group_at(depth) == group)
