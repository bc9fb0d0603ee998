"""What crosses from Python into the compiled kernels: structures, constants and function prototypes.

`int8.h`, `form.h` and `wordpiece.h` declare the same; `check` compares the two when the library is loaded.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Values of a vector, columns of a panel of weights, queries of a strip, terms of the activation's polynomial, and
#: texts whose pooled states are kept at a time: as in `int8.h`.
LANES, PANEL, STRIP, TERMS, EXIT_TEXTS, GROUP, GROUP_LIMIT = 16, 64, 32, 9, 24, 16, 128


class Linear(Structure):
    """A matrix of 8-bit weights."""

    _fields_ = [("weight", c_void_p), ("scale", c_void_p), ("bias", c_void_p), ("column_sums", c_void_p),
                ("inputs", c_int64), ("outputs", c_int64)]  # fmt: skip


class Norm(Structure):
    """A layer norm."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("epsilon", c_float)]


class Layer(Structure):
    """A transformer layer."""

    _fields_ = [("qkv", Linear), ("attention_out", Linear), ("feed_forward_in", Linear),
                ("feed_forward_out", Linear), ("attention_norm", Norm), ("feed_forward_norm", Norm),
                ("heads", c_int64), ("head_size", c_int64), ("attention_scale", c_float), ("activation", c_int64),
                ("activation_clamp", c_float), ("activation_terms", c_float * TERMS)]  # fmt: skip


class Embedding(Structure):
    """Token, position and type embeddings; ``projection`` is null if they are as wide as the model."""

    _fields_ = [("token", c_void_p), ("position", c_void_p), ("type", c_void_p), ("norm", Norm), ("size", c_int64),
                ("projection", POINTER(Linear))]  # fmt: skip


class Head(Structure):
    """The float32 part of an exit."""

    _fields_ = [("pooler", c_void_p), ("pooler_bias", c_void_p), ("classifier", c_void_p),
                ("classifier_bias", c_void_p), ("inputs", c_int64), ("hidden", c_int64),
                ("classes", c_int64)]  # fmt: skip


class Exit(Structure):
    """An exit; ``taps`` is null if it reads no features of neighbouring tokens."""

    _fields_ = [("head", Head), ("taps", POINTER(Linear)), ("width", c_int64), ("mean", c_int64)]


class ExitRule(Structure):
    """An `exit_rule.ExitRule`."""

    _fields_ = [("threshold", c_float), ("margin", c_float), ("max_entropy", c_float), ("window_rule", c_int64),
                ("window", c_int64)]  # fmt: skip


class WindowState(Structure):
    """What each text's confidence window remembers."""

    _fields_ = [("run", c_void_p), ("label", c_void_p), ("lead", c_void_p)]


class Model(Structure):
    """A model, its exits and the rule that texts exit by."""

    _fields_ = [("embedding", POINTER(Embedding)), ("layers", POINTER(c_void_p)), ("exits", POINTER(c_void_p)),
                ("temperatures", POINTER(c_float)), ("sharpening", POINTER(c_float)), ("rule", ExitRule),
                ("depths", c_int64), ("inner_layers", c_int64), ("hidden", c_int64), ("classes", c_int64),
                ("batch_tokens", c_int64), ("first_exit", c_int64)]  # fmt: skip


class Batch(Structure):
    """The state of one batch."""

    _fields_ = [("hidden", c_void_p), ("lengths", c_void_p), ("origin", c_void_p), ("keep", c_void_p),
                ("window", WindowState), ("probabilities", c_void_p), ("stays", c_void_p)]  # fmt: skip


class Workspace(Structure):
    """Intermediate values of one thread."""

    _fields_ = [("wide", c_void_p), ("bytes", c_void_p), ("scale", c_void_p), ("zero_point", c_void_p),
                ("queries", c_void_p), ("keys", c_void_p), ("values", c_void_p), ("scores", c_void_p),
                ("contribution", c_void_p), ("selected", c_void_p), ("pooled", c_void_p),
                ("tile_tokens", c_int64)]  # fmt: skip


