"""ELBERT in int8 on a CPU: weights packed for ``quantised.c``, and the batches that it computes on.

Activations are quantised with a scale and a zero point a token (never one for a batch), weights with a scale a
column; attention, norms, activation, residuals and exits stay in float32. Texts are packed without padding and each
is computed on its own, so **an answer is the same to the last bit whatever stands beside it**: exact in every
strategy, order, batch size and number of threads.
It knows a model and the compiled kernels; nothing of exit rules, strategies or tokenizers.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.model.elbert import Config, ElbertForSequenceClassification, Filters, Head, Layer
from earlybell.inference.model.elbert import Embedding as EmbeddingModule

#: A vector of the kernels, and the columns of a panel of weights.
LANES, PANEL = 16, 64
#: Queries whose scores are computed together.
STRIP = 32
#: Texts whose pooled states are kept at a time.
EXIT_TEXTS = 24
#: Tokens that go through a layer together: their intermediate values must lie in a core's own cache (1 MB).
TILE_TOKENS = 96
#: Terms of the polynomial that stands for the activation; `activation_terms`.
TERMS = 9


class _Linear(Structure):
    _fields_ = [("weight", c_void_p), ("scale", c_void_p), ("bias", c_void_p), ("sums", c_void_p),
                ("inputs", c_int64), ("outputs", c_int64)]  # fmt: skip


class _Norm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("epsilon", c_float)]


class _Layer(Structure):
    _fields_ = [("qkv", _Linear), ("attention_out", _Linear), ("feed_forward_in", _Linear),
                ("feed_forward_out", _Linear), ("attention_norm", _Norm), ("feed_forward_norm", _Norm),
                ("heads", c_int64), ("head_size", c_int64), ("attention_scale", c_float), ("activation", c_int64),
                ("activation_clamp", c_float), ("activation_terms", c_float * TERMS)]  # fmt: skip


class _Embedding(Structure):
    _fields_ = [("token", c_void_p), ("position", c_void_p), ("type", c_void_p), ("norm", _Norm), ("size", c_int64),
                ("projection", POINTER(_Linear))]  # fmt: skip


class _Head(Structure):
    _fields_ = [("pooler", c_void_p), ("pooler_bias", c_void_p), ("classifier", c_void_p),
                ("classifier_bias", c_void_p), ("inputs", c_int64), ("hidden", c_int64),
                ("classes", c_int64)]  # fmt: skip


class _Exit(Structure):
    _fields_ = [("head", _Head), ("taps", POINTER(_Linear)), ("width", c_int64), ("mean", c_int64)]


class _Scratch(Structure):
    _fields_ = [("wide", c_void_p), ("bytes", c_void_p), ("scale", c_void_p), ("zero", c_void_p),
                ("queries", c_void_p), ("keys", c_void_p), ("values", c_void_p), ("scores", c_void_p),
                ("given", c_void_p), ("chosen", c_void_p), ("pooled", c_void_p), ("tokens", c_int64)]  # fmt: skip


@dataclass(slots=True)
class Packed:
    """Texts on their way through the depths, one behind the other: row i of ``lengths`` is text i."""

    hidden: NDArray[np.float32]  # (room, h): the first sum(lengths) rows are live
    lengths: NDArray[np.int32]  # (texts,) tokens that are alive

    def __len__(self) -> int:
        return len(self.lengths)

    def of(self, texts: NDArray[np.int64]) -> Packed:
        """A copy of some of the texts, in ascending order."""
        return Packed(self.hidden[: int(self.lengths.sum())][self._tokens(texts)], self.lengths[texts])

    def put(self, texts: NDArray[np.int64], other: Packed) -> None:
        """Put the states of some texts back; they may have fewer tokens than before."""
        others = self.hidden[: int(self.lengths.sum())][~self._tokens(texts)]
        self.lengths[texts] = other.lengths
        mine = self._tokens(texts)
        self.hidden = np.empty((len(mine), self.hidden.shape[1]), np.float32)
        self.hidden[mine] = other.hidden[: int(other.lengths.sum())]
        self.hidden[~mine] = others

    def append(self, other: Packed) -> None:
        """Add texts behind the others."""
        self.hidden = np.concatenate([self.hidden[: int(self.lengths.sum())], other.hidden])
        self.lengths = np.concatenate([self.lengths, other.lengths])

    def _tokens(self, texts: NDArray[np.int64]) -> NDArray[np.bool_]:
        mine = np.zeros(len(self), np.bool_)
        mine[texts] = True
        return np.repeat(mine, self.lengths)


class QuantisedEncoder:
    """The kernels' view of a model. Any number of threads may use one encoder, each on batches of its own."""

    def __init__(self, model: ElbertForSequenceClassification, kernels: ctypes.CDLL) -> None:
        config = model.config
        if not fits(config):
            raise ValueError("the compiled kernels need sizes that are multiples of 16")
        self.config = config
        self.library = kernels
        kernels.earlybell_select.restype = c_int64
        self._kept: list[Any] = []  # what the structures point to
        self.layers = [[self._layer(inner) for inner in group] for group in model.layers]  # type: ignore[attr-defined]
        self.embedding = self._embed(model.embedding)
        self.exits = {depth: self._exit(model.exit_head(depth)) for depth in config.depths}
        self._scratches = threading.local()

    def embed(self, rows: Sequence[NDArray[np.int32]]) -> Packed:
        """Token ids -> the texts at depth 0."""
        lengths = np.fromiter((len(row) for row in rows), np.int32, len(rows))
        ids = np.concatenate(rows).astype(np.int32, copy=False)
        hidden = np.empty((len(ids), self.config.hidden), np.float32)
        scratch = self.scratch(1)
        self.library.earlybell_embed(
            byref(self.embedding), at(ids), at(lengths), c_int64(len(rows)), at(hidden), byref(scratch)
        )
        return Packed(hidden, lengths)

    def deepen(self, batch: Packed, group: int, keep: NDArray[np.int32] | None = None) -> None:
        """Apply the layers of a group, in place; ``keep``: (texts,) tokens that ACC leaves of each text."""
        scratch = self.scratch(int(batch.lengths.max(initial=1)))
        for layer in self.layers[group]:
            self.library.earlybell_layer(
                byref(layer),
                at(batch.hidden),
                at(batch.lengths),
                c_int64(len(batch)),
                None if keep is None else at(keep),
                byref(scratch),
            )

    def logits(self, batch: Packed, depth: int) -> NDArray[np.float32]:
        """(texts, C): what the exit at ``depth`` says."""
        answers = np.empty((len(batch), self.config.classes), np.float32)
        self.library.earlybell_exit(
            byref(self.exits[depth]),
            at(batch.hidden),
            at(batch.lengths),
            c_int64(len(batch)),
            at(answers),
            byref(self.scratch(int(batch.lengths.max(initial=1)))),
        )
        return answers

    def probabilities(self, batch: Packed, depth: int, temperature: float) -> NDArray[np.float32]:
        """(texts, C): what the exit at ``depth`` says, at its temperature."""
        answers = self.logits(batch, depth)
        texts, classes = answers.shape
        self.library.earlybell_probabilities(at(answers), c_int64(texts), c_int64(classes), c_float(temperature))
        return answers

    def select(self, batch: Packed, stays: NDArray[np.bool_]) -> None:
        """Drop the texts that do not stay; the others move together, in their order."""
        kept = self.library.earlybell_select(
            at(batch.hidden), at(batch.lengths), c_int64(len(batch)), c_int64(self.config.hidden), at(stays)
        )
        batch.lengths = batch.lengths[:kept].copy()

    def scratch(self, longest: int) -> _Scratch:
        """Room of the calling thread's own for intermediate values, enough for a text of so many tokens."""
        tokens = max(TILE_TOKENS, -(-longest // LANES) * LANES)
        mine: _Scratch | None = getattr(self._scratches, "scratch", None)
        if mine is not None and mine.tokens >= tokens and tokens == TILE_TOKENS:
            return mine
        if mine is None or self._scratches.room < tokens:
            layer = self.layers[0][0]
            taps = 3 * self.config.depth_zero_filters
            widest = max(layer.qkv.outputs, layer.feed_forward_in.outputs, self.config.embedding, taps)
            inputs = max(layer.attention_out.inputs, layer.feed_forward_out.inputs, self.config.embedding)
            arrays = {
                "wide": aligned(tokens * widest, np.float32),
                "bytes": aligned(tokens * inputs, np.uint8),
                "scale": aligned(tokens, np.float32),
                "zero": aligned(tokens, np.int32),
                "queries": aligned(layer.head_size * STRIP, np.float32),
                "keys": aligned(tokens * layer.head_size, np.float32),
                "values": aligned(tokens * layer.head_size, np.float32),
                "scores": aligned(tokens * STRIP, np.float32),
                "given": aligned(tokens * LANES, np.float32),
                "chosen": aligned(tokens, np.int32),
                "pooled": aligned(EXIT_TEXTS * max(one.head.inputs for one in self.exits.values()), np.float32),
            }
            mine = _Scratch(**{name: array.ctypes.data for name, array in arrays.items()}, tokens=TILE_TOKENS)
            self._scratches.scratch, self._scratches.room, self._scratches.arrays = mine, tokens, arrays
        return mine

    def _layer(self, layer: Layer) -> _Layer:
        config = self.config
        size = config.hidden // config.heads
        padded = -(-size // LANES) * LANES
        qkv, out = layer.qkv, layer.attention_out
        # Heads are padded with nothing to whole vectors: their queries and keys then add 0, their values go nowhere.
        weight = _padded_heads(_numpy(qkv.weight), 3 * config.heads, size, padded)
        bias = _padded_heads(_numpy(qkv.bias)[:, None], 3 * config.heads, size, padded)[:, 0]
        back = _padded_heads(_numpy(out.weight).T, config.heads, size, padded).T
        clamp, terms = activation_terms(config.activation)
        return _Layer(
            qkv=self._linear(weight, bias),
            attention_out=self._linear(back, _numpy(out.bias)),
            feed_forward_in=self._linear(_numpy(layer.feed_forward_in.weight), _numpy(layer.feed_forward_in.bias)),
            feed_forward_out=self._linear(_numpy(layer.feed_forward_out.weight), _numpy(layer.feed_forward_out.bias)),
            attention_norm=self._norm(layer.attention_norm),
            feed_forward_norm=self._norm(layer.feed_forward_norm),
            heads=config.heads,
            head_size=padded,
            attention_scale=size**-0.5,
            activation=int(config.activation != "relu"),
            activation_clamp=clamp,
            activation_terms=(c_float * TERMS)(*terms),
        )

    def _linear(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> _Linear:
        outputs, inputs = weight.shape
        scale = np.abs(weight).max(1) / 127.0
        scale[scale == 0] = 1.0
        whole = np.rint(weight / scale[:, None]).astype(np.int8)
        panels = -(-outputs // PANEL)
        filled = np.zeros((panels * PANEL, inputs), np.int8)
        filled[:outputs] = whole
        packed = filled.reshape(panels, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3)
        return _Linear(
            weight=self._keep(packed, np.int8),
            scale=self._keep(scale, np.float32),
            bias=self._keep(bias, np.float32),
            sums=self._keep(whole.sum(1, dtype=np.int32), np.int32),
            inputs=inputs,
            outputs=outputs,
        )

    def _pointer(self, linear: _Linear) -> Any:
        self._kept.append(linear)
        return ctypes.pointer(linear)

    def _norm(self, norm: torch.nn.LayerNorm) -> _Norm:
        return _Norm(
            weight=self._keep(_numpy(norm.weight), np.float32),
            bias=self._keep(_numpy(norm.bias), np.float32),
            epsilon=norm.eps,
        )

    def _embed(self, embedding: EmbeddingModule) -> _Embedding:
        projection = None
        if isinstance(embedding.projection, torch.nn.Linear):
            projection = self._pointer(
                self._linear(_numpy(embedding.projection.weight), _numpy(embedding.projection.bias))
            )
        return _Embedding(
            token=self._keep(_numpy(embedding.token.weight), np.float32),
            position=self._keep(_numpy(embedding.position.weight), np.float32),
            type=self._keep(_numpy(embedding.token_type.weight)[0], np.float32),
            norm=self._norm(embedding.norm),
            size=self.config.embedding,
            projection=projection,
        )

    def _exit(self, head: Head) -> _Exit:
        pooler = _numpy(head.pooler.weight)
        hidden, inputs = pooler.shape
        room = -(-hidden // PANEL) * PANEL
        filled = np.zeros((room, inputs), np.float32)
        filled[:hidden] = pooler
        return _Exit(
            head=_Head(
                pooler=self._keep(filled.reshape(-1, PANEL, inputs).transpose(0, 2, 1), np.float32),
                pooler_bias=self._keep(_numpy(head.pooler.bias), np.float32),
                classifier=self._keep(_numpy(head.classifier.weight), np.float32),
                classifier_bias=self._keep(_numpy(head.classifier.bias), np.float32),
                inputs=inputs,
                hidden=hidden,
                classes=self.config.classes,
            ),
            taps=None if head.filters is None else self._pointer(self._taps(head.filters)),
            width=self.config.hidden,
            mean=head.form == "cls_mean",
        )

    def _taps(self, filters: Filters) -> _Linear:
        bias = np.zeros((3, filters.features), np.float32)
        bias[1] = _numpy(filters.bias)  # the middle one of three brings it
        return self._linear(_numpy(filters.taps.weight), bias.reshape(-1))

    def _keep(self, array: NDArray[Any], dtype: Any) -> int:
        if array.dtype == dtype and array.flags.c_contiguous and array.ctypes.data % 64 == 0:
            self._kept.append(array)
            return array.ctypes.data
        moved = aligned(array.size, dtype)
        moved[:] = array.reshape(-1)
        self._kept.append(moved)
        return moved.ctypes.data


def fits(config: Config) -> bool:
    """Whether the kernels can compute a model of this shape: its sizes must fill whole vectors."""
    sizes = (config.hidden, config.embedding, config.feed_forward, config.head_hidden, config.depth_zero_filters)
    return all(size % LANES == 0 for size in sizes)


def activation_terms(name: str) -> tuple[float, list[float]]:
    """The polynomial that stands for GELU: v (1/2 + z P(z^2)), z = v clamped. Its error is below 3e-5 (1 + |v|).

    Returns
    -------
    clamp, terms
        Where v is clamped, and P's coefficients, lowest first.
    """
    if name == "relu":
        return 1.0, [0.0] * TERMS
    clamp = 4.3
    z = np.cos(np.linspace(0, np.pi / 2, 4_000, endpoint=False)) * clamp  # Chebyshev's points
    if name == "gelu":
        share = torch.special.erf(torch.from_numpy(z) / 2**0.5).numpy() / 2
    else:
        share = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)) / 2
    powers = z[:, None] ** (2 * np.arange(TERMS) + 1) / clamp ** (2 * np.arange(TERMS) + 1)
    # What the activation multiplies by v is off by v times as much: weighted, the error is even.
    found = np.linalg.lstsq(powers * z[:, None], share * z, rcond=None)[0]
    return clamp, list(found / clamp ** (2 * np.arange(TERMS) + 1))


def _padded_heads(rows: NDArray[np.float32], heads: int, size: int, padded: int) -> NDArray[np.float32]:
    filled = np.zeros((heads, padded, rows.shape[1]), np.float32)
    filled[:, :size] = rows.reshape(heads, size, -1)
    return filled.reshape(heads * padded, -1)


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()


def aligned(count: int, dtype: Any) -> NDArray[Any]:
    """An array that begins on a cache line."""
    size = np.dtype(dtype).itemsize
    room = np.empty(count * size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + count * size].view(dtype)


def at(array: NDArray[Any]) -> c_void_p:
    """Where an array begins, for the kernels."""
    return c_void_p(array.ctypes.data)
