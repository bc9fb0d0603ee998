from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.early_exit.token_pruning import kept_tokens, speed_up
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.training.optimise import all_logits
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


def test_the_sweep_starts_without_pruning_and_answers_as_the_model_does(
    model: ElbertForSequenceClassification, rows: list[np.ndarray], truth: np.ndarray
) -> None:
    found = sweep(model, rows, truth, wanted=(1.5, 2.0, 1000.0), precision="float32", batch_tokens=200)
    assert [one["speed_up"] for one in found] == [1.0, 1.5, 2.0], "what is out of reach is left out"
    first = found[0]
    assert first["alpha"] == first["speed_up_measured"] == first["speed_up_over_set"] == first["accuracy"] == 1.0
    for one in found[1:]:
        keep = partial(kept_tokens, alpha=one["alpha"], layers=4)
        pruned = all_logits(model, rows, precision="float32", keep=keep)
        assert one["accuracy"] == pytest.approx(np.mean(pruned[:, -1].argmax(-1) == truth), abs=0.04)
        assert one["accuracy_lost"] == pytest.approx(1 - one["accuracy"], abs=1e-4)
        assert one["speed_up_at_median"] >= one["speed_up"]
        assert one["speed_up_measured"] > 0
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters()), "the model is left as it was"


def test_dropping_in_one_layer_leaves_the_layers_before_as_they_are(
    model: ElbertForSequenceClassification, rows: list[np.ndarray], truth: np.ndarray
) -> None:
    found = by_layer(model, rows, truth, precision="float32", batch_tokens=200)
    assert [one["layer"] for one in found] == [1, 2, 3, 4]
    assert found[0]["tokens_saved"] == pytest.approx(0.5, abs=0.02)
    assert [one["tokens_saved"] for one in found] == sorted((one["tokens_saved"] for one in found), reverse=True)
    for one in found:

        def keep(lengths: torch.Tensor, layer: float = one["layer"]) -> torch.Tensor:
            half = (lengths / 2).ceil().long()
            return torch.stack([half if depth >= layer else lengths for depth in range(1, 5)], dim=1)

        expected = all_logits(model, rows, precision="float32", keep=keep)[:, -1].argmax(-1)
        assert one["accuracy"] == pytest.approx(np.mean(expected == truth), abs=0.021)
    nothing = by_layer(model, rows, truth, share=1.0, precision="float32")
    assert {(one["accuracy_lost"], one["standard_error"], one["tokens_saved"]) for one in nothing} == {(0.0, 0.0, 0.0)}


@given(lengths=st.lists(st.integers(4, 400), min_size=1, max_size=30), alpha=st.floats(0.3, 1.0))
def test_a_sets_speed_up_lies_between_those_of_its_texts(lengths: list[int], alpha: float) -> None:
    each = [speed_up(length, alpha, 6, 64) for length in lengths]
    assert min(each) - 1e-9 <= speed_up_over(lengths, alpha, 6, 64) <= max(each) + 1e-9


def test_a_set_of_one_length_has_that_lengths_speed_up() -> None:
    assert speed_up_over([77] * 5, 0.8, 12, 384) == pytest.approx(speed_up(77, 0.8, 12, 384))
