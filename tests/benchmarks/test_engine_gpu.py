"""What the GPU's benchmark counts and draws, on a CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from earlybell.inference.batching.strategies import STRATEGIES
from earlybell.inference.early_exit.confidence_window import ExitRule, exit_depths
from earlybell.inference.engine import Engine
from earlybell.inference.model.elbert import Config, Layer
from tests.benchmarks import albert_base, engine_gpu, gpu_roofline


def test_temperatures_are_drawn_so_that_as_many_leave_as_wanted() -> None:
    said = torch.randn(2_000, 5, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    shares = np.array([0.4, 0.25, 0.0, 0.2, 0.15])
    temperatures = torch.tensor(albert_base.drawn_temperatures(said, shares))
    depths = exit_depths((said / temperatures[:, None]).softmax(-1), ExitRule(albert_base.THRESHOLD), 0)
    assert (torch.bincount(depths, minlength=5) / 2_000).numpy() == pytest.approx(shares, abs=0.001)


def test_an_untrained_model_leaves_by_the_exits_that_were_drawn() -> None:
    config = replace(albert_base.SHAPE, layers=3, hidden=48, feed_forward=96)
    texts = [f"share no. {n} {'rises and ' * (n % 7)}falls by {n % 13} per cent" for n in range(60)]

    def opened(dial: float, temperatures: list[float] | None = None) -> Engine:
        checkpoint = albert_base.untrained(config)
        if temperatures is not None:
            checkpoint = albert_base.with_exits(checkpoint, temperatures)
        return Engine(checkpoint, device="cpu", dial=dial, precision="float32", strategy="refill")

    full = opened(0.0)
    assert set(full.score(texts).exit_depth.tolist()) == {3}
    drawn = albert_base.drawn_temperatures(albert_base.log_probabilities(full, texts), np.array([0.5, 0.3, 0.2, 0.0]))
    depths = opened(1.0, drawn).score(texts).exit_depth
    assert np.bincount(depths, minlength=4).tolist() == pytest.approx([30, 18, 12, 0], abs=2)


@pytest.mark.parametrize("tokens", [4, 24])
def test_operations_are_those_that_torch_counts(tokens: int) -> None:
    config = Config(hidden=48, embedding=48, heads=4, feed_forward=96, layers=3, depth_zero=False)
    layer = Layer(config).train()  # where attention is not fused, and all of it is counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.zeros(1, tokens, 48), torch.ones(1, tokens, dtype=torch.bool))
    found = gpu_roofline.operations(config, np.array([tokens], np.int32), np.array([3], np.int16))
    assert found.tolist() == [3 * counter.get_total_flops()]


def test_a_fused_layer_moves_less_and_a_larger_batch_shares_its_weights() -> None:
    tokens, depth = np.array([20], np.int32), np.array([6], np.int16)
    stands, fused, crowded = (
        float(gpu_roofline.moved(albert_base.SHAPE, tokens, depth, size, fused=whether)[0])
        for size, whether in ((1_024, False), (1_024, True), (65_536, False))
    )
    assert fused < crowded < stands


def test_the_better_of_the_peers_counts() -> None:
    speeds = {f"earlybell_{name}": 10.0 for name in STRATEGIES}
    speeds |= {"earlybell_refill": 1_000.0, "albert_base_full_depth": 50.0, "albert_base_with_exits": 80.0}
    speeds |= {"bert_base_batch1_bfloat16": 4.0, "bert_base_batch1_float16": 5.0}
    speeds |= {"bert_base_batch32_bfloat16": 20.0, "bert_base_batch256_float16": 25.0}
    found = engine_gpu.ratios({name: {"texts_per_second": speed} for name, speed in speeds.items()})
    assert found["gpu_texts_per_second"] == 1_000
    assert found["gpu_vs_bert_base_batch1"] == 200
    assert found["gpu_vs_bert_base_batched_best"] == 40
    assert found["gpu_albert_base_full_depth_vs_bert_base_batched_best"] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_gpu, "SMALL", False)
    assert "no CUDA device" in (engine_gpu.missing() or "")
    monkeypatch.setattr(engine_gpu, "SMALL", True)
    assert engine_gpu.missing() is None
