"""Which precision runs a model fastest on this machine: measured once and remembered (`kernels.autotune`).

Processors differ widely: bfloat16 is five times as fast as float32 on one and half as fast on another.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from earlybell.inference.backends import int8_weights
from earlybell.inference.backends.int8 import Int8Backend
from earlybell.inference.backends.int8_weights import Int8Weights
from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.kernels import autotune, build
from earlybell.inference.model.elbert import Config, ElbertForSequenceClassification, Layer

#: What torch computes the layers in, by precision; int8 uses the compiled kernels and leaves torch's model as it is.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}
#: A batch of headlines, on which the candidates are timed.
TEXTS, TOKENS = 64, 20
#: What the speed of a layer depends on.
_LAYER_SHAPE = ("hidden", "heads", "feed_forward", "activation")


def int8_kernels(config: Config) -> ctypes.CDLL | None:
    """Return the compiled kernels, or None if there are none or they do not support this model."""
    return build.library() if int8_weights.is_supported(config) else None


def fastest_precision(
    model: ElbertForSequenceClassification, device: torch.device, kernels: ctypes.CDLL | None = None
) -> str:
    """Return the precision that ``auto`` stands for: the same in every process of a machine, under any load."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    candidates: dict[str, Callable[[], object]] = {
        name: _torch_layer(model.config, PRECISIONS[name]) for name in ("float32", "bfloat16")
    }
    fallback = "bfloat16" if _multiplies_bfloat16() else "float32"
    if kernels is not None:
        candidates["int8"] = _int8_layer(model, kernels)
        fallback = "int8" if build.form(kernels) != "portable" else fallback
    shape = model.config.to_json()
    question = {
        "shape": {name: shape[name] for name in _LAYER_SHAPE},
        "torch": torch.__version__,
        "kernels": build.form(kernels) if kernels is not None else None,
    }
    return autotune.fastest(candidates, question, fallback)


def _torch_layer(config: Config, dtype: torch.dtype) -> Callable[[], object]:
    @functools.cache
    def layer() -> Layer:  # made only if something is measured
        return Layer(config).to(dtype).eval()

    def run() -> None:
        x = torch.zeros(TEXTS, TOKENS, config.hidden, dtype=dtype)
        with torch.inference_mode(), _one_thread():
            layer()(x, torch.ones(TEXTS, TOKENS, dtype=torch.bool))

    return run


def _int8_layer(model: ElbertForSequenceClassification, kernels: ctypes.CDLL) -> Callable[[], object]:
    @functools.cache
    def backend() -> Int8Backend:
        temperatures = np.ones(len(model.config.depths), np.float32)
        return Int8Backend(kernels, Int8Weights(model), ExitRule(), temperatures, 1.0, TEXTS * TOKENS)

    return lambda: backend().run([np.zeros(TOKENS, np.int32)] * TEXTS, depth=1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hold torch to one thread, as the kernels use one per batch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _multiplies_bfloat16() -> bool:
    return any(extension in autotune.processor().split() for extension in ("avx512_bf16", "amx_bf16", "bf16"))
