"""CUDA graphs against the same steps launched eagerly, and a text's bits alone and in a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from earlybell.inference.backends.cuda_graphs import Recorder, fetched, staged
from earlybell.inference.backends.padded import PaddedBackend
from earlybell.inference.batching.backend import Window
from earlybell.inference.batching.planning import bucket
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.engine import open_engine
from earlybell.inference.token_ids import TokenIds
from tests.inference.backends.test_slots import MODELS, assert_same, in_precision, open_backend, refill, shrink, window

CPU = torch.device("cpu")
GPUS = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3}
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16, reason="no CUDA device here that supports bfloat16")
PRECISIONS = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]


def on_gpu(model: str, pruning: Pruning, precision: torch.dtype) -> PaddedBackend:
    return in_precision(open_backend(model, "trend", pruning, device=torch.device("cuda")), precision)


@pytest.mark.parametrize("device", [CPU, *GPUS], ids=str)
def test_staged_values_can_be_fetched(device: torch.device) -> None:
    """The source may be overwritten at once: on a GPU the pinned copy belongs to torch."""
    values = np.arange(100_000).reshape(100, -1)
    results = [fetched(staged(values * factor, device) + 1) for factor in range(20)]
    for factor, result in enumerate(results):
        assert np.array_equal(result, values * factor + 1)


def test_on_a_cpu_a_recorded_step_runs_eagerly() -> None:
    calls: list[int] = []
    step = Recorder(CPU).recorded(lambda: calls.append(1))
    step()
    step()
    assert len(calls) == 2


@needs_a_gpu
@pytest.mark.parametrize("device", GPUS, ids=str)
def test_a_replay_runs_no_python(device: torch.device) -> None:
    source, target = torch.zeros(8, device=device), torch.zeros(8, device=device)
    calls: list[int] = []

    def step() -> None:
        calls.append(1)
        target.copy_(source * 2 + 1)

    recorder = Recorder(device)
    replay, before = recorder.recorded(step), len(calls)
    for value in range(5):
        source.fill_(value)
        replay()
        assert fetched(target).tolist() == [2 * value + 1] * 8
    assert len(calls) == before
    assert torch.cuda.current_stream(device) == torch.cuda.default_stream(device)


@needs_a_gpu
def test_a_step_that_cannot_be_captured_runs_eagerly() -> None:
    device = torch.device("cuda")
    total = torch.zeros((), device=device)

    def synchronize() -> None:
        total.add_(1)
        assert total.item() > 0  # a capture cannot read a value

    recorder = Recorder(device)
    step = recorder.recorded(synchronize)
    assert step is synchronize
    assert recorder.recorded(synchronize) is synchronize
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    before = total.item()
    step()
    assert total.item() == before + 1


@needs_a_gpu
def test_running_out_of_memory_while_recording_is_an_error() -> None:
    def allocate_too_much() -> None:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")

    with pytest.raises(torch.OutOfMemoryError):
        Recorder(torch.device("cuda")).recorded(allocate_too_much)


@needs_a_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("pruning", [Pruning(), Pruning(0.7)])
@pytest.mark.parametrize("model", MODELS)
def test_graphs_give_the_answers_of_eager_steps(
    model: str, pruning: Pruning, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = on_gpu(model, pruning, precision)
    windows = [window([8] * 60 + [3, 40, 21, 22, 37]), window([40, 7, 6]), window([20] * 30, seed=5)]
    with torch.inference_mode():
        graphed = [refill(backend, texts, every=every) for texts in windows for every in (1, 3)]
        slots = backend.slots.of_width(8)
        assert all(step.__name__ == "replay" for step in slots._steps), "nothing was captured"
        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "recorded", lambda self, step: step)
            eager = [refill(replace(backend), texts, every=every) for texts in windows for every in (1, 3)]
        shrunk = [shrink(backend, texts) for texts in windows for _ in (1, 3)]
    for actual, expected in zip(graphed, eager, strict=True):
        assert_same(actual, expected, TOLERANCE[precision])
    if precision == torch.float32:  # in bfloat16, kernels of other shapes may round near-ties differently
        for actual, expected in zip(graphed, shrunk, strict=True):
            assert_same(actual, expected, tolerance=1e-4)


@needs_a_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_text_has_the_same_bits_alone_and_in_a_window_on_a_gpu(model: str, precision: torch.dtype) -> None:
    backend = on_gpu(model, Pruning(0.8), precision)
    texts = window([3, 9, 30, 5, 8, 7, 8, 12, 8, 8, 6, 31, 29, 8, 7] * 4, seed=2)
    with torch.inference_mode():
        together = refill(backend, texts)
        backwards = refill(backend, Window(texts.texts[::-1], texts.predicted), every=3)
        alone = [refill(backend, Window(TokenIds.pack([ids]), texts.predicted[:1])) for ids in texts.texts]
    assert np.array_equal(together.probabilities, backwards.probabilities[::-1])
    assert np.array_equal(together.probabilities, np.concatenate([answers.probabilities for answers in alone]))
    assert together.exit_depth.tolist() == [int(answers.exit_depth[0]) for answers in alone]


@needs_a_gpu
def test_a_warm_engine_has_graphs_for_every_width_and_agrees_with_a_cpu(
    tiny_checkpoint: Path, texts: list[str]
) -> None:
    engine = open_engine("cuda", checkpoint=tiny_checkpoint, precision="float32")
    assert engine.strategy.name == "refill"
    engine.warm_up()
    assert isinstance(engine.backend, PaddedBackend)
    widths = {bucket(tokens) for tokens in range(1, engine.description.max_tokens + 1)}
    assert set(engine.backend.slots._slots) == widths
    slots = {width: engine.backend.slots.of_width(width) for width in widths}
    answers = engine.score(texts)
    assert set(engine.backend.slots._slots) == widths, "warm-up must have recorded every width"
    assert all(engine.backend.slots.of_width(width) is slots[width] for width in widths)
    expected = open_engine("cpu", checkpoint=tiny_checkpoint, precision="float32").score(texts)
    assert answers.exit_depth.tolist() == expected.exit_depth.tolist()
    assert np.abs(answers.probabilities - expected.probabilities).max() < 1e-4
