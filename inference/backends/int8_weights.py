"""A model's weights in int8, packed for the compiled kernels.

Weights are signed bytes with a scale per column; activations will be unsigned bytes with a scale and a zero point per
token (never one for a batch). The exits' pooler and classifier, norms and embeddings are served in float32.
It knows a model's weights and the layout that the kernels read; nothing of exit rules, batches or tokenizers.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.kernels import structs
from earlybell.inference.kernels.structs import LANES, PANEL, TERMS, address, aligned
from earlybell.inference.model.config import Config
from earlybell.inference.model.weights import Quantised, Weights, as_float32, quantise

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


Scalar = TypeVar("Scalar", bound=np.generic)


class Int8Weights:
    """The kernels' view of a model: structures that point to arrays, which this object keeps alive.

    Raises
    ------
    ValueError
        If a size of the model does not fill whole vectors (`is_supported`).
    """

    def __init__(self, config: Config, weights: Weights) -> None:
        if not is_supported(config):
            raise ValueError("the compiled kernels need sizes that are multiples of 16")
        self.config = config
        self._weights = weights
        self._arrays: list[Any] = []  # what the structures point to
        self.layers = [
            [self._layer(f"layers.{group}.{inner}") for inner in range(config.inner_layers)]
            for group in range(config.groups)
        ]
        self.embedding = self._embedding()
        self.exits = {depth: self._exit(depth) for depth in config.depths}
        del self._weights

    def _layer(self, name: str) -> structs.Layer:
        config = self.config
        size = config.hidden // config.heads
        padded = -(-size // LANES) * LANES
        qkv, out = self._quantised(f"{name}.qkv.weight"), self._quantised(f"{name}.attention_out.weight")
        # Heads are padded with zeros to whole vectors: queries and keys then add 0, and values go nowhere.
        scale, bias = (
            _padded_heads(values[:, None], 3 * config.heads, size, padded)[:, 0]
            for values in (qkv.scale, self._floats(f"{name}.qkv.bias"))
        )
        weight = _padded_heads(qkv.values, 3 * config.heads, size, padded)
        out_weight = np.ascontiguousarray(_padded_heads(out.values.T, config.heads, size, padded).T)
        clamp, terms = activation_terms(config.activation)
        return structs.Layer(
            qkv=self._packed(Quantised(weight, scale), bias),
            attention_out=self._packed(Quantised(out_weight, out.scale), self._floats(f"{name}.attention_out.bias")),
            feed_forward_in=self._linear(f"{name}.feed_forward_in"),
            feed_forward_out=self._linear(f"{name}.feed_forward_out"),
            attention_norm=self._norm(f"{name}.attention_norm"),
            feed_forward_norm=self._norm(f"{name}.feed_forward_norm"),
            heads=config.heads,
            head_size=padded,
            attention_scale=1 / math.sqrt(size),
            activation=int(config.activation != "relu"),
            activation_clamp=clamp,
            activation_terms=(ctypes.c_float * TERMS)(*terms),
        )

    def _linear(self, name: str) -> structs.Linear:
        return self._packed(self._quantised(f"{name}.weight"), self._floats(f"{name}.bias"))

    def _packed(self, weight: Quantised, bias: NDArray[np.float32]) -> structs.Linear:
        outputs, inputs = weight.shape
        packed = weight.values.reshape(outputs // LANES, LANES, inputs // 4, 4).transpose(0, 2, 1, 3)
        return structs.Linear(
            weight=self._stored(packed, np.int8),
            scale=self._stored(weight.scale, np.float32),
            bias=self._stored(bias, np.float32),
            column_sums=self._stored(weight.values.sum(1, dtype=np.int32), np.int32),
            inputs=inputs,
            outputs=outputs,
        )

    def _pointer(self, linear: structs.Linear) -> Any:
        self._arrays.append(linear)
        return ctypes.pointer(linear)

    def _norm(self, name: str) -> structs.Norm:
        return structs.Norm(
            weight=self._stored(self._floats(f"{name}.weight"), np.float32),
            bias=self._stored(self._floats(f"{name}.bias"), np.float32),
            epsilon=self.config.norm_epsilon,
        )

    def _embedding(self) -> structs.Embedding:
        config = self.config
        return structs.Embedding(
            token=self._stored(self._floats("embedding.token.weight"), np.float32),
            position=self._stored(self._floats("embedding.position.weight"), np.float32),
            type=self._stored(self._floats("embedding.token_type.weight")[0], np.float32),
            norm=self._norm("embedding.norm"),
            size=config.embedding,
            projection=self._pointer(self._linear("embedding.projection")) if config.projection else None,
        )

    def _exit(self, depth: int) -> structs.Exit:
        config = self.config
        name = "exit_zero" if depth == 0 else f"exits.{0 if config.shared_head else depth - 1}"
        pooler = self._floats(f"{name}.pooler.weight")
        hidden, inputs = pooler.shape
        columns = -(-hidden // PANEL) * PANEL
        filled = np.zeros((columns, inputs), np.float32)
        filled[:hidden] = pooler
        return structs.Exit(
            head=structs.Head(
                pooler=self._stored(filled.reshape(-1, PANEL, inputs).transpose(0, 2, 1), np.float32),
                pooler_bias=self._stored(self._floats(f"{name}.pooler.bias"), np.float32),
                classifier=self._stored(self._floats(f"{name}.classifier.weight"), np.float32),
                classifier_bias=self._stored(self._floats(f"{name}.classifier.bias"), np.float32),
                inputs=inputs,
                hidden=hidden,
                classes=config.classes,
            ),
            taps=self._pointer(self._taps()) if depth == 0 and config.depth_zero_filters else None,
            width=config.hidden,
            mean=depth == 0 or config.head == "cls_mean",
        )

    def _taps(self) -> structs.Linear:
        bias = np.zeros((3, self.config.depth_zero_filters), np.float32)
        bias[1] = self._floats("exit_zero.filters.bias")  # once, with the middle token
        return self._packed(self._quantised("exit_zero.filters.taps.weight"), bias.reshape(-1))

    def _quantised(self, name: str) -> Quantised:
        weight = self._weights[name]
        return weight if isinstance(weight, Quantised) else quantise(weight)

    def _floats(self, name: str) -> NDArray[np.float32]:
        return as_float32(self._weights[name])

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
    head = config.hidden // config.heads
    # A padded head may not join values in 16 bits whose sum `model.weights.quantise` has not limited.
    return all(size % LANES == 0 for size in sizes) and (head % LANES == 0 or LANES % head == 0)


def activation_terms(name: str) -> tuple[float, tuple[float, ...]]:
    """Return the polynomial that approximates GELU: v (1/2 + z P(z^2)), z = v clamped; error below 3e-5 (1 + |v|).

    Returns
    -------
    clamp, terms
        The bound of v, and P's coefficients, lowest first.
    """
    return _CLAMP, _ACTIVATION_TERMS[name]


def _padded_heads(rows: NDArray[Scalar], heads: int, size: int, padded: int) -> NDArray[Scalar]:
    filled = np.zeros((heads, padded, rows.shape[1]), rows.dtype)
    filled[:, :size] = rows.reshape(heads, size, -1)
    return filled.reshape(heads * padded, -1)
