"""Batches of padded texts on torch: float32 and bfloat16, on any device.

A batch either shrinks as texts leave, or (``slots``) keeps its number of rows and fills idle ones with nothing, so
that every product has one shape whoever stands in it.
It knows the model and tensors; nothing of exit rules' meaning, strategies or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.batching import Ids
from inference.confidence_window import ExitRule
from inference.elbert import Config, ElbertForSequenceClassification
from inference.token_pruning import kept_tokens


@dataclass(frozen=True, slots=True)
class PaddedEncoder:
    """A model on a device; its embedding and layers are in the precision that they were put in."""

    model: ElbertForSequenceClassification
    rule: ExitRule
    temperatures: Tensor  # (exits,) float32 on the device
    alpha: float  # ACC's share that a layer keeps; 1: no pruning
    device: torch.device
    batch_tokens: int
    pads: bool = True

    @property
    def config(self) -> Config:
        """The model's shape."""
        return self.model.config

    def start(self, rows: Sequence[Ids], width: int, slots: int = 0, prunes: bool = True) -> PaddedBatch:
        """A batch at depth 0; see `batching.Encoder`."""
        return PaddedBatch(self, rows, width, slots, prunes)


class PaddedBatch:
    """Rows of a common width; see `batching.Batch`.

    ``at`` says in which row of the tensors each text stands. A batch without slots has them in order.
    """

    def __init__(self, encoder: PaddedEncoder, rows: Sequence[Ids], width: int, slots: int, prunes: bool) -> None:
        self._encoder, self._fixed, self._width = encoder, slots > 0, width
        room = max(slots, len(rows))
        ids, live = self._padded(rows, room)
        self._x = encoder.model.embed(ids)  # (room, width, h)
        self._live = live  # (room, width)
        self._at = np.arange(len(rows))
        self.depth: NDArray[np.int64] = np.zeros(len(rows), np.int64)
        self._keep = self._kept(live) if prunes else None  # (room, L), where tokens are pruned

    def __len__(self) -> int:
        return len(self._at)

    def deepen(self, rows: NDArray[np.int64]) -> None:
        """Carry these rows one depth further; idle slots are computed with them, for the sake of one shape."""
        model = self._encoder.model
        group = model.group_at(int(self.depth[rows[0]]) + 1)
        every = len(rows) == len(self) and not self._fixed
        # With slots and one group all rows are computed; what idles or has left is not looked at again.
        whole = every or (self._fixed and model.config.groups == 1)
        index = slice(None) if whole else torch.from_numpy(self._at[rows]).to(self._x.device)
        keep, width = self._keep_at(rows, index)
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
            if self._fixed:
                logits = encoder.model.exit_logits(self._x, self._live, int(depth))[self._at[rows[of_depth]]]
            elif len(of_depth) == len(self):
                logits = encoder.model.exit_logits(self._x, self._live, int(depth))
            else:
                index = torch.from_numpy(self._at[rows[of_depth]]).to(self._x.device)
                logits = encoder.model.exit_logits(self._x[index], self._live[index], int(depth))
            found[of_depth] = (logits.float() / encoder.temperatures[place]).softmax(-1).cpu()
        return found

    def tokens(self) -> NDArray[np.int32]:
        """(rows,) tokens that are alive."""
        alive: NDArray[np.int32] = self._live.sum(1, dtype=torch.int32).cpu().numpy()
        return alive[self._at]

    def exchange(self, stays: NDArray[np.bool_], new: Sequence[Ids]) -> None:
        """Drop rows and take in new texts; see `batching.Batch`."""
        self.depth = np.concatenate([self.depth[stays], np.zeros(len(new), np.int64)])
        if not self._fixed:
            index = torch.from_numpy(np.flatnonzero(stays)).to(self._x.device)
            self._x, self._live = self._x[index], self._live[index]
            self._keep = None if self._keep is None else self._keep[index]
            self._at = np.arange(len(index))
            return
        staying = self._at[stays]
        free = np.setdiff1d(np.arange(len(self._x)), staying)[: len(new)]
        self._at = np.concatenate([staying, free])
        if len(new):
            # Embedded in the full number of rows as well, and then put into their slots.
            ids, live = self._padded(new, len(self._x))
            index = torch.from_numpy(free).to(self._x.device)
            self._x[index] = self._encoder.model.embed(ids)[: len(new)]
            self._live[index] = live[: len(new)]
            if self._keep is not None:
                self._keep[index] = kept_tokens(
                    live[: len(new)].sum(1), self._encoder.alpha, self._encoder.config.layers
                )

    def _padded(self, rows: Sequence[Ids], room: int) -> tuple[Tensor, Tensor]:
        """Rows of ids -> ``ids, live``, both (room, width); an idle row has one live token, so that nothing is NaN."""
        lengths = np.ones(room, np.int64)
        lengths[: len(rows)] = [len(row) for row in rows]
        live = np.arange(self._width) < lengths[:, None]
        ids = np.full((room, self._width), self._encoder.config.pad_id, np.int64)
        if len(rows):
            ids[: len(rows)][live[: len(rows)]] = np.concatenate(rows)
        device = self._encoder.device
        return torch.from_numpy(ids).to(device), torch.from_numpy(live).to(device)

    def _kept(self, live: Tensor) -> Tensor | None:
        if self._encoder.alpha >= 1.0:
            return None
        return kept_tokens(live.sum(1), self._encoder.alpha, self._encoder.config.layers)

    def _keep_at(self, rows: NDArray[np.int64], index: Tensor | slice) -> tuple[Tensor | None, int | None]:
        """How many tokens each row keeps in its next layer, and the width of the result, a text's own again."""
        if self._keep is None:
            return None, None
        layers = self._encoder.config.layers
        if not self._fixed and len(rows) == len(self) and len(set(self.depth[rows].tolist())) == 1:
            depth = int(self.depth[rows[0]])
            width = int(kept_tokens(torch.tensor([self._width]), self._encoder.alpha, layers)[0, depth])
            return self._keep[:, depth], width
        next_depth = np.zeros(len(self._x), np.int64)
        next_depth[self._at] = np.minimum(self.depth, layers - 1)
        at = torch.from_numpy(next_depth).to(self._x.device)
        return self._keep.gather(1, at[:, None])[:, 0][index], self._width


def _any_depth(model: ElbertForSequenceClassification, group: int) -> int:
    """A depth that the group's weights carry to."""
    return next(depth for depth in range(1, model.config.layers + 1) if model.group_at(depth) == group)
