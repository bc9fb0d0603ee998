"""Batches of texts without padding, for the compiled int8 kernels.

The kernels compute every text on its own, so neither order nor batch size nor threads change a bit of an answer.
It knows the kernels' encoder; nothing of exit rules' meaning, strategies or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.backends.int8 import PackedExits
from earlybell.inference.backends.int8_weights import QuantisedEncoder
from earlybell.inference.batching.backend import Answers, Ids
from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.early_exit.token_pruning import kept_tokens
from earlybell.inference.model.elbert import Config


@dataclass(frozen=True)
class PackedEncoder:
    """The int8 kernels, the rule that texts leave by, and what a batch needs besides."""

    kernels: QuantisedEncoder
    rule: ExitRule
    temperatures: NDArray[np.float32]  # (exits,) in the order of ``config.depths``
    alpha: float  # ACC's share that a layer keeps; 1: no pruning
    batch_tokens: int
    pads: bool = False

    @property
    def config(self) -> Config:
        """The model's shape."""
        return self.kernels.config

    def start(self, rows: Sequence[Ids], width: int, prunes: bool = True) -> PackedBatch:
        """A batch at depth 0; ``width`` means nothing where nothing is padded."""
        return PackedBatch(self, rows, prunes)

    def answer(self, rows: Sequence[Ids]) -> Answers:
        """Take texts to the exits that they leave by, in one go."""
        return self._exits.answer(rows)

    @cached_property
    def _exits(self) -> PackedExits:
        return PackedExits(self.kernels, self.rule, self.temperatures, self.alpha, self.batch_tokens)

    def slots(self, width: int) -> None:
        """None: a text's answer does not hang on the shape that it is computed in."""


class PackedBatch:
    """Texts one behind the other; see `batching.Batch`."""

    def __init__(self, encoder: PackedEncoder, rows: Sequence[Ids], prunes: bool) -> None:
        self._encoder = encoder
        self._packed = encoder.kernels.embed(rows)
        self.depth: NDArray[np.int64] = np.zeros(len(rows), np.int64)
        self._alpha = encoder.alpha if prunes else 1.0
        self._keep = self._kept(self._packed.lengths)  # (rows, L), where tokens are pruned

    def __len__(self) -> int:
        return len(self.depth)

    def deepen(self, rows: NDArray[np.int64]) -> None:
        """Carry these rows one depth further."""
        config = self._encoder.config
        group = config.group_at(int(self.depth[rows[0]]) + 1)
        keep = None if self._keep is None else np.ascontiguousarray(self._keep[rows, self.depth[rows]])
        if len(rows) == len(self):
            self._encoder.kernels.deepen(self._packed, group, keep)
        else:
            part = self._packed.of(rows)
            self._encoder.kernels.deepen(part, group, keep)
            self._packed.put(rows, part)
        self.depth[rows] += 1

    def probabilities(self, rows: NDArray[np.int64]) -> Tensor:
        """(len(rows), C); see `batching.Batch`."""
        encoder = self._encoder
        found = np.empty((len(rows), encoder.config.classes), np.float32)
        packed = self._packed if len(rows) == len(self) else self._packed.of(rows)
        depths = self.depth[rows]
        for depth in np.unique(depths):
            here = np.flatnonzero(depths == depth)
            of_depth = packed if len(here) == len(rows) else packed.of(here)
            temperature = float(encoder.temperatures[depth - encoder.config.depths.start])
            found[here] = encoder.kernels.probabilities(of_depth, int(depth), temperature)
        return torch.from_numpy(found)

    def tokens(self) -> NDArray[np.int32]:
        """(rows,) tokens that are alive."""
        return self._packed.lengths

    def exchange(self, stays: NDArray[np.bool_], new: Sequence[Ids]) -> None:
        """Drop rows and take in new texts; see `batching.Batch`."""
        self.depth = self.depth[stays]
        self._keep = None if self._keep is None else self._keep[stays]
        self._encoder.kernels.select(self._packed, stays)
        if new:
            came = self._encoder.kernels.embed(new)
            self._packed.append(came)
            self.depth = np.concatenate([self.depth, np.zeros(len(new), np.int64)])
            kept = self._kept(came.lengths)
            if self._keep is not None and kept is not None:
                self._keep = np.concatenate([self._keep, kept])

    def _kept(self, lengths: NDArray[np.int32]) -> NDArray[np.int32] | None:
        if self._alpha >= 1.0:
            return None
        kept = kept_tokens(torch.from_numpy(lengths), self._alpha, self._encoder.config.layers)
        return kept.numpy().astype(np.int32)
