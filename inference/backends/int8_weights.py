"""A model's weights in int8, packed for the compiled kernels.

Weights are signed bytes with a scale per column; activations will be unsigned bytes with a scale and a zero point per
token (never one for a batch). The exits' pooler and classifier, norms and embeddings stay in float32.
It knows a model and the layout that the kernels read; nothing of exit rules, batches or tokenizers.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.kernels import structs
from earlybell.inference.kernels.structs import LANES, PANEL, TERMS, address, aligned
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification, Embedding, Filters, Head, Layer

#: Least squares fits to GELU's share of v at Chebyshev nodes, weighted by z, since the activation multiplies by v.
#: Constants, not fitted here: another LAPACK would fit other bits.
_CLAMP = 4.3
_ACTIVATION_TERMS: dict[str, tuple[float, ...]] = {
    "gelu": (0.3987768292427063, -0.06611318141222, 0.009670337662100792, -0.0010643044952303171, 8.59940773807466e-05,
             -4.901995907857781e-06, 1.846114088266404e-07, -4.086225136035182e-09, 4.0009884294534004e-11),
    "gelu_new": (0.39873525500297546, -0.06635677069425583, 0.009844055399298668, -0.0011100475676357746,
                 9.232247975887731e-05, -5.411654910858488e-06, 2.0873139305876975e-07, -4.70978456235116e-09,
                 4.6815998994143015e-11),
    "relu": (0.0,) * TERMS,
}  # fmt: skip
#: Weights lie in [-64, 64]: two products with unsigned bytes then fit into signed 16 bits (2 * 255 * 64 < 2^15), so
#: that AVX2 and AVX-512 without VNNI compute them exactly. No dev slice lost accuracy by it (docs/experiments.md).
WEIGHT_LIMIT = 64


class Int8Weights:
    """The kernels' view of a model: structures that point to arrays, which this object keeps alive.

    Raises
    ------
    ValueError
        If a size of the model does not fill whole vectors (`is_supported`).
    """

    def __init__(self, model: ElbertForSequenceClassification) -> None:
        if not is_supported(model.config):
            raise ValueError("the compiled kernels need sizes that are multiples of 16")
        self.config = model.config
        self._arrays: list[Any] = []  # what the structures point to
        self.layers = [[self._layer(inner) for inner in group] for group in model.layers]  # type: ignore[attr-defined]
        self.embedding = self._embedding(model.embedding)
        self.exits = {depth: self._exit(model.exit_head(depth)) for depth in model.config.depths}

    def _layer(self, layer: Layer) -> structs.Layer:
        config = self.config
        size = config.hidden // config.heads
        padded = -(-size // LANES) * LANES
        qkv, out = layer.qkv, layer.attention_out
        # Heads are padded with zeros to whole vectors: queries and keys then add 0, and values go nowhere.
        weight = _padded_heads(_numpy(qkv.weight), 3 * config.heads, size, padded)
        bias = _padded_heads(_numpy(qkv.bias)[:, None], 3 * config.heads, size, padded)[:, 0]
        out_weight = _padded_heads(_numpy(out.weight).T, config.heads, size, padded).T
        clamp, terms = activation_terms(config.activation)
        return structs.Layer(
            qkv=self._linear(weight, bias),
            attention_out=self._linear(out_weight, _numpy(out.bias)),
            feed_forward_in=self._linear(_numpy(layer.feed_forward_in.weight), _numpy(layer.feed_forward_in.bias)),
            feed_forward_out=self._linear(_numpy(layer.feed_forward_out.weight), _numpy(layer.feed_forward_out.bias)),
            attention_norm=self._norm(layer.attention_norm),
            feed_forward_norm=self._norm(layer.feed_forward_norm),
            heads=config.heads,
            head_size=padded,
            attention_scale=1 / math.sqrt(size),
            activation=int(config.activation != "relu"),
            activation_clamp=clamp,
            activation_terms=(ctypes.c_float * TERMS)(*terms),
        )

    def _linear(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> structs.Linear:
        outputs, inputs = weight.shape
        scale = np.abs(weight).max(1) / np.float32(WEIGHT_LIMIT)
        scale[scale == 0] = 1.0
        quantised = np.rint(weight / scale[:, None]).astype(np.int8)
        panels = -(-outputs // PANEL)
        filled = np.zeros((panels * PANEL, inputs), np.int8)
        filled[:outputs] = quantised
        packed = filled.reshape(panels, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3)
        return structs.Linear(
            weight=self._stored(packed, np.int8),
            scale=self._stored(scale, np.float32),
            bias=self._stored(bias, np.float32),
            column_sums=self._stored(quantised.sum(1, dtype=np.int32), np.int32),
            inputs=inputs,
            outputs=outputs,
        )

    def _pointer(self, linear: structs.Linear) -> Any:
        self._arrays.append(linear)
        return ctypes.pointer(linear)

    def _norm(self, norm: torch.nn.LayerNorm) -> structs.Norm:
        return structs.Norm(
            weight=self._stored(_numpy(norm.weight), np.float32),
            bias=self._stored(_numpy(norm.bias), np.float32),
            epsilon=norm.eps,
        )

    def _embedding(self, embedding: Embedding) -> structs.Embedding:
        projection = None
        if isinstance(embedding.projection, torch.nn.Linear):
            projection = self._pointer(
                self._linear(_numpy(embedding.projection.weight), _numpy(embedding.projection.bias))
            )
        return structs.Embedding(
            token=self._stored(_numpy(embedding.token.weight), np.float32),
            position=self._stored(_numpy(embedding.position.weight), np.float32),
            type=self._stored(_numpy(embedding.token_type.weight)[0], np.float32),
            norm=self._norm(embedding.norm),
            size=self.config.embedding,
            projection=projection,
        )

    def _exit(self, head: Head) -> structs.Exit:
        pooler = _numpy(head.pooler.weight)
        hidden, inputs = pooler.shape
        columns = -(-hidden // PANEL) * PANEL
        filled = np.zeros((columns, inputs), np.float32)
        filled[:hidden] = pooler
        return structs.Exit(
            head=structs.Head(
                pooler=self._stored(filled.reshape(-1, PANEL, inputs).transpose(0, 2, 1), np.float32),
                pooler_bias=self._stored(_numpy(head.pooler.bias), np.float32),
                classifier=self._stored(_numpy(head.classifier.weight), np.float32),
                classifier_bias=self._stored(_numpy(head.classifier.bias), np.float32),
                inputs=inputs,
                hidden=hidden,
                classes=self.config.classes,
            ),
            taps=None if head.filters is None else self._pointer(self._taps(head.filters)),
            width=self.config.hidden,
            mean=head.form == "cls_mean",
        )

    def _taps(self, filters: Filters) -> structs.Linear:
        bias = np.zeros((3, filters.features), np.float32)
        bias[1] = _numpy(filters.bias)  # once, with the middle token
        return self._linear(_numpy(filters.taps.weight), bias.reshape(-1))

    def _stored(self, array: NDArray[Any], dtype: Any) -> int:
        """Keep the values, aligned and contiguous, and return their address."""
        if array.dtype == dtype and array.flags.c_contiguous and address(array) % 64 == 0:
            self._arrays.append(array)
            return address(array)
        copy = aligned(array.size, dtype)
        copy[:] = array.reshape(-1)
        self._arrays.append(copy)
        return address(copy)


def is_supported(config: Config) -> bool:
    """Whether the kernels can run a model of this shape: its sizes must fill whole vectors."""
    sizes = (config.hidden, config.embedding, config.feed_forward, config.head_hidden, config.depth_zero_filters)
    return all(size % LANES == 0 for size in sizes)


def activation_terms(name: str) -> tuple[float, tuple[float, ...]]:
    """Return the polynomial that approximates GELU: v (1/2 + z P(z^2)), z = v clamped; error below 3e-5 (1 + |v|).

    Returns
    -------
    clamp, terms
        The bound of v, and P's coefficients, lowest first.
    """
    return _CLAMP, _ACTIVATION_TERMS[name]


def _padded_heads(rows: NDArray[np.float32], heads: int, size: int, padded: int) -> NDArray[np.float32]:
    filled = np.zeros((heads, padded, rows.shape[1]), np.float32)
    filled[:, :size] = rows.reshape(heads, size, -1)
    return filled.reshape(heads * padded, -1)


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
