"""ACC's contributions with fused attention, without a (T, T) matrix in memory (ours).

A token's contribution is the sum of its softmax column, sum_i exp(s_ij - l_i), where l_i is the log-sum-exp of row i.
Fused attention returns the l_i of a first pass as a by-product. In a second pass queries and keys are swapped and -l_i
is added to the scores: the log-sum-exp over i of s_ij - l_i is the log of the column's sum. That is two passes of two
matmuls each, in memory linear in T, which long texts need on a GPU.

It knows tensors and torch's fused kernels; nothing of layers or of how the contributions are used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: Below this many tokens on a GPU, and always on a CPU, materialising the matrix is cheap enough.
FUSED_FROM = 128
#: Columns appended to queries and keys to add terms to the scores; this many keep the rows aligned. A mask would need
#: alignment too, and could not hold l_i in bfloat16.
_EXTRA_COLUMNS = 8
#: Subtracted from a score to mask it.
_MASK_PENALTY = 1e4


def pays_fused(device: torch.device, tokens: int) -> bool:
    """Return whether `attention_with_contribution` is faster than the full matrix for texts of this many tokens."""
    # Before Ampere the kernel does not support bfloat16.
    return device.type == "cuda" and tokens >= FUSED_FROM and torch.cuda.get_device_capability(device) >= (8, 0)


def attention_with_contribution(q: Tensor, k: Tensor, v: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention's context and each token's contribution (defined in `elbert.context_contribution`).

    Parameters
    ----------
    q, k, v
        (B, H, T, d) each, before any scaling.
    live
        (B, T) bool: False for padding, which counts neither as key nor as query.

    Returns
    -------
    context, contribution
        (B, H, T, d), and (B, T) float32 that sums to 1 over a text's live tokens.
    """
    heads, root = q.shape[1], math.sqrt(q.shape[3])
    dead = ~live[:, None, :].expand(-1, heads, -1)  # (B, H, T)
    ones = torch.ones_like(dead, dtype=torch.float32)
    values = F.pad(v, (0, _EXTRA_COLUMNS))
    context, row_lse = _attend(
        _append_columns(q, ones), _append_columns(k, dead * (-_MASK_PENALTY * root)), values, 1 / root
    )
    # In bfloat16 three terms hold the 24 bits of one float32.
    offset = torch.where(dead, -_MASK_PENALTY, -row_lse) * root
    first = offset.to(q.dtype).float()
    second = (offset - first).to(q.dtype).float()
    keys = _append_columns(q, first, second, offset - first - second)
    _, column_lse = _attend(_append_columns(k, ones, ones, ones), keys, values, 1 / root)
    sums = column_lse.exp().sum(1).masked_fill(~live, 0.0)
    return context[..., : v.shape[3]], sums / (heads * live.sum(-1, keepdim=True))


def _append_columns(states: Tensor, *columns: Tensor) -> Tensor:
    extra = torch.stack(columns, dim=-1).to(states.dtype)  # (B, H, T, columns)
    return torch.cat([states, F.pad(extra, (0, _EXTRA_COLUMNS - len(columns)))], dim=-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the log-sum-exp of each row's scaled scores: (B, H, T, d), (B, H, T) float32.

    torch's public function does not return the second.
    """
    if q.device.type == "cuda":
        context, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, None, compute_log_sumexp=True, scale=scale
        )
        return context, lse[..., : q.shape[2]]  # padded to a multiple of 32
    context, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
    return context, lse