class Tokenizer(Structure):
    """A word-piece tokenizer, and how much of a text is read."""

    _fields_ = [("text", c_char_p), ("offset", c_void_p), ("index", c_void_p), ("special", c_char_p),
                ("special_id", c_void_p), ("special_offset", c_void_p), ("pieces", c_int64), ("slots", c_int64),
                ("specials", c_int64), ("unknown", c_int64), ("first", c_int64), ("last", c_int64),
                ("max_tokens", c_int64), ("head_tokens", c_int64), ("max_characters", c_int64)]  # fmt: skip


#: The functions of a form, in the order of ``struct form``: the types of the result and of the arguments, a pointer to
#: an array being a ``c_void_p``. They hold no interpreter lock.
FUNCTIONS = {
    "forward": CFUNCTYPE(None, POINTER(Model), c_void_p, c_void_p, c_int64, c_void_p, POINTER(Batch),
                         POINTER(Workspace), c_void_p, c_void_p, c_void_p),
    "embed": CFUNCTYPE(None, POINTER(Embedding), c_void_p, c_void_p, c_int64, c_void_p, POINTER(Workspace)),
    "layer": CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_int64, c_void_p, POINTER(Workspace)),
    "exit": CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_int64, c_void_p, POINTER(Workspace)),
    "softmax": CFUNCTYPE(None, c_void_p, c_int64, c_int64, c_float, c_float),
    "decide": CFUNCTYPE(None, POINTER(ExitRule), c_void_p, c_int64, c_int64, c_int64, POINTER(WindowState), c_void_p),
    "compact": CFUNCTYPE(c_int64, c_void_p, c_void_p, c_int64, c_int64, c_void_p),
}  # fmt: skip


class Form(Structure):
    """A form of the kernels, and what it needs of the processor."""

    _fields_ = [("name", c_char_p), ("needs", c_int64), *FUNCTIONS.items()]


_STRUCTURES = (
    Linear, Norm, Layer, Embedding, Head, Exit, ExitRule, WindowState, Model, Batch, Workspace, Tokenizer, Form,
)  # fmt: skip
_CONSTANTS = {
    "LANES": LANES,
    "PANEL": PANEL,
    "STRIP": STRIP,
    "TERMS": TERMS,
    "EXIT_TEXTS": EXIT_TEXTS,
    "GROUP": GROUP,
    "GROUP_LIMIT": GROUP_LIMIT,
}
#: Of the library itself, as above.
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "earlybell_form": (POINTER(Form), [c_int64, POINTER(c_int32)]),
    "earlybell_layout": (None, [c_void_p]),
    "earlybell_index": (None, [POINTER(Tokenizer)]),
    "earlybell_read": (None, [POINTER(Tokenizer), c_char_p, c_int64, c_void_p, c_int64, c_void_p, c_void_p, c_void_p]),
}


def check(library: ctypes.CDLL) -> None:
    """Declare the functions of a library that was just loaded, and compare its layout with ours.

    Raises
    ------
    RuntimeError
        A structure or constant differs: the library was compiled from other sources.
    """
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    ours = {structure.__name__: ctypes.sizeof(structure) for structure in _STRUCTURES} | _CONSTANTS
    compiled = np.empty(len(ours), np.int64)
    library.earlybell_layout(address(compiled))
    for (name, expected), actual in zip(ours.items(), compiled.tolist(), strict=True):
        if expected != actual:
            raise RuntimeError(f"the compiled kernels do not match structs.py: {name} is {actual}, not {expected}")


def aligned(count: int, dtype: Any) -> NDArray[Any]:
    """Return an uninitialised array that starts on a cache line."""
    size = np.dtype(dtype).itemsize
    buffer = np.empty(count * size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + count * size].view(dtype)


def address(array: NDArray[Any]) -> int:
    """Return the address of an array's first element."""
    return array.ctypes.data
