from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.early_exit.token_pruning import Pruning, speed_up
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.training.optimise import all_logits, keep_of
from earlybell.inference.training.pruning import by_layer, speed_up_over, sweep
from tests.inference.tiny_models import outspoken, tiny


@pytest.fixture(scope="module")
def model() -> ElbertForSequenceClassification:
    return outspoken(tiny(), seed=3)


@pytest.fixture(scope="module")
def rows() -> list[np.ndarray]:
    generator = np.random.default_rng(4)
    return [generator.integers(5, 40, generator.integers(8, 60)).astype(np.int32) for _ in range(50)]


@pytest.fixture(scope="module")
def truth(model: ElbertForSequenceClassification, rows: list[np.ndarray]) -> np.ndarray:
    answers: np.ndarray = all_logits(model, rows, precision="float32")[:, -1].argmax(-1)
    return answers


def test_the_sweep_starts_without_pruning_and_agrees_with_the_model(
    model: ElbertForSequenceClassification, rows: list[np.ndarray], truth: np.ndarray
) -> None:
    points = sweep(model, rows, truth, speed_ups=(1.5, 2.0, 1000.0), precision="float32", batch_tokens=200)
    assert [point["speed_up"] for point in points] == [1.0, 1.5, 2.0], "1000 is out of reach"
    first = points[0]
    assert first["alpha"] == first["speed_up_measured"] == first["speed_up_over_set"] == first["accuracy"] == 1.0
    for point in points[1:]:
        keep = partial(keep_of, pruning=Pruning(point["alpha"]), layers=4)
        pruned = all_logits(model, rows, precision="float32", keep=keep)
        assert point["accuracy"] == pytest.approx(np.mean(pruned[:, -1].argmax(-1) == truth), abs=0.04)
        assert point["accuracy_lost"] == pytest.approx(1 - point["accuracy"], abs=1e-4)
        assert point["speed_up_at_median"] >= point["speed_up"]
        assert point["speed_up_measured"] > 0
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters()), "the model is unchanged"


def test_pruning_in_one_layer_leaves_earlier_layers_unchanged(
    model: ElbertForSequenceClassification, rows: list[np.ndarray], truth: np.ndarray
) -> None:
    points = by_layer(model, rows, truth, precision="float32", batch_tokens=200)
    assert [point["layer"] for point in points] == [1, 2, 3, 4]
    assert points[0]["tokens_saved"] == pytest.approx(0.5, abs=0.02)
    assert [point["tokens_saved"] for point in points] == sorted(
        (point["tokens_saved"] for point in points), reverse=True
    )
    for point in points:

        def keep(lengths: torch.Tensor, layer: float = point["layer"]) -> torch.Tensor:
            half = (lengths / 2).ceil().long()
            return torch.stack([half if depth >= layer else lengths for depth in range(1, 5)], dim=1)

        expected = all_logits(model, rows, precision="float32", keep=keep)[:, -1].argmax(-1)
        assert point["accuracy"] == pytest.approx(np.mean(expected == truth), abs=0.021)
    unpruned = by_layer(model, rows, truth, share=1.0, precision="float32")
    assert {(point["accuracy_lost"], point["standard_error"], point["tokens_saved"]) for point in unpruned} == {
        (0.0, 0.0, 0.0)
    }


@given(lengths=st.lists(st.integers(4, 400), min_size=1, max_size=30), alpha=st.floats(0.3, 1.0))
def test_the_speed_up_of_a_set_lies_between_those_of_its_texts(lengths: list[int], alpha: float) -> None:
    speed_ups = [speed_up(length, alpha, 6, 64) for length in lengths]
    assert min(speed_ups) - 1e-9 <= speed_up_over(lengths, alpha, 6, 64) <= max(speed_ups) + 1e-9


def test_a_set_of_equal_lengths_has_the_speed_up_of_that_length() -> None:
    assert speed_up_over([77] * 5, 0.8, 12, 384) == pytest.approx(speed_up(77, 0.8, 12, 384))
