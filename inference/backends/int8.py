"""The int8 backend: packed texts from token ids to answers in one call of the compiled kernels (`forward.c`).

Texts are packed without padding and each is computed on its own, so an answer is the same to the last bit whatever else
is in the batch: exact in every strategy, order, batch size and number of threads. The call holds no interpreter lock,
so an engine's threads run in parallel.
It knows packed weights, the exit rule's numbers and the pruning's; nothing of strategies, windows or tokenizers.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Sequence
from ctypes import Structure, byref, c_float, c_void_p, pointer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.backends.int8_weights import Int8Weights
from earlybell.inference.batching.backend import Answers
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.kernels import structs
from earlybell.inference.kernels.library import Kernels
from earlybell.inference.kernels.structs import EXIT_TEXTS, LANES, STRIP, address, aligned
from earlybell.inference.model.config import Config
from earlybell.inference.token_ids import TokenIds

#: Tokens that go through a layer together: their intermediate values must fit a core's own cache (1 MB).
TILE_TOKENS = 96
#: The rules of a window, in the order of ``enum window_rule``.
WINDOW_RULES = ("off", "agreement", "trend")


class Int8Backend:
    """A model in int8 on a CPU, and the rule that texts exit by. Any number of threads may use one.

    Parameters
    ----------
    tempering
        (exits, 2) in the order of ``config.depths``: see `early_exit.tempering`.
    pruning
        How many tokens the layers keep of a text (ACC).
    batch_tokens
        Tokens of a batch.
    """

    pads = False

    def __init__(
        self,
        kernels: Kernels,
        weights: Int8Weights,
        rule: ExitRule,
        tempering: NDArray[np.float32],
        pruning: Pruning,
        batch_tokens: int,
    ) -> None:
        self.kernels, self.weights, self.batch_tokens = kernels, weights, batch_tokens
        self._pruning, self._tempering = pruning, tempering
        config = weights.config
        first = config.depths[0]
        groups = [weights.layers[config.group_at(depth)] for depth in range(1, config.layers + 1)]
        model = structs.Model(
            embedding=pointer(weights.embedding),
            layers=_addresses([layer for group in groups for layer in group]),
            exits=_addresses([weights.exits.get(depth) for depth in range(config.layers + 1)]),
            temperatures=(c_float * (config.layers + 1))(*[1.0] * first, *tempering[:, 0].tolist()),
            sharpening=(c_float * (config.layers + 1))(*[0.0] * first, *tempering[:, 1].tolist()),
            rule=exit_rule(rule, config.classes),
            depths=config.layers,
            inner_layers=config.inner_layers,
            hidden=config.hidden,
            classes=config.classes,
            batch_tokens=batch_tokens,
            # If only the last depth can answer, no exit before it is evaluated.
            first_exit=config.layers if rule.never else first,
        )
        self._model = model
        self._model_to_depth = {depth: _to_depth(model, depth) for depth in config.depths}
        self._local = threading.local()

    @property
    def config(self) -> Config:
        """The model's shape."""
        return self.weights.config

    def at(self, rule: ExitRule, pruning: Pruning) -> Int8Backend:
        """Return a backend with the same weights, working memory and threads, and other rules."""
        other = Int8Backend(self.kernels, self.weights, rule, self._tempering, pruning, self.batch_tokens)
        other._local = self._local
        return other

    def run(
        self,
        texts: TokenIds,
        width: int = 0,
        *,
        depth: int | None = None,
        prunes: bool = True,
        continuous: bool = False,
    ) -> Answers:
        """Run a batch; see `batching.backend.Backend`. Without padding, ``width`` and ``continuous`` have no effect."""
        answers = Answers.empty(len(texts), self.config.classes)
        if not texts:
            return answers
        lengths = texts.lengths
        layers = self.config.layers if depth is None else depth
        keep = None
        if prunes and not self._pruning.never and layers:
            keep = self._pruning.kept(lengths, layers).astype(np.int32)
        longest = int(lengths.max())
        self.kernels.forward(
            byref(self._model if depth is None else self._model_to_depth[depth]),
            address(texts.ids),
            address(lengths),
            len(texts),
            None if keep is None else address(keep),
            byref(self._batch(longest)),
            byref(self.workspace(longest)),
            address(answers.probabilities),
            address(answers.exit_depth),
            address(answers.tokens_kept),
        )
        return answers

    def _batch(self, longest: int) -> structs.Batch:
        """Return the calling thread's own batch; kept, since fresh pages cost as much as embedding the texts."""
        tokens = max(self.batch_tokens, longest)
        if getattr(self._local, "batch_tokens", 0) < tokens:
            config = self.config
            texts = tokens  # every text has at least one
            arrays = {
                "hidden": aligned(tokens * config.hidden, np.float32),
                "lengths": aligned(texts, np.int32),
                "origin": aligned(texts, np.int32),
                "keep": aligned(texts, np.int32),
                "probabilities": aligned(texts * config.classes, np.float32),
                "stays": aligned(texts, np.uint8),
            }
            window = {
                "run": aligned(texts, np.int32),
                "label": aligned(texts, np.int32),
                "lead": aligned(texts, np.float32),
            }
            self._local.batch_arrays, self._local.batch_tokens = (arrays, window), tokens
            self._local.batch = structs.Batch(**_pointers(arrays), window=structs.WindowState(**_pointers(window)))
        batch: structs.Batch = self._local.batch
        return batch

    def workspace(self, longest: int) -> structs.Workspace:
        """Return the calling thread's own workspace, large enough for a text of this many tokens."""
        tokens = max(TILE_TOKENS, -(-longest // LANES) * LANES)
        if getattr(self._local, "workspace_tokens", 0) < tokens:
            weights, config = self.weights, self.config
            layer = weights.layers[0][0]
            taps = 3 * config.depth_zero_filters
            outputs = max(layer.qkv.outputs, layer.feed_forward_in.outputs, config.embedding, taps)
            inputs = max(layer.attention_out.inputs, layer.feed_forward_out.inputs, config.embedding)
            arrays = {
                "wide": aligned(tokens * outputs, np.float32),
                "bytes": aligned(tokens * inputs, np.uint8),
                "scale": aligned(tokens, np.float32),
                "zero_point": aligned(tokens, np.int32),
                "queries": aligned(layer.head_size * STRIP, np.float32),
                "keys": aligned(tokens * layer.head_size, np.float32),
                "values": aligned(tokens * layer.head_size, np.float32),
                "scores": aligned(tokens * STRIP, np.float32),
                "contribution": aligned(tokens * LANES, np.float32),
                "selected": aligned(tokens, np.int32),
                "pooled": aligned(EXIT_TEXTS * max(exit_.head.inputs for exit_ in weights.exits.values()), np.float32),
            }
            self._local.workspace_arrays, self._local.workspace_tokens = arrays, tokens
            self._local.workspace = structs.Workspace(**_pointers(arrays), tile_tokens=TILE_TOKENS)
        workspace: structs.Workspace = self._local.workspace
        return workspace


def exit_rule(rule: ExitRule, classes: int) -> structs.ExitRule:
    """Return a rule as the kernels read it."""
    return structs.ExitRule(
        rule.threshold, rule.margin, math.log(classes), WINDOW_RULES.index(rule.window_rule), rule.window
    )


def _to_depth(model: structs.Model, depth: int) -> structs.Model:
    """Return the same model, answering every text at this depth."""
    shortened = structs.Model.from_buffer_copy(model)
    shortened.depths = shortened.first_exit = depth
    return shortened


def _addresses(structures: Sequence[Structure | None]) -> ctypes.Array[c_void_p]:
    return (c_void_p * len(structures))(*(None if item is None else ctypes.addressof(item) for item in structures))


def _pointers(arrays: dict[str, NDArray[Any]]) -> dict[str, int]:
    return {name: address(array) for name, array in arrays.items()}
