"""Which precision runs a model fastest on this machine: measured once, and remembered (`tuning`).

Processors differ more than one thinks: bfloat16 is five times as fast as float32 on one and half as fast on another.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from earlybell.inference.backends import int8_weights
from earlybell.inference.backends.int8_weights import QuantisedEncoder
from earlybell.inference.kernels import autotune, build
from earlybell.inference.model.elbert import Config, ElbertForSequenceClassification, Layer

#: By name, what torch computes the layers in; int8 is the compiled kernels' and leaves torch's model as it is.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}
#: A batch of headlines, as the candidates are timed on.
TEXTS, TOKENS = 64, 20


def int8_kernels(config: Config) -> ctypes.CDLL | None:
    """The compiled kernels, if there are any here and they can compute this model."""
    return build.library() if int8_weights.fits(config) else None


def fastest_precision(
    model: ElbertForSequenceClassification, device: torch.device, kernels: ctypes.CDLL | None = None
) -> str:
    """The precision of ``auto``: the same in every process of a machine, whatever is going on there."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    candidates: dict[str, Callable[[], object]] = {
        name: _torch_layer(model.config, PRECISIONS[name]) for name in ("float32", "bfloat16")
    }
    otherwise = "bfloat16" if _multiplies_bfloat16() else "float32"
    if kernels is not None:
        candidates["int8"] = _int8_layer(model, kernels)
        otherwise = "int8" if kernels.earlybell_wide() else otherwise
    shape = model.config.to_json()
    question = {"shape": {name: shape[name] for name in _LAYER}, "torch": torch.__version__}
    return autotune.fastest(candidates, question, otherwise)


#: What a layer's speed hangs on.
_LAYER = ("hidden", "heads", "feed_forward", "activation")


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
    def encoder() -> QuantisedEncoder:
        return QuantisedEncoder(model, kernels)

    return lambda: encoder().deepen(encoder().embed([np.zeros(TOKENS, np.int32)] * TEXTS), 0)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The kernels run one thread a batch; so does torch while the two are compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _multiplies_bfloat16() -> bool:
    return any(one in autotune.processor().split() for one in ("avx512_bf16", "amx_bf16", "bf16"))
