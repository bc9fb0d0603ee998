"""ACC's scores beside fused attention: what each token gives to the others, and no (T, T) matrix in memory (ours).

A token's contribution is the sum of its column of the softmax, sum_i exp(s_ij - l_i), l_i being row i's log-sum-exp.
Fused attention gives the l_i of a first pass on the way. Asked a second time with queries and keys changed over and
-l_i added to the scores, it gives the log-sum-exp over i of s_ij - l_i, which is the log of the column's sum. Two
passes of two products each, and memory for nothing but the rows: what long texts need on a GPU.

It knows tensors and torch's fused kernels; nothing of layers or of what the scores are used for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: Below this many tokens on a GPU, and everywhere on a CPU, the matrix is small enough to be written down.
FUSED_FROM = 128
#: Added to the scores through further columns of queries and keys, as many as keep rows aligned: a mask would have to
#: be aligned too, and in bfloat16 it could not hold l_i.
_FURTHER = 8
#: Scores that much lower are none.
_NOTHING = 1e4


def pays_fused(device: torch.device, tokens: int) -> bool:
    """Whether `attention_with_contribution` is the better way to the scores of texts of this many tokens."""
    # Before Ampere the kernel knows no bfloat16.
    return device.type == "cuda" and tokens >= FUSED_FROM and torch.cuda.get_device_capability(device) >= (8, 0)


def attention_with_contribution(q: Tensor, k: Tensor, v: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Attention, and each token's contribution to it; see `elbert.context_contribution` for what that is.

    Parameters
    ----------
    q, k, v
        (B, H, T, d) each, before any scaling.
    live
        (B, T) bool: nobody attends to the others, and what those say does not count.

    Returns
    -------
    context, contribution
        (B, H, T, d), and (B, T) float32 that sums to 1 over a text's live tokens.
    """
    heads, root = q.shape[1], math.sqrt(q.shape[3])
    dead = ~live[:, None, :].expand(-1, heads, -1)  # (B, H, T)
    one = torch.ones_like(dead, dtype=torch.float32)
    values = F.pad(v, (0, _FURTHER))
    context, row = _attend(_with(q, one), _with(k, dead * (-_NOTHING * root)), values, 1 / root)
    # In bfloat16 three terms hold the 24 bits of one number.
    added = torch.where(dead, -_NOTHING, -row) * root
    first = added.to(q.dtype).float()
    second = (added - first).to(q.dtype).float()
    _, column = _attend(_with(k, one, one, one), _with(q, first, second, added - first - second), values, 1 / root)
    sums = column.exp().sum(1).masked_fill(~live, 0.0)
    return context[..., : v.shape[3]], sums / (heads * live.sum(-1, keepdim=True))


def _with(states: Tensor, *columns: Tensor) -> Tensor:
    further = torch.stack(columns, dim=-1).to(states.dtype)  # (B, H, T, columns)
    return torch.cat([states, F.pad(further, (0, _FURTHER - len(columns)))], dim=-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention, and the natural log-sum-exp of each row's scaled scores: (B, H, T, d), (B, H, T) float32.

    torch's public function keeps the second to itself.
    """
    if q.device.type == "cuda":
        context, row, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, None, compute_log_sumexp=True, scale=scale
        )
        return context, row[..., : q.shape[2]]  # it comes in multiples of 32
    context, row = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
    return context, row
