"""Fixed slots against batches that shrink: the same answers in any slot, and the same bits alone and in a window."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from earlybell.inference.backends.cuda_graphs import Step
from earlybell.inference.backends.padded import PaddedBackend
from earlybell.inference.backends.slots import MAX_WIDTHS, Slots
from earlybell.inference.batching.backend import Answers, Window
from earlybell.inference.batching.strategies import STRATEGIES
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.token_ids import TokenIds
from tests.inference.tiny_models import outspoken, tiny

CPU = torch.device("cpu")
RULES = {
    "never": ExitRule(),
    "confidence": ExitRule(0.8),
    "agreement": ExitRule(0.5, "agreement", 2, 0.1),
    "trend": ExitRule(0.5, "trend", 2),
}
MODELS: dict[str, dict[str, Any]] = {
    "one group": {},
    "two groups of two": {"groups": 2, "inner_layers": 2},
    "a group a depth": {"groups": 4},
    "three groups, unequal": {"groups": 3},
    "one head, no exit at 0": {"shared_head": True, "depth_zero": False},
    "CLS alone": {"head": "cls"},
}


PRUNING = (Pruning(), Pruning(0.7), Pruning(0.7, from_tokens=18))


@cache
def open_backend(name: str, rule: str, pruning: Pruning, tokens: int = 64, device: torch.device = CPU) -> PaddedBackend:
    model = outspoken(tiny(**MODELS[name]), seed=3).to(device)
    exits = [(1.0, 0.0), (1.5, 0.2), (0.8, 0.1), (1.2, 0.0), (1.0, 0.3)]
    tempering = torch.tensor(exits, device=device)[5 - len(model.config.depths) :]
    return PaddedBackend(model, RULES[rule], tempering, pruning, device, tokens)


def refill(backend: PaddedBackend, window: Window, every: int = 1) -> Answers:
    if every != backend.refill_every:
        backend = replace(backend, refill_every=every)
    return STRATEGIES["refill"].run(backend, window)


def shrink(backend: PaddedBackend, window: Window) -> Answers:
    return STRATEGIES["shrink"].run(backend, window)


def in_precision(backend: PaddedBackend, precision: torch.dtype) -> PaddedBackend:
    model = outspoken(backend.config, seed=3).to(backend.device)
    model.embedding.to(precision)
    model.layers.to(precision)
    return replace(backend, model=model)


def window(lengths: list[int], seed: int = 0) -> Window:
    generator = np.random.default_rng(seed)
    texts = TokenIds.pack(generator.integers(5, 64, length).astype(np.int32) for length in lengths)
    return Window(texts, generator.random(len(texts)).astype(np.float32) * 4)


@settings(max_examples=60)
@given(data=st.data(), model=st.sampled_from(list(MODELS)), rule=st.sampled_from(list(RULES)),
       pruning=st.sampled_from(PRUNING), every=st.integers(1, 5))  # fmt: skip
def test_slots_give_the_answers_of_shrinking_batches(
    data: st.DataObject, model: str, rule: str, pruning: Pruning, every: int
) -> None:
    """Queues shorter and longer than a load; loads of one row and of many; pruning on and off."""
    tokens = data.draw(st.sampled_from([8, 64, 1_000]), "tokens of a load")
    texts = window(data.draw(st.lists(st.integers(2, 40), min_size=1, max_size=50), "lengths"), seed=1)
    with torch.inference_mode():
        refilled = refill(open_backend(model, rule, pruning, tokens), texts, every=every)
        shrunk = shrink(open_backend(model, rule, pruning, tokens), texts)
    assert_same(refilled, shrunk, tolerance=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_text_has_the_same_bits_alone_and_in_a_window(model: str, precision: torch.dtype) -> None:
    texts = window([3, 9, 30, 5, 8, 7, 8, 12, 8, 8, 6, 31, 29, 8, 7], seed=2)
    backend = in_precision(open_backend(model, "trend", Pruning(0.8)), precision)
    with torch.inference_mode():
        together = refill(backend, texts)
        backwards = refill(backend, Window(texts.texts[::-1], texts.predicted), every=3)
        alone = [refill(backend, Window(TokenIds.pack([ids]), texts.predicted[:1])) for ids in texts.texts]
    assert len(set(together.exit_depth.tolist())) > 1, "texts must exit at different depths"
    assert np.array_equal(together.probabilities, backwards.probabilities[::-1])
    assert np.array_equal(together.probabilities, np.concatenate([answers.probabilities for answers in alone]))
    assert together.exit_depth.tolist() == [int(answers.exit_depth[0]) for answers in alone]


@pytest.mark.parametrize("model", ["one group", "a group a depth"])
def test_no_row_idles_before_the_queue_runs_dry(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[tuple[str, int]] = []
    admit, deepen = Slots.admit, Slots.deepen

    def admitted(self: Slots, slots: NDArray[np.int64], *others: NDArray[np.int64]) -> None:
        loads.append(("admit", len(slots)))
        admit(self, slots, *others)  # type: ignore[arg-type]

    def deepened(self: Slots, group: int, slots: NDArray[np.int64], *others: NDArray[np.int64]) -> None:
        loads.append(("deepen", len(slots)))
        deepen(self, group, slots, *others)

    monkeypatch.setattr(Slots, "admit", admitted)
    monkeypatch.setattr(Slots, "deepen", deepened)
    with torch.inference_mode():
        answers = refill(open_backend(model, "confidence", Pruning()), window([8] * 83))
    assert len(set(answers.exit_depth.tolist())) > 2
    last_admission = max(index for index, (step, _) in enumerate(loads) if step == "admit")
    assert last_admission > 10
    assert {size for _, size in loads[:last_admission]} == {8}, "64 tokens are 8 rows of 8"
    assert sum(size for step, size in loads if step == "admit") == 83
    assert sum(size for step, size in loads if step == "deepen") == answers.exit_depth.sum()


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A CUDA graph on any device: record a step's operations once, then repeat them on the same memory.

    As in a capture, a step must not read a value, make a tensor from Python numbers, or let a shape depend on values.
    """

    FORBIDDEN = ("_local_scalar_dense", "lift_fresh", "lift_fresh_copy", "nonzero", "masked_select", "unique", "equal")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"{name} cannot be captured"
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        assert not masks, "indexing by a mask cannot be captured"
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def recorded(self, step: Step) -> Step:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        with self:
            step()
        operations = self.operations

        def replay() -> None:
            self.replays += 1
            for func, args, kwargs, result in operations:
                new_result = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(new_result), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return replay


