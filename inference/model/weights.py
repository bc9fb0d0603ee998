"""A model's weights as plain arrays, by the names that `elbert` gives them, and their int8 form in memory and on disk.

A weight is an array, or `Quantised`: signed bytes with a scale for each row. ``int8.safetensors`` holds exactly what
the int8 kernels serve: their matrices and the token embedding quantised, everything else in float32. It knows shapes
and files; nothing of tensors, kernels or the layout that they read.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from earlybell.errors import UserError
from earlybell.inference.kernels.structs import GROUP, GROUP_LIMIT
from earlybell.inference.model.config import Config

INT8_FILE = "int8.safetensors"
#: One key: safetensors writes several in any order, and the same weights are to be the same file.
INT8_FORMAT = {"format": "elbert-int8-1"}
#: Values lie in [-127, 127]: a byte's -128 has no opposite.
LIMIT = 127
TOKEN_EMBEDDING = "embedding.token.weight"
#: The matrices that the kernels multiply in int8.
_MATRICES = re.compile(
    r"layers\.\d+\.\d+\.(qkv|attention_out|feed_forward_in|feed_forward_out)\.weight"
    r"|embedding\.projection\.weight|exit_zero\.filters\.taps\.weight"
)
_SCALE = ".scale"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another kind. The message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """A matrix in signed bytes: row r is ``values[r] * scale[r]``."""

    values: NDArray[np.int8]  # (rows, columns)
    scale: NDArray[np.float32]  # (rows,), positive

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.values.shape

    def floats(self) -> NDArray[np.float32]:
        """Return the matrix in float32."""
        return self.values * self.scale[:, None]


Weights: TypeAlias = Mapping[str, NDArray[Any] | Quantised]


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every weight of a model, in the order of `elbert`."""
    h, e, f = config.hidden, config.embedding, config.depth_zero_filters
    found: dict[str, tuple[int, ...]] = {
        TOKEN_EMBEDDING: (config.vocabulary, e),
        "embedding.position.weight": (config.positions, e),
        "embedding.token_type.weight": (config.token_types, e),
        "embedding.norm.weight": (e,),
        "embedding.norm.bias": (e,),
    }

    def linear(name: str, inputs: int, outputs: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def head(name: str, inputs: int) -> None:
        linear(f"{name}.pooler", inputs, config.head_hidden)
        linear(f"{name}.classifier", config.head_hidden, config.classes)

    if config.projection:
        linear("embedding.projection", e, h)
    for group in range(config.groups):
        for inner in range(config.inner_layers):
            layer = f"layers.{group}.{inner}"
            linear(f"{layer}.qkv", h, 3 * h)
            linear(f"{layer}.attention_out", h, h)
            found[f"{layer}.attention_norm.weight"] = found[f"{layer}.attention_norm.bias"] = (h,)
            linear(f"{layer}.feed_forward_in", h, config.feed_forward)
            linear(f"{layer}.feed_forward_out", config.feed_forward, h)
            found[f"{layer}.feed_forward_norm.weight"] = found[f"{layer}.feed_forward_norm.bias"] = (h,)
    for index in range(1 if config.shared_head else config.layers):
        head(f"exits.{index}", 2 * h if config.head == "cls_mean" else h)
    if config.depth_zero:
        if f:
            found |= {"exit_zero.filters.bias": (f,), "exit_zero.filters.taps.weight": (3 * f, h)}
        head("exit_zero", 2 * h + 2 * f)
    return found


def parameters(config: Config) -> int:
    """Return how many numbers the weights of a model are."""
    return sum(math.prod(shape) for shape in shapes(config).values())


def quantise(weight: NDArray[Any], *, multiplied: bool = True) -> Quantised:
    """Round a matrix to signed bytes, with the smallest scale for each row that keeps them within the limits.

    A matrix that is ``multiplied`` keeps to one more limit, so that every processor multiplies it exactly. AVX2 and
    AVX-512 without VNNI add products with unsigned bytes in 16 bits: two of neighbouring columns in the multiplication
    itself, then four such pairs before they are widened. That cannot overflow if, in each 16 columns, the positive
    values of the first two of every four sum to at most 128, the negative ones too, and likewise those of the last
    two: 255 * 128 < 2^15. It costs less precision than limiting each value to 64, which lets no more than two products
    be added (docs/experiments.md).
    """
    weight = as_float32(weight)
    scale = np.abs(weight).max(1) / np.float32(LIMIT)
    if multiplied:
        scale = np.maximum(scale, _largest_sum(weight) / np.float32(GROUP_LIMIT))
    scale[scale == 0] = 1.0
    values = np.rint(weight / scale[:, None])
    rows = np.arange(len(weight) if multiplied else 0)
    while len(rows := rows[_largest_sum(values[rows]) > GROUP_LIMIT]):  # rounding up went beyond the limit
        scale[rows] *= np.float32(1.002)
        values[rows] = np.rint(weight[rows] / scale[rows, None])
    return Quantised(values.astype(np.int8), scale)


def _largest_sum(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return, for each row, the largest sum of values of one sign that are added in 16 bits."""
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % GROUP)))
    positive = np.maximum(padded, 0)
    # In an order of our own: that in which NumPy sums along an axis depends on the processor.
    pairs = positive[:, 0::2] + positive[:, 1::2]
    both = padded[:, 0::2] + padded[:, 1::2]
    sums = []
    for half in (0, 1):
        of_half = [slice(half + pair, None, 8) for pair in (0, 2, 4, 6)]
        up, total = (sum(values[:, columns] for columns in of_half) for values in (pairs, both))
        sums.append(np.maximum(up, up - total).max(1))  # positive ones, and negative ones without their sign
    largest: NDArray[np.float32] = np.maximum(*sums)
    return largest


def quantised(weights: Weights) -> dict[str, NDArray[Any] | Quantised]:
    """Return the weights as `write_int8` stores them. What is quantised already stays as it is."""
    stored: dict[str, NDArray[Any] | Quantised] = {}
    for name, value in weights.items():
        if isinstance(value, Quantised):
            stored[name] = value
        elif is_quantised(name):
            stored[name] = quantise(value, multiplied=name != TOKEN_EMBEDDING)
        else:
            stored[name] = as_float32(value)
    return stored


def as_float32(value: NDArray[Any] | Quantised) -> NDArray[np.float32]:
    """Return a weight in float32."""
    if isinstance(value, Quantised):
        return value.floats()
    if value.dtype == np.float16:
        # A look-up is many times as fast as numpy's own conversion on a processor that numpy has none for.
        return _every_float16()[value.view(np.uint16)]
    return value.astype(np.float32, copy=False)


@functools.cache
def _every_float16() -> NDArray[np.float32]:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def write_int8(weights: Weights, directory: Path) -> None:
    """Write ``int8.safetensors``; `read_int8` returns the same bits. Weights in floating point are quantised."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in quantised(weights).items():
        if isinstance(value, Quantised):
            arrays[name], arrays[name + _SCALE] = value.values, value.scale
        else:
            arrays[name] = value
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, directory / INT8_FILE, metadata=INT8_FORMAT)


def read_int8(directory: Path, config: Config) -> dict[str, NDArray[Any] | Quantised]:
    """Read and check ``int8.safetensors``.

    Raises
    ------
    CheckpointError
        It is damaged, or not of a model of this configuration.
    """
    file = directory / INT8_FILE
    arrays = read_arrays(file)
    weights: dict[str, NDArray[Any] | Quantised] = {}
    for name in shapes(config):
        value = arrays.pop(name, None)
        if value is None:
            raise CheckpointError(f"{file} lacks {name}")
        if value.dtype != (np.int8 if is_quantised(name) else np.float32):
            raise CheckpointError(f"{file}: {name} is of type {value.dtype}")
        if is_quantised(name):
            scale = arrays.pop(name + _SCALE, np.empty(0, np.float32))
            if scale.shape != value.shape[:1] or scale.dtype != np.float32 or not bool((scale > 0).all()):
                raise CheckpointError(f"{file}: {name} needs a positive scale for each row")
            if value.min() < -LIMIT:
                raise CheckpointError(f"{file}: {name} has values beyond {LIMIT}")
            if name != TOKEN_EMBEDDING and _largest_sum(value.astype(np.float32)).max() > GROUP_LIMIT:
                raise CheckpointError(f"{file}: {name} would overflow 16 bits: quantise the model again")
            weights[name] = Quantised(value, scale)
        else:
            weights[name] = value
    if arrays:
        raise CheckpointError(f"{file} has {next(iter(arrays))}, which the model has not")
    check(config, weights, file)
    return weights


def check(config: Config, weights: Weights, file: Path) -> None:
    """Raise `CheckpointError` unless these are all the weights of a model of this shape, every one of them finite."""
    for name, shape in shapes(config).items():
        value = weights.get(name)
        if value is None:
            part = "the weights of an exit" if name.startswith("exit") else "a weight"
            raise CheckpointError(f"{file} lacks {part} ({name}): train it first")
        if value.shape != shape:
            raise CheckpointError(f"{file}: {name} has the shape {value.shape}, but the model needs {shape}")
        if not _finite(value.scale if isinstance(value, Quantised) else value):
            raise CheckpointError(f"{file}: {name} has values that are not numbers, or infinite")


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file; bfloat16, which numpy lacks, as float32. Raise `CheckpointError` if it is none."""
    if not file.is_file():
        raise CheckpointError(f"no weights at {file} (only safetensors are read, never pickles)")
    try:
        try:
            return load_file(file)
        except TypeError:  # numpy has no bfloat16
            stored = safetensors.deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
            return {name: _array(tensor) for name, tensor in stored}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or not a safetensors file: {error}") from error
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{file} holds a type of number that cannot be read: {error}") from error


def _array(tensor: Mapping[str, Any]) -> NDArray[Any]:
    if tensor["dtype"] == "BF16":
        bits = np.frombuffer(tensor["data"], np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(tensor["shape"])
    dtype = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64}[tensor["dtype"]]
    return np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])


def is_quantised(name: str) -> bool:
    """Whether a weight of this name is served in int8."""
    return name == TOKEN_EMBEDDING or _MATRICES.fullmatch(name) is not None


def _finite(value: NDArray[Any]) -> bool:
    if value.dtype == np.float16:  # an exponent of all ones; numpy's own check is far slower
        return not bool(((value.view(np.uint16) & 0x7C00) == 0x7C00).any())
    return bool(np.isfinite(value).all())
