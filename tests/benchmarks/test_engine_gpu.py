"""Test what the GPU benchmark counts and computes, on a CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from earlybell.inference.batching.strategies import STRATEGIES
from earlybell.inference.early_exit.confidence_window import exit_depths
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.engine import Engine
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import Layer
from tests.benchmarks import albert_base, engine_gpu, gpu_roofline


def test_temperatures_give_each_exit_the_wanted_share() -> None:
    logits = torch.randn(2_000, 5, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    shares = np.array([0.4, 0.25, 0.0, 0.2, 0.15])
    temperatures = torch.tensor(albert_base.temperatures_for_shares(logits, shares))
    depths = exit_depths((logits / temperatures[:, None]).softmax(-1), ExitRule(albert_base.THRESHOLD), 0)
    assert (torch.bincount(depths, minlength=5) / 2_000).numpy() == pytest.approx(shares, abs=0.001)


def test_an_untrained_model_exits_by_the_wanted_shares() -> None:
    config = replace(albert_base.SHAPE, layers=3, hidden=48, feed_forward=96)
    texts = [f"share no. {n} {'rises and ' * (n % 7)}falls by {n % 13} per cent" for n in range(60)]

    def open_engine(dial: float, temperatures: list[float] | None = None) -> Engine:
        checkpoint = albert_base.untrained(config)
        if temperatures is not None:
            checkpoint = albert_base.with_exits(checkpoint, temperatures)
        return Engine(checkpoint, device="cpu", dial=dial, precision="float32", strategy="refill")

    full_depth = open_engine(0.0)
    assert set(full_depth.score(texts).exit_depth.tolist()) == {3}
    log_probabilities = albert_base.log_probabilities(full_depth, texts)
    temperatures = albert_base.temperatures_for_shares(log_probabilities, np.array([0.5, 0.3, 0.2, 0.0]))
    depths = open_engine(1.0, temperatures).score(texts).exit_depth
    assert np.bincount(depths, minlength=4).tolist() == pytest.approx([30, 18, 12, 0], abs=2)


@pytest.mark.parametrize("tokens", [4, 24])
def test_operations_agree_with_torchs_flop_counter(tokens: int) -> None:
    config = Config(hidden=48, embedding=48, heads=4, feed_forward=96, layers=3, depth_zero=False)
    layer = Layer(config).train()  # in training attention is not fused, so all of it is counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.zeros(1, tokens, 48), torch.ones(1, tokens, dtype=torch.bool))
    operations = gpu_roofline.operations(config, np.array([tokens], np.int32), np.array([3], np.int16))
    assert operations.tolist() == [3 * counter.get_total_flops()]


def test_fused_layers_and_larger_batches_move_fewer_bytes() -> None:
    tokens, depth = np.array([20], np.int32), np.array([6], np.int16)
    small_batch, small_batch_fused, large_batch = (
        float(gpu_roofline.bytes_moved(albert_base.SHAPE, tokens, depth, batch_tokens, fused=fused)[0])
        for batch_tokens, fused in ((1_024, False), (1_024, True), (65_536, False))
    )
    assert small_batch_fused < large_batch < small_batch


def test_ratios_are_over_the_fastest_peer() -> None:
    speeds = {f"earlybell_{name}": 10.0 for name in STRATEGIES}
    speeds |= {"earlybell_refill": 1_000.0, "albert_base_full_depth": 50.0, "albert_base_with_exits": 80.0}
    speeds |= {"bert_base_batch1_bfloat16": 4.0, "bert_base_batch1_float16": 5.0}
    speeds |= {"bert_base_batch32_bfloat16": 20.0, "bert_base_batch256_float16": 25.0}
    ratios = engine_gpu.ratios({name: {"texts_per_second": speed} for name, speed in speeds.items()})
    assert ratios["gpu_texts_per_second"] == 1_000
    assert ratios["gpu_vs_bert_base_batch1"] == 200
    assert ratios["gpu_vs_bert_base_batched_best"] == 40
    assert ratios["gpu_albert_base_full_depth_vs_bert_base_batched_best"] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_benchmark_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_gpu, "SMALL", False)
    assert "no CUDA device" in (engine_gpu.missing() or "")
    monkeypatch.setattr(engine_gpu, "SMALL", True)
    assert engine_gpu.missing() is None
