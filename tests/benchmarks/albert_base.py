"""An ELBERT of ALBERT-base's size with random weights, to measure a wider and deeper model than the shipped one.

It is untrained, so its exits mean nothing. For a run with exits, each exit's temperature is chosen so that a given
share of the texts exits there; which texts they are is random. This module knows models and engines; nothing of clocks
or tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.early_exit.confidence_window import normalised_entropy
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.engine import Engine
from earlybell.inference.model.calibration import OperatingPoint
from earlybell.inference.model.checkpoint import SHIPPED, Checkpoint, load
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from tests.benchmarks.every_exit import every_exit, uncalibrated

#: ALBERT-base, arXiv 1909.11942, table 1, with the vocabulary of the shipped tokenizer.
SHAPE = Config(embedding=128, hidden=768, heads=12, feed_forward=3_072, layers=12, projection=True,
               activation="gelu_new")  # fmt: skip
#: Normalised entropy below which a text exits.
THRESHOLD = 0.5


def untrained(config: Config) -> Checkpoint:
    """Return random weights with the shipped tokenizer; every text runs to full depth."""
    shipped = load(SHIPPED)
    torch.manual_seed(0)
    model = ElbertForSequenceClassification(config)
    calibration = uncalibrated("albert-base-random", len(config.depths), shipped.calibration.max_tokens)
    return Checkpoint(shipped.directory, config, model.weights(), shipped.reader, calibration, revision="random")


def with_exits(checkpoint: Checkpoint, temperatures: Sequence[float]) -> Checkpoint:
    """Return the same model, where at dial 1 texts exit by their entropy at these temperatures."""
    nan = float("nan")
    fast = OperatingPoint(
        1.0, ExitRule(THRESHOLD), Pruning(), accuracy=nan, accuracy_lost=nan, mean_depth=nan, cost=nan
    )
    full_depth = checkpoint.calibration
    calibration = replace(full_depth, curve=(*full_depth.curve, fast), temperatures=tuple(temperatures))
    return replace(checkpoint, calibration=calibration)


def log_probabilities(engine: Engine, texts: Sequence[str]) -> Tensor:
    """Return the log-probabilities of every exit, in the engine's own precision: (texts, exits, C) float32."""
    probabilities, _ = every_exit(engine.backend, engine.read(texts))
    return torch.from_numpy(probabilities).log()


def temperatures_for_shares(logits: Tensor, shares: NDArray[np.float64]) -> list[float]:
    """Return a temperature for each exit at which the given share of all texts exits there.

    Parameters
    ----------
    logits
        (texts, exits, C), or log-probabilities at temperature 1.
    shares
        (exits,) of all texts; the remaining texts exit at the last depth.

    Returns
    -------
    temperatures
        (exits,): at each exit, the lowest at which no more texts exit than wanted.
    """
    staying = torch.ones(len(logits), dtype=torch.bool)
    wanted = np.diff(np.rint(np.cumsum(shares) * len(logits)), prepend=0)
    temperatures = []
    for exit_ in range(logits.shape[1]):
        low, high = 1e-6, 1e6  # the higher the temperature, the fewer texts exit
        for _ in range(60):
            middle = (low * high) ** 0.5
            few_enough = int((_exits(logits[:, exit_], middle) & staying).sum()) <= wanted[exit_]
            low, high = (low, middle) if few_enough else (middle, high)
        temperatures.append(high)
        staying &= ~_exits(logits[:, exit_], high)
    return temperatures


def _exits(logits: Tensor, temperature: float) -> Tensor:
    return normalised_entropy((logits / temperature).softmax(-1)) < THRESHOLD
