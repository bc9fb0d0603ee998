"""On a GPU: graphs against the same steps launched one by one, and a text's bits alone and in a crowd."""

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
from earlybell.inference.engine import open_engine
from tests.inference.backends.test_slots import MODELS, backend, in_precision, refill, same, shrink, window

CPU = torch.device("cpu")
GPUS = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3}
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
halves = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
needs_bfloat16 = pytest.mark.skipif(not halves, reason="no CUDA device here that computes in bfloat16")
PRECISIONS = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]


def on_gpu(model: str, alpha: float, precision: torch.dtype) -> PaddedBackend:
    return in_precision(backend(model, "trend", alpha, device=torch.device("cuda")), precision)


@pytest.mark.parametrize("device", [CPU, *GPUS], ids=str)
def test_what_is_staged_comes_back(device: torch.device) -> None:
    """The buffer that a copy was made from may be filled anew at once on a GPU: the pinned copy is torch's."""
    values = np.arange(100_000).reshape(100, -1)
    back = [fetched(staged(values * factor, device) + 1) for factor in range(20)]
    for factor, found in enumerate(back):
        assert np.array_equal(found, values * factor + 1)


def test_on_a_cpu_a_step_is_called_each_time() -> None:
    calls: list[int] = []
    step = Recorder(CPU).recorded(lambda: calls.append(1))
    step()
    step()
    assert len(calls) == 2


@needs_a_gpu
@pytest.mark.parametrize("device", GPUS, ids=str)
def test_a_recorded_step_runs_without_python(device: torch.device) -> None:
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
def test_what_cannot_be_captured_is_launched_kernel_by_kernel() -> None:
    device = torch.device("cuda")
    total = torch.zeros((), device=device)

    def waits() -> None:
        total.add_(1)
        assert total.item() > 0  # a capture cannot look at a value

    recorder = Recorder(device)
    step = recorder.recorded(waits)
    assert step is waits
    assert recorder.recorded(waits) is waits
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    before = total.item()
    step()
    assert total.item() == before + 1


@needs_a_gpu
def test_memory_that_runs_out_in_recording_is_said() -> None:
    def greedy() -> None:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")

    with pytest.raises(torch.OutOfMemoryError):
        Recorder(torch.device("cuda")).recorded(greedy)


@needs_a_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("alpha", [1.0, 0.7])
@pytest.mark.parametrize("model", MODELS)
def test_graphs_answer_as_single_launches_do(
    model: str, alpha: float, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphed = on_gpu(model, alpha, precision)
    texts = [window([8] * 60 + [3, 40, 21, 22, 37]), window([40, 7, 6]), window([20] * 30, seed=5)]
    with torch.inference_mode():
        found = [refill(graphed, one, every=every) for one in texts for every in (1, 3)]
        slots = graphed.slots.of_width(8)
        assert all(step.__name__ == "replay" for step in slots._steps), "nothing was captured"
        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "recorded", lambda self, step: step)
            single = [refill(replace(graphed), one, every=every) for one in texts for every in (1, 3)]
        shrunk = [shrink(graphed, one) for one in texts for _ in (1, 3)]
    for one, other in zip(found, single, strict=True):
        same(one, other, TOLERANCE[precision])
    if precision == torch.float32:  # in bfloat16 kernels of other shapes may round a near-tie otherwise
        for one, other in zip(found, shrunk, strict=True):
            same(one, other, tolerance=1e-4)


@needs_a_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_a_text_has_the_same_bits_alone_and_in_a_crowd_on_a_gpu(model: str, precision: torch.dtype) -> None:
    made = on_gpu(model, 0.8, precision)
    texts = window([3, 9, 30, 5, 8, 7, 8, 12, 8, 8, 6, 31, 29, 8, 7] * 4, seed=2)
    with torch.inference_mode():
        together = refill(made, texts)
        backwards = refill(made, Window(texts.texts[::-1], texts.predicted), every=3)
        alone = [refill(made, Window([row], texts.predicted[:1])) for row in texts.texts]
    assert np.array_equal(together.probabilities, backwards.probabilities[::-1])
    assert np.array_equal(together.probabilities, np.concatenate([one.probabilities for one in alone]))
    assert together.exit_depth.tolist() == [int(one.exit_depth[0]) for one in alone]


@needs_a_gpu
def test_a_warm_engine_has_a_graph_of_every_width_and_answers_as_a_cpu_does(
    tiny_checkpoint: Path, texts: list[str]
) -> None:
    engine = open_engine("cuda", checkpoint=tiny_checkpoint, precision="float32")
    assert engine.strategy.name == "refill"
    engine.warm_up()
    assert isinstance(engine.backend, PaddedBackend)
    widths = {bucket(tokens) for tokens in range(1, engine.description.max_tokens + 1)}
    assert engine.backend.slots.widths == widths
    slots = {width: engine.backend.slots.of_width(width) for width in widths}
    found = engine.score(texts)
    assert engine.backend.slots.widths == widths, "no width was recorded after the warm-up"
    assert all(engine.backend.slots.of_width(width) is slots[width] for width in widths)
    expected = open_engine("cpu", checkpoint=tiny_checkpoint, precision="float32").score(texts)
    assert found.exit_depth.tolist() == expected.exit_depth.tolist()
    assert np.abs(found.probabilities - expected.probabilities).max() < 1e-4
