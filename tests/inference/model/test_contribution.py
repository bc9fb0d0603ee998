from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earlybell.inference.model import elbert
from earlybell.inference.model.contribution import FUSED_FROM, attention_with_contribution, pays_fused
from earlybell.inference.model.elbert import context_contribution
from tests.inference.tiny_models import outspoken, tiny

CPU = torch.device("cpu")
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def states(lengths: list[int], heads: int, size: int, sharp: float, device: torch.device = CPU) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(len(lengths) * heads)
    shape = (len(lengths), heads, max(lengths), size)
    q, k, v = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
    live = torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]
    return q * sharp, k, v, live


def materialised(q: Tensor, k: Tensor, v: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    scores = (q.double() @ k.double().transpose(-1, -2)) / math.sqrt(q.shape[-1])
    attention = scores.masked_fill(~live[:, None, None, :], -torch.inf).softmax(-1)
    return attention @ v.double(), context_contribution(attention, live)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=5),
    heads=st.sampled_from([1, 3]),
    size=st.sampled_from([8, 32, 64]),
    sharp=st.sampled_from([0.0, 1.0, 10.0]),
)
def test_it_equals_the_materialised_matrix(
    device: torch.device, lengths: list[int], heads: int, size: int, sharp: float
) -> None:
    q, k, v, live = states(lengths, heads, size, sharp, device)
    context, contribution = attention_with_contribution(q, k, v, live)
    expected_context, expected = materialised(q, k, v, live)
    rows = live[:, None, :, None]  # the context of padding is never used
    assert ((context - expected_context) * rows).abs().max() < 1e-4
    assert (contribution - expected).abs().max() < 1e-5
    assert (contribution * ~live == 0).all()
    assert torch.allclose(contribution.sum(1), torch.ones(len(lengths), device=device), atol=1e-4)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_bfloat16_contributions_are_as_precise_as_the_states(device: torch.device) -> None:
    q, k, v, live = states([180, 130, 17], heads=12, size=32, sharp=4.0, device=device)
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    context, contribution = attention_with_contribution(q, k, v, live)
    expected_context, expected = materialised(q, k, v, live)
    assert context.dtype == torch.bfloat16
    assert ((context - expected_context) * live[:, None, :, None]).abs().max() < 0.03
    assert (contribution / expected.clamp_min(1e-9) - 1)[live].abs().max() < 2e-3


def test_a_pruning_layer_gives_the_same_logits_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = outspoken(tiny(), seed=1)
    ids = torch.randint(5, 64, (6, 100), generator=torch.Generator().manual_seed(2))
    live = torch.arange(100) < torch.tensor([100, 70, 41, 9, 2, 1])[:, None]
    keep = (live.sum(1, keepdim=True) * torch.tensor([0.8, 0.6, 0.4, 0.2])).ceil().long()
    with torch.inference_mode():
        expected = model(ids, live, keep)
        calls: list[int] = []
        monkeypatch.setattr(elbert, "pays_fused", lambda device, tokens: not calls.append(tokens))  # type: ignore[func-returns-value]
        fused = model(ids, live, keep)
    assert calls == [100, *keep.max(0).values[:-1].tolist()]
    assert (fused - expected).abs().max() < 1e-3


def test_a_cpu_uses_the_matrix_as_calibrated() -> None:
    assert not pays_fused(CPU, 512)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_uses_fused_attention_for_long_texts() -> None:
    device = torch.device("cuda")
    assert pays_fused(device, FUSED_FROM) == (torch.cuda.get_device_capability() >= (8, 0))
    assert not pays_fused(device, FUSED_FROM - 1)
