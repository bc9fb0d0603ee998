"""The roofline of a model on a device: operations and bytes per text, and the device's peak of each per second.

Source: Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785. Operations and bytes are counted from the
model's shape; the two peaks are measured. This module knows shapes and tensors; nothing of engines or words.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.model.config import Config

#: Bytes of a bfloat16 value.
VALUE_BYTES = 2
LAPS = 7


def operations(config: Config, tokens: NDArray[np.int32], depth: NDArray[np.int16]) -> NDArray[np.float64]:
    """Return the multiplications and additions in each text's matrix products: (texts,).

    The exit heads are left out, except for the filters at depth 0.
    """
    n, h = tokens.astype(np.float64), config.hidden
    layer = n * (8 * h**2 + 4 * h * config.feed_forward) + 4 * n**2 * h
    fixed = n * 2 * config.embedding * h if config.projection else 0.0
    if config.depth_zero:
        fixed = fixed + n * 2 * h * 3 * config.depth_zero_filters
    return layer * depth * config.inner_layers + fixed


def bytes_moved(
    config: Config, tokens: NDArray[np.int32], depth: NDArray[np.int16], batch_tokens: int, *, fused: bool
) -> NDArray[np.float64]:
    """Return the bytes that each text moves through the device's memory in bfloat16: (texts,).

    Parameters
    ----------
    batch_tokens
        Tokens that share one read of a layer's weights.
    fused
        Count the minimum: a layer reads and writes its states once. Otherwise count each kernel's own reads and writes:
        the four products, attention, two sums, two norms, the activation, and the gather and scatter of slots.
    """
    h, feed_forward = config.hidden, config.feed_forward
    states = 2 * h if fused else 26 * h + 4 * feed_forward
    weights = (4 * h**2 + 2 * h * feed_forward) / batch_tokens
    per_depth = VALUE_BYTES * (states + weights) * config.inner_layers
    embedding = VALUE_BYTES * 2 * config.embedding
    return tokens.astype(np.float64) * (per_depth * depth + embedding)


def peaks(device: torch.device, size: int) -> dict[str, float]:
    """Measure operations/s of a square bfloat16 product of this size, and bytes/s of copying 16 such matrices."""
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.zeros(16 * size * size, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product_s = _seconds(device, lambda: torch.matmul(a, b, out=out))
        copy_s = _seconds(device, lambda: target.copy_(source))
    return {
        "operations_per_second": 2.0 * size**3 / product_s,
        "bytes_per_second": 2.0 * source.numel() * VALUE_BYTES / copy_s,
    }


def product_peak(device: torch.device, config: Config, rows: int) -> float:
    """Measure operations/s of a layer's widest product for a batch of ``rows`` tokens: a realistic peak."""
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
    """Return the limits in texts/s that the two peaks set, and the share of each that ``speed`` texts/s reach."""
    per_text = float(operations(config, tokens, depth).mean())
    figures = {"operations_per_text": per_text, "limit_by_operations": device_peaks["operations_per_second"] / per_text}
    for name, fused in (("as_it_stands", False), ("least", True)):
        size = float(bytes_moved(config, tokens, depth, batch_tokens, fused=fused).mean())
        figures[f"bytes_per_text_{name}"] = size
        figures[f"limit_by_bytes_{name}"] = device_peaks["bytes_per_second"] / size
    limits = {name: limit for name, limit in figures.items() if name.startswith("limit_by_")}
    return figures | {name.replace("limit_by", "reached_of"): speed / limit for name, limit in limits.items()}


def _seconds(device: torch.device, step: Callable[[], object]) -> float:
    """Return the median seconds of a step; enough are queued at a time to hide the cost of launching them."""
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
