"""The settings of the model reach the engine and the pool."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from earlybell.inference.engine import Engine
from earlybell.inference.kernels import library
from earlybell.streams.exceptions import CommandError
from earlybell.streams.model import open_pool, scorer
from earlybell.streams.settings import Settings, load_settings

TEXTS = [
    "Acme profit soars to a record",
    "Borealis warns of losses as orders dry up and two plants close",
    "Meridian Freight to hold its annual meeting in May",
    "Shares fall",
]


def opened() -> Engine:
    """Open the engine that the environment's settings describe, as a worker does."""
    engine = pickle.loads(pickle.dumps(scorer(load_settings())))("cpu")
    assert isinstance(engine, Engine)
    return engine


def test_exact_gives_a_text_the_same_bits_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARLYBELL_PRECISION", "float32")
    monkeypatch.setenv("EARLYBELL_EXACT", "true")
    engine = opened()
    assert engine.description.arithmetic.startswith("float32.cpu.torch")
    assert engine.description.arithmetic.endswith(".exact")
    together = engine.score(TEXTS).probabilities
    assert np.array_equal(together, np.concatenate([engine.score([text]).probabilities for text in TEXTS]))


def test_without_it_float32_does_not_promise_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARLYBELL_PRECISION", "float32")
    engine = opened()
    assert not engine.strategy.exact
    assert "exact" not in engine.description.arithmetic


@pytest.mark.skipif(library.load() is None, reason="int8 kernels are not available here")
def test_a_cpu_computes_in_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EARLYBELL_PRECISION", raising=False)
    assert opened().description.arithmetic.startswith("int8.")


@pytest.mark.parametrize(
    ("labels", "served"),
    [(("negative", "positive"), True), (("positive", "neutral", "negative"), True), (("up",), False)],
)
def test_only_labels_of_the_contract_are_served(
    monkeypatch: pytest.MonkeyPatch, labels: tuple[str, ...], served: bool
) -> None:
    answering = SimpleNamespace(description=SimpleNamespace(labels=labels))
    monkeypatch.setattr("earlybell.inference.engine.open_engine", lambda *_, **__: answering)
    if served:
        assert scorer(Settings())("cpu") is answering
    else:
        with pytest.raises(CommandError, match="serve a model whose labels are among negative, neutral, positive"):
            scorer(Settings())("cpu")


@pytest.mark.parametrize("mixed", [False, True])
def test_mixed_arithmetic_reaches_the_pool(mixed: bool) -> None:
    assert open_pool(Settings(mixed_arithmetic=mixed))._limits.mixed_arithmetic is mixed
