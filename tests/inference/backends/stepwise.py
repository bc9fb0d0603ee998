"""The int8 kernels called from Python depth by depth: the reference for `Int8Backend`, which makes one call."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, byref
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.backends.int8 import Int8Backend
from earlybell.inference.backends.int8_weights import Int8Weights
from earlybell.inference.batching.backend import Answers
from earlybell.inference.early_exit.confidence_window import ConfidenceWindow
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import unsharpened
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.kernels import library
from earlybell.inference.kernels.structs import address
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.token_ids import Ids, TokenIds

UNPRUNED = Pruning()


@dataclass(slots=True)
class Packed:
    """Texts packed one after another, all at the same depth."""

    hidden: NDArray[np.float32]  # (tokens, h)
    lengths: NDArray[np.int32]  # (texts,)


class Stepwise:
    """Each kernel of an int8 model as a method."""

    def __init__(self, model: ElbertForSequenceClassification) -> None:
        kernels = library.load()
        assert kernels is not None
        self.kernels, self.weights, self.config = kernels, Int8Weights(model.config, model.weights()), model.config
        self._backend = self.backend(ExitRule(), unsharpened([1.0] * len(model.config.depths)))

    def backend(
        self, rule: ExitRule, tempering: NDArray[np.float32], pruning: Pruning = UNPRUNED, batch_tokens: int = 300
    ) -> Int8Backend:
        """The backend under test, over the same weights."""
        return Int8Backend(self.kernels, self.weights, rule, tempering, pruning, batch_tokens)

    def embed(self, texts: Sequence[Ids]) -> Packed:
        packed = TokenIds.pack(texts)
        lengths = packed.lengths
        hidden = np.empty((len(packed.ids), self.config.hidden), np.float32)
        self.kernels.embed(
            byref(self.weights.embedding), address(packed.ids), address(lengths), len(texts), address(hidden),
            byref(self._backend.workspace(1)),
        )  # fmt: skip
        return Packed(hidden, lengths)

    def deepen(self, packed: Packed, group: int, keep: NDArray[np.int32] | None = None) -> None:
        """Apply the layers of a group, in place; ``keep``: (texts,) tokens that ACC keeps of each text."""
        workspace = self._backend.workspace(int(packed.lengths.max()))
        for layer in self.weights.layers[group]:
            self.kernels.layer(
                addressof(layer), address(packed.hidden), address(packed.lengths), len(packed.lengths),
                None if keep is None else address(keep), byref(workspace),
            )  # fmt: skip

    def logits(self, packed: Packed, depth: int) -> NDArray[np.float32]:
        logits = np.empty((len(packed.lengths), self.config.classes), np.float32)
        self.kernels.exit(
            addressof(self.weights.exits[depth]), address(packed.hidden), address(packed.lengths),
            len(packed.lengths), address(logits), byref(self._backend.workspace(int(packed.lengths.max()))),
        )  # fmt: skip
        return logits

    def softmax(self, logits: NDArray[np.float32], tempering: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities; ``tempering``: (2,), one exit's temperature and sharpening."""
        probabilities = logits.copy()
        self.kernels.softmax(address(probabilities), *logits.shape, *tempering.tolist())
        return probabilities

    def compact(self, packed: Packed, stays: NDArray[np.bool_]) -> None:
        """Drop the texts that do not stay; the others remain packed and in order."""
        count = self.kernels.compact(
            address(packed.hidden), address(packed.lengths), len(packed.lengths), self.config.hidden, address(stays)
        )
        packed.lengths = packed.lengths[:count].copy()

    def run(self, text: Ids, rule: ExitRule, tempering: NDArray[np.float32], pruning: Pruning) -> Answers:
        """Run one text to its exit, which Python's `ConfidenceWindow` decides."""
        config = self.config
        packed = self.embed([text])
        keep = pruning.kept(np.array([len(text)]), config.layers)[0].astype(np.int32)
        window = ConfidenceWindow(rule, 1)
        for depth in range(config.layers + 1):
            if depth:
                self.deepen(packed, config.group_at(depth), None if pruning.never else keep[depth - 1 : depth])
            if depth in config.depths:
                probabilities = self.softmax(self.logits(packed, depth), tempering[depth - config.depths.start])
                if depth == config.layers or (not rule.never and window.decide(torch.from_numpy(probabilities), depth)):
                    return Answers(probabilities, np.array([depth], np.int16), packed.lengths.astype(np.int32))
        raise AssertionError("the last depth always answers")
