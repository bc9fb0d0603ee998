"""Packed texts from their ids to their answers in one call of the compiled kernels (``packed_exits.c``).

The call holds no interpreter, so the threads of an engine really run side by side. It knows the kernels' encoder, the
exit rule's numbers and the pruning's; nothing of strategies, windows or tokenizers.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int64, c_void_p

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.backends.int8_weights import QuantisedEncoder, aligned, at
from earlybell.inference.batching.backend import Answers
from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.early_exit.token_pruning import kept_tokens

#: As the C numbers them.
FORMS = ("off", "agreement", "trend")


class Rule(Structure):
    """An `ExitRule` as the kernels read it."""

    _fields_ = [("threshold", c_float), ("margin", c_float), ("uniform", c_float), ("form", c_int64),
                ("window", c_int64)]  # fmt: skip

    @classmethod
    def of(cls, rule: ExitRule, classes: int) -> Rule:
        """The same rule."""
        return cls(rule.threshold, rule.margin, math.log(classes), FORMS.index(rule.window_rule), rule.window)


class Said(Structure):
    """Where the kernels keep what each text has said so far."""

    _fields_ = [("run", c_void_p), ("label", c_void_p), ("lead", c_void_p)]


class _Journey(Structure):
    _fields_ = [("embedding", c_void_p), ("layers", POINTER(c_void_p)), ("exits", POINTER(c_void_p)),
                ("temperatures", POINTER(c_float)), ("rule", Rule), ("depths", c_int64), ("inner", c_int64),
                ("hidden", c_int64), ("classes", c_int64), ("batch_tokens", c_int64),
                ("asks_from", c_int64)]  # fmt: skip


class _Room(Structure):
    _fields_ = [("x", c_void_p), ("lengths", c_void_p), ("origin", c_void_p), ("keep", c_void_p), ("said", Said),
                ("probabilities", c_void_p), ("stays", c_void_p)]  # fmt: skip


class PackedExits:
    """A model, its exits' temperatures and the rule that texts leave by. Any number of threads may use one.

    Parameters
    ----------
    temperatures
        (exits,) in the order of ``config.depths``.
    alpha
        ACC's share that a layer keeps; 1: no pruning.
    batch_tokens
        Tokens that travel together.
    """

    def __init__(
        self,
        kernels: QuantisedEncoder,
        rule: ExitRule,
        temperatures: NDArray[np.float32],
        alpha: float,
        batch_tokens: int,
    ) -> None:
        config = kernels.config
        self._kernels, self._alpha, self._batch_tokens = kernels, alpha, batch_tokens
        groups = [kernels.layers[config.group_at(depth)] for depth in range(1, config.layers + 1)]
        self._layers = _addresses([layer for group in groups for layer in group])
        self._exits = _addresses([kernels.exits.get(depth) for depth in range(config.layers + 1)])
        first = config.depths[0]
        self._temperatures = (c_float * (config.layers + 1))(*[1.0] * first, *temperatures.tolist())
        self._journey = _Journey(
            embedding=ctypes.addressof(kernels.embedding),
            layers=self._layers,
            exits=self._exits,
            temperatures=self._temperatures,
            rule=Rule.of(rule, config.classes),
            depths=config.layers,
            inner=config.inner_layers,
            hidden=config.hidden,
            classes=config.classes,
            batch_tokens=batch_tokens,
            # Where nothing but the last depth can answer, no exit before it need be asked.
            asks_from=config.layers if rule.never else first,
        )
        self._rooms = threading.local()

    def answer(self, rows: Sequence[NDArray[np.int32]]) -> Answers:
        """Take texts (the ids of each) to the exits that they leave by."""
        texts, config = len(rows), self._kernels.config
        lengths = np.fromiter((len(row) for row in rows), np.int32, texts)
        answers = Answers.empty(texts, config.classes)
        if not texts:
            return answers
        longest = int(lengths.max())
        ids = np.concatenate(rows)
        keep = None
        if self._alpha < 1.0:
            keep = kept_tokens(torch.from_numpy(lengths), self._alpha, config.layers).numpy().astype(np.int32)
        self._kernels.library.earlybell_carry(
            byref(self._journey),
            at(ids),
            at(lengths),
            c_int64(texts),
            None if keep is None else at(keep),
            byref(self._room(longest)),
            byref(self._kernels.scratch(longest)),
            at(answers.probabilities),
            at(answers.exit_depth),
            at(answers.tokens_kept),
        )
        return answers

    def _room(self, longest: int) -> _Room:
        """The calling thread's own; kept, since a new one's pages would cost as much as embedding the texts."""
        tokens = max(self._batch_tokens, longest)
        if getattr(self._rooms, "tokens", 0) < tokens:
            config = self._kernels.config
            texts = tokens  # every text has at least one
            arrays = {
                "x": aligned(tokens * config.hidden, np.float32),
                "lengths": aligned(texts, np.int32),
                "origin": aligned(texts, np.int32),
                "keep": aligned(texts, np.int32),
                "probabilities": aligned(texts * config.classes, np.float32),
                "stays": aligned(texts, np.uint8),
            }
            said = aligned(texts, np.int32), aligned(texts, np.int32), aligned(texts, np.float32)
            self._rooms.arrays, self._rooms.tokens = (arrays, said), tokens
            places = {name: array.ctypes.data for name, array in arrays.items()}
            self._rooms.room = _Room(**places, said=Said(*(array.ctypes.data for array in said)))
        room: _Room = self._rooms.room
        return room


def _addresses(structures: Sequence[Structure | None]) -> ctypes.Array[c_void_p]:
    return (c_void_p * len(structures))(*(None if one is None else ctypes.addressof(one) for one in structures))
