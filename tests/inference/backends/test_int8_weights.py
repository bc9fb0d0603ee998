"""The compiled int8 kernels against the model in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from earlybell.inference.backends.int8_weights import activation_terms, is_supported
from earlybell.inference.kernels import library
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from tests.inference.backends.stepwise import Stepwise

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels here")

SHAPES = {
    "headlines": Config(vocabulary=200, embedding=64, hidden=64, heads=2, feed_forward=256, layers=3),
    "factorised": Config(vocabulary=200, embedding=32, hidden=96, heads=6, feed_forward=160, layers=3, projection=True,
                         activation="gelu_new", head="cls", head_hidden=48, shared_head=True, depth_zero=False),
    "wide heads": Config(vocabulary=200, embedding=128, hidden=128, heads=2, feed_forward=80, layers=2, groups=2,
                         activation="relu", head_hidden=16),
    "odd heads": Config(vocabulary=200, embedding=48, hidden=48, heads=3, feed_forward=64, layers=2, inner_layers=2),
    "three vectors a head": Config(vocabulary=200, embedding=96, hidden=96, heads=2, feed_forward=64, layers=1),
    "filters": Config(vocabulary=200, embedding=64, hidden=64, heads=2, feed_forward=64, layers=2, head="cls",
                      depth_zero_filters=80),
}  # fmt: skip


def model_of(config: Config) -> ElbertForSequenceClassification:
    torch.manual_seed(7)
    model = ElbertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.mul_(4.0)
            elif "bias" in name:
                value.normal_(std=0.1)
    return model


def texts_of(lengths: list[int]) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(1, 200, length, dtype=np.int32) for length in lengths]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_depth_is_close_to_the_model_in_float32(shape: str) -> None:
    config = SHAPES[shape]
    model = model_of(config)
    stepwise = Stepwise(model)
    texts = texts_of([2, 7, 16, 17, 33, 1, 130])
    packed = stepwise.embed(texts)
    for depth in range(config.layers + 1):
        if depth:
            stepwise.deepen(packed, model.config.group_at(depth))
        start = 0
        for row, text in enumerate(texts):
            with torch.inference_mode():
                ids = torch.from_numpy(text.astype(np.int64))[None]
                live = torch.ones_like(ids, dtype=torch.bool)
                x = model.embed(ids)
                for level in range(1, depth + 1):
                    x, live = model.deepen(x, live, level)
                states = packed.hidden[start : start + len(text)]
                assert np.sqrt(np.mean((states - x[0].numpy()) ** 2)) < (0.05 if depth else 0.02) * float(x.std())
                if depth in config.depths:
                    logits = model.exit_logits(x, live, depth)[0].numpy()
                    assert stepwise.logits(packed, depth)[row] == pytest.approx(logits, abs=0.1)
            start += len(text)


def test_the_exits_compute_in_float32() -> None:
    """At depth 0 nothing is quantised (there is no projection), so the only difference is rounding."""
    model = model_of(SHAPES["headlines"])
    stepwise = Stepwise(model)
    texts = texts_of([5, 9, 40, 3, 8, 12, 7])
    all_logits = stepwise.logits(stepwise.embed(texts), 0)
    for text, logits in zip(texts, all_logits, strict=True):
        ids = torch.from_numpy(text.astype(np.int64))[None]
        with torch.inference_mode():
            expected = model.exit_logits(model.embed(ids), torch.ones_like(ids, dtype=torch.bool), 0)[0]
        assert logits == pytest.approx(expected.numpy(), abs=2e-5)


def test_depth_zero_filters_are_close_to_the_model_and_do_not_depend_on_other_texts() -> None:
    """A text of one token has no neighbours, one of 130 is longer than a tile, and end tokens have one neighbour."""
    model = model_of(SHAPES["filters"])
    stepwise = Stepwise(model)
    texts = texts_of([1, 2, 3, 130, 16, 95, 1, 40, 96, 97, *range(1, 30)])
    together = stepwise.logits(stepwise.embed(texts), 0)
    for text, logits in zip(texts, together, strict=True):
        assert np.array_equal(stepwise.logits(stepwise.embed([text]), 0)[0], logits)
        ids = torch.from_numpy(text.astype(np.int64))[None]
        with torch.inference_mode():
            expected = model.exit_logits(model.embed(ids), torch.ones_like(ids, dtype=torch.bool), 0)[0]
        assert logits == pytest.approx(expected.numpy(), abs=0.05)
    backwards = stepwise.logits(stepwise.embed(texts[::-1]), 0)
    assert np.array_equal(backwards[::-1], together)
    with torch.no_grad():
        model.exit_zero.filters.bias.sub_(1e3)  # type: ignore[union-attr]
    silenced = Stepwise(model)
    assert (np.abs(silenced.logits(silenced.embed(texts), 0) - together).max(1) > 0.1).all()


def test_pruning_keeps_the_tokens_that_float32_keeps() -> None:
    model = model_of(SHAPES["headlines"])
    stepwise = Stepwise(model)
    texts = texts_of([30, 12, 2, 64])
    keep = np.array([18, 12, 2, 20], np.int32)
    packed = stepwise.embed(texts)
    stepwise.deepen(packed, 0, keep)
    assert packed.lengths.tolist() == keep.tolist()
    start, same, total = 0, 0.0, 0
    for text, kept in zip(texts, keep.tolist(), strict=True):
        ids = torch.from_numpy(text.astype(np.int64))[None]
        with torch.inference_mode():
            live = torch.ones_like(ids, dtype=torch.bool)
            x, _ = model.deepen(model.embed(ids), live, 1, torch.tensor([kept]))
        close = np.abs(packed.hidden[start : start + kept] - x[0].numpy()).max(1) < 0.3
        same, total, start = same + close.sum(), total + kept, start + kept
    # If two tokens contribute almost equally, int8 may keep the other one, and later tokens shift.
    assert same / total > 0.8


def test_texts_that_stay_are_packed_in_order() -> None:
    stepwise = Stepwise(model_of(SHAPES["headlines"]))
    texts = texts_of([4, 1, 9, 3])
    packed = stepwise.embed(texts)
    before = packed.hidden.copy()
    stepwise.compact(packed, np.array([False, True, False, True]))
    assert packed.lengths.tolist() == [1, 3]
    assert np.array_equal(packed.hidden[:4], before[[4, 14, 15, 16]])
    stepwise.compact(packed, np.array([False, False]))
    assert len(packed.lengths) == 0


@pytest.mark.parametrize("name", ["gelu", "gelu_new"])
def test_the_polynomial_approximates_the_activation(name: str) -> None:
    clamp, terms = activation_terms(name)
    values = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    z = values.clamp(-clamp, clamp)
    polynomial = values * (0.5 + z * sum(term * z ** (2 * power) for power, term in enumerate(terms)))
    exact = torch.nn.functional.gelu(values, approximate="none" if name == "gelu" else "tanh")
    assert float(((polynomial - exact) / (1 + values.abs())).abs().max()) < 3e-5


def test_a_shape_that_does_not_fill_vectors_is_not_supported() -> None:
    config = Config(vocabulary=20, embedding=40, hidden=40, heads=4, feed_forward=64)
    assert not is_supported(config)
    with pytest.raises(ValueError, match="multiples of 16"):
        Stepwise(ElbertForSequenceClassification(config))
