"""The roofline of a model on a device: operations and bytes of a text, and what the device can do of each a second.

Source: Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785. Operations and bytes are counted from the
model's shape, the two peaks are measured. It knows shapes and tensors; nothing of engines or texts' words.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.model.elbert import Config

#: Bytes of a number in bfloat16.
NUMBER = 2
LAPS = 7


def operations(config: Config, tokens: NDArray[np.int32], depth: NDArray[np.int16]) -> NDArray[np.float64]:
    """(texts,) multiplications and additions of the products that each text takes; exit heads' vectors are left out."""
    n, h = tokens.astype(np.float64), config.hidden
    layer = n * (8 * h**2 + 4 * h * config.feed_forward) + 4 * n**2 * h
    before = n * 2 * config.embedding * h if config.projection else 0.0
    if config.depth_zero:
        before = before + n * 2 * h * 3 * config.depth_zero_filters
    return layer * depth * config.inner_layers + before


def moved(
    config: Config, tokens: NDArray[np.int32], depth: NDArray[np.int16], batch_tokens: int, *, fused: bool
) -> NDArray[np.float64]:
    """(texts,) bytes through the device's memory in bfloat16, weights shared among a batch.

    Parameters
    ----------
    batch_tokens
        Tokens that share one reading of a layer's weights.
    fused
        The least there could be: a layer reads and writes its states once. Else as the kernels stand, each of which
        reads and writes its own: the four products, attention, two sums, two norms, the activation, and the gathering
        and scattering of slots.
    """
    h, wide = config.hidden, config.feed_forward
    states = 2 * h if fused else 26 * h + 4 * wide
    weights = (4 * h**2 + 2 * h * wide) / batch_tokens
    a_layer = NUMBER * (states + weights) * config.inner_layers
    embedded = NUMBER * 2 * config.embedding
    return tokens.astype(np.float64) * (a_layer * depth + embedded)


def peaks(device: torch.device, size: int) -> dict[str, float]:
    """Operations a second of a square bfloat16 product of this size; bytes a second of a copy of 16 such matrices."""
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.zeros(16 * size * size, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product = _seconds(device, lambda: torch.matmul(a, b, out=out))
        copy = _seconds(device, lambda: target.copy_(source))
    return {
        "operations_per_second": 2.0 * size**3 / product,
        "bytes_per_second": 2.0 * source.numel() * NUMBER / copy,
    }


def product_peak(device: torch.device, config: Config, rows: int) -> float:
    """Operations a second of a layer's widest product at the shape that a batch has: what is within reach of it."""
    x = torch.randn(rows, config.hidden, device=device).to(torch.bfloat16)
    weight = torch.randn(config.feed_forward, config.hidden, device=device).to(torch.bfloat16)
    with torch.inference_mode():
        seconds = _seconds(device, lambda: torch.nn.functional.linear(x, weight))
    return 2.0 * rows * config.hidden * config.feed_forward / seconds


def reached(
    config: Config,
    tokens: NDArray[np.int32],
    depth: NDArray[np.int16],
    batch_tokens: int,
    speed: float,
    device_peaks: dict[str, float],
) -> dict[str, float]:
    """The limits in texts/s that the two peaks set, and the share of each that this speed is."""
    work = float(operations(config, tokens, depth).mean())
    found = {"operations_per_text": work, "limit_by_operations": device_peaks["operations_per_second"] / work}
    for name, fused in (("as_it_stands", False), ("least", True)):
        amount = float(moved(config, tokens, depth, batch_tokens, fused=fused).mean())
        found[f"bytes_per_text_{name}"] = amount
        found[f"limit_by_bytes_{name}"] = device_peaks["bytes_per_second"] / amount
    limits = {name: limit for name, limit in found.items() if name.startswith("limit_by_")}
    return found | {name.replace("limit_by", "reached_of"): speed / limit for name, limit in limits.items()}


def _seconds(device: torch.device, step: Callable[[], object]) -> float:
    """Of one step, so many queued at once that launching them does not count; the median of several laps."""
    steps = 20 if device.type == "cuda" else 2
    for _ in range(3):
        step()
    laps = []
    for _ in range(LAPS):
        _wait(device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        _wait(device)
        laps.append((time.perf_counter() - began) / steps)
    return statistics.median(laps)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
