"""An ELBERT of ALBERT-base's size with random weights: what a GPU does with a wider and deeper model than is shipped.

Nothing was learned, so its exits know nothing. For a run with exits each one's temperature is chosen so that as many
texts leave there as one wants: which texts, chance says. It knows models and engines; nothing of clocks or tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.early_exit.confidence_window import ExitRule, normalised_entropy
from earlybell.inference.engine import Engine
from earlybell.inference.model.calibration import Calibration, OperatingPoint
from earlybell.inference.model.checkpoint import SHIPPED, Checkpoint, load
from earlybell.inference.model.elbert import Config, ElbertForSequenceClassification
from tests.benchmarks.every_exit import every_exit

#: ALBERT-base, arXiv 1909.11942, table 1, but for the vocabulary, which is the shipped tokenizer's.
SHAPE = Config(embedding=128, hidden=768, heads=12, feed_forward=3_072, layers=12, projection=True,
               activation="gelu_new")  # fmt: skip
#: Normalised entropy below which a text leaves.
THRESHOLD = 0.5


def untrained(config: Config) -> Checkpoint:
    """Random weights behind the shipped tokenizer; runs at full depth whatever the dial says."""
    shipped = load(SHIPPED)
    torch.manual_seed(0)
    model = ElbertForSequenceClassification(config).eval()
    calibration = Calibration.uncalibrated("albert-base-random", len(config.depths), shipped.calibration.max_tokens)
    return Checkpoint(shipped.directory, model, shipped.reader, calibration, revision="random")


def with_exits(checkpoint: Checkpoint, temperatures: Sequence[float]) -> Checkpoint:
    """The same model; at dial 1 texts leave by their entropy under these temperatures."""
    nan = float("nan")
    early = OperatingPoint(1.0, ExitRule(THRESHOLD), 1.0, accuracy=nan, accuracy_lost=nan, mean_depth=nan, cost=nan)
    old = checkpoint.calibration
    calibration = replace(old, curve=(*old.curve, early), temperatures=tuple(temperatures))
    return replace(checkpoint, calibration=calibration)


def log_probabilities(engine: Engine, texts: Sequence[str]) -> Tensor:
    """Return the log-probabilities of every exit, in the engine's own precision: (texts, exits, C) float32."""
    probabilities, _ = every_exit(engine.backend, engine.read(texts))
    return torch.from_numpy(probabilities).log()


def drawn_temperatures(said: Tensor, shares: NDArray[np.float64]) -> list[float]:
    """A temperature an exit, so that these shares of all texts leave there.

    Parameters
    ----------
    said
        (texts, exits, C) logits, or log-probabilities at temperature 1.
    shares
        (exits,) of all texts; those for whom no exit is left leave at the last.

    Returns
    -------
    temperatures
        (exits,): the lowest under which no more leave than wanted, so that the next exit finds the others.
    """
    staying = torch.ones(len(said), dtype=torch.bool)
    wanted = np.diff(np.rint(np.cumsum(shares) * len(said)), prepend=0)
    found = []
    for place in range(said.shape[1]):
        low, high = 1e-6, 1e6  # the higher the temperature, the fewer leave
        for _ in range(60):
            middle = (low * high) ** 0.5
            few = int((_leaves(said[:, place], middle) & staying).sum()) <= wanted[place]
            low, high = (low, middle) if few else (middle, high)
        found.append(high)
        staying &= ~_leaves(said[:, place], high)
    return found


def _leaves(said: Tensor, temperature: float) -> Tensor:
    return normalised_entropy((said / temperature).softmax(-1)) < THRESHOLD