@pytest.mark.parametrize("rule", ["confidence", "trend"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("pruning", "precision"), [(Pruning(), torch.bfloat16), (Pruning(0.7), torch.float32)])
def test_steps_can_be_captured_and_replayed(
    model: str, rule: str, pruning: Pruning, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "earlybell.inference.model.elbert.pays_fused", lambda device, tokens: tokens > 20
    )  # as on a GPU
    tape = Tape()
    monkeypatch.setattr("earlybell.inference.backends.slots.Recorder", lambda device: tape)
    backend = in_precision(open_backend(model, rule, pruning), precision)
    windows = [window([8] * 30 + [3, 40, 21, 22, 37]), window([40, 7, 6]), window([20] * 9, seed=5)]
    with torch.inference_mode():
        replayed = [refill(backend, texts, every=every) for texts in windows for every in (1, 2)]
        assert tape.replays > 20
        shrunk = [shrink(backend, texts) for texts in windows for _ in (1, 2)]
    for actual, expected in zip(replayed, shrunk, strict=True):
        assert_same(actual, expected, tolerance=1e-5 if precision == torch.float32 else 1e-3)


def test_slots_keep_their_addresses() -> None:
    """A graph reads and writes the addresses that it was captured with."""
    backend = replace(open_backend("two groups of two", "trend", Pruning(0.7)))
    slots = backend.slots.of_width(8)
    addresses = addresses_of(slots)
    window_addresses = addresses_of(slots._window)
    assert {"_x", "_plan", "_ids", "_outcome"} <= set(addresses)
    assert set(window_addresses) == {"run", "label", "lead"}
    with torch.inference_mode():
        refill(backend, window([8] * 40 + [30] * 10 + [5] * 9))
    assert backend.slots.of_width(8) is slots
    assert addresses_of(slots) == addresses
    assert addresses_of(slots._window) == window_addresses


def addresses_of(owner: object) -> dict[str, int]:
    return {name: value.data_ptr() for name, value in vars(owner).items() if isinstance(value, torch.Tensor)}


def test_a_failed_window_does_not_affect_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = replace(open_backend("one group", "trend", Pruning()))
    texts = window([8] * 30)
    with torch.inference_mode():
        expected = refill(backend, texts)
        with monkeypatch.context() as patch:
            calls = iter(range(100))
            outcome = Slots.outcome

            def failing_outcome(self: Slots) -> NDArray[np.float32]:
                if next(calls) == 3:
                    raise torch.OutOfMemoryError("out of memory")
                return outcome(self)

            patch.setattr(Slots, "outcome", failing_outcome)
            with pytest.raises(torch.OutOfMemoryError):
                refill(backend, texts)
        assert_same(refill(backend, texts), expected, tolerance=0.0)


def test_more_widths_than_are_kept_are_answered_too() -> None:
    backend = replace(open_backend("one group", "trend", Pruning()), model=outspoken(tiny(positions=1_500), seed=3))
    texts = window([8, 1_200, *range(40, 1_400, 32)], seed=4)
    assert len(texts.texts) > MAX_WIDTHS
    with torch.inference_mode():
        actual = refill(backend, texts)
        expected = shrink(backend, texts)
    assert_same(actual, expected, tolerance=1e-5)


def assert_same(actual: Answers, expected: Answers, tolerance: float) -> None:
    assert actual.exit_depth.tolist() == expected.exit_depth.tolist()
    assert actual.tokens_kept.tolist() == expected.tokens_kept.tolist()
    assert np.abs(actual.probabilities - expected.probabilities).max() <= tolerance
